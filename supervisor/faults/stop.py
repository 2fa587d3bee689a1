"""The fault that stops units and keeps them down for a while."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.engines.fleet import Desired
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.kill import Ending
from supervisor.faults.units import UnitFault, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration


class Stop(UnitFault):
    """Stop units in order, all together; they stay down for `hold`, whatever their watchdogs would do, and are started again."""

    key: ClassVar[str] = "stop"

    stop: Selector = Field(description="The units to stop.")
    stop_timeout: Duration | None = Field(
        None,
        description="How long they may take to stop before they are killed; left out: each unit's own time.",
    )
    signal: Ending | None = Field(
        None, description="Sent in place of each unit's own stop signal; left out: that one."
    )
    hold: Duration = Field(gt=0, description="How long they stay down.")

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take all units over, then stop them."""
        fleet, by, units = world.fleet, intent.episode, [target.unit for target in intent.targets]

        async def take_down(unit: str) -> None:
            await fleet.hold(unit, by=by, desired=Desired.DOWN)
            await fleet.stop(unit, by=by, timeout=self.stop_timeout, signal=self.signal)

        await together(units, lambda unit: fleet.hold(unit, by=by, desired=Desired.UP))
        await together(units, take_down)
