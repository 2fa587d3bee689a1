"""What an operator does to a unit by hand: takes it over until he gives it back. No kind of the soak file."""

from __future__ import annotations

import random
from typing import Any, ClassVar, Final, Literal

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired
from supervisor.faults.base import Aim, Fault, World
from supervisor.faults.units import HURRY, bring_back, ours, still, survivors, together
from supervisor.journal.events import FaultIntent

As = Literal["up", "down"]

WAS: Final = "was"
"""What the intent's `undo` has of how the unit was found: `up` or `down`."""
AS: Final = "as"
"""And of how it is to be while it is held: `up`, `down`, or None, as it is."""


class Hold(Fault):
    """One unit, held as it is, up or down: no watchdog restarts it, no fault chooses it."""

    key: ClassVar[str] = "unit_hold"
    in_targets: ClassVar[bool] = False

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Nothing draws it."""
        raise NotImplementedError

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take the unit over, and bring it into the state that is asked for."""
        fleet, by, unit = world.fleet, intent.episode, intent.targets[0].unit
        wanted = intent.undo[AS] or intent.undo[WAS]
        await fleet.hold(unit, by=by, desired=Desired.UP if wanted == "up" else Desired.DOWN)
        if intent.undo[AS] == "down":
            await fleet.stop(unit, by=by)
        elif intent.undo[AS] == "up":
            await fleet.start(unit, by=by)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Give it back. What was taken down is started, what was brought up stays up; any other state is its watchdog's business."""
        fleet, by, told = world.fleet, intent.episode, survivors(world, intent)

        async def give_back(unit: str) -> None:
            if intent.undo[AS] == "down" and intent.undo[WAS] == "up":
                if fleet.status(unit).desired is Desired.DOWN or unit in told:
                    await fleet.stop(unit, by=by, timeout=HURRY)
                await bring_back(fleet, unit, by=by)
            await fleet.release(unit, by=by)

        with still("down", "start them"):
            await together(ours(world, intent), give_back)


HOLD: Final = Hold.model_validate({"hold": "9999d"})
"""It is held until it is released, which cuts the episode short."""


def terms(state: UnitState, wanted: As | None) -> dict[str, Any]:
    """Return what undo has to know of a unit that is seen in this state."""
    return {WAS: "up" if state in {UnitState.UP, UnitState.PAUSED} else "down", AS: wanted}
