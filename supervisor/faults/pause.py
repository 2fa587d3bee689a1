"""The fault that freezes units for a while."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.engines.base import UnitState
from supervisor.engines.capabilities import CanPause
from supervisor.engines.fleet import Desired
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.units import UnitFault, ours, still, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration


class Pause(UnitFault):
    """Freeze units, all together, for `hold`: they answer nothing and close nothing, as a machine does that swaps or hangs.

    A unit that ends while it is frozen cuts the episode short, and its watchdog has it back at once afterwards.
    """

    key: ClassVar[str] = "pause"
    needs = CanPause

    pause: Selector = Field(description="The units to freeze.")
    hold: Duration = Field(gt=0, description="How long they stay frozen.")

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take all units over, then freeze them."""
        fleet, by, units = world.fleet, intent.episode, [target.unit for target in intent.targets]
        await together(units, lambda unit: fleet.hold(unit, by=by, desired=Desired.PAUSED))
        await together(units, lambda unit: fleet.pause(unit, by=by))

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Let go on what is frozen, and let all of them go. One that has ended is its watchdog's."""
        fleet, by = world.fleet, intent.episode

        async def mend(unit: str) -> None:
            await fleet.hold(unit, by=by, desired=Desired.UP)
            # Looked at: an inject that was cut off in the midst may have frozen what nobody has seen frozen yet.
            if (await fleet.look(unit)).observed.state is UnitState.PAUSED:
                await fleet.resume(unit, by=by)
            await fleet.release(unit, by=by)

        with still("frozen", "let them go on"):
            await together(ours(world, intent), mend)
