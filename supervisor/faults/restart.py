"""The fault that stops units together and starts them again."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.engines.fleet import Desired
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.units import AtOnce, bring_back, together
from supervisor.journal.events import FaultIntent


class Restart(AtOnce):
    """Stop units in order, all together, and start them again as soon as all are down.

    Inject ends when all processes run; whether they are ready, and the system with them, is for the steady state to say. Units that
    are not up when it is their turn are left alone: they are their watchdog's.
    """

    key: ClassVar[str] = "restart"
    over: ClassVar[str] = "is over once the units run again"
    renews: ClassVar[bool] = True

    restart: Selector = Field(description="The units to restart.")

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take all units over, stop them, start them, let them go."""
        fleet, by, units = world.fleet, intent.episode, [target.unit for target in intent.targets]

        async def take_down(unit: str) -> None:
            await fleet.hold(unit, by=by, desired=Desired.DOWN)
            await fleet.stop(unit, by=by)

        await together(units, lambda unit: fleet.hold(unit, by=by, desired=Desired.UP))
        await together(units, take_down)
        await together(units, lambda unit: bring_back(fleet, unit, by=by))
