"""The fault that sends units a signal and leaves the rest to their watchdogs."""

from __future__ import annotations

import signal as signals
from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from supervisor.engines.base import GoneError
from supervisor.engines.member import REQUESTS
from supervisor.engines.process import Signal
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.units import HURRY, AtOnce, still, survivors, together
from supervisor.journal.events import FaultIntent

_FREEZES: Final = frozenset({signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU})


def _ends(signal: signals.Signals) -> signals.Signals:
    if signal in _FREEZES:
        raise ValueError(f"{signal.name} freezes a process until somebody lets it go on: use pause instead")
    return signal


Ending = Annotated[Signal, AfterValidator(_ends)]
"""A signal that may end a unit."""


class Kill(AtOnce):
    """Send units a signal, all at the same time. Nobody holds them: bringing them back is what their watchdogs are for.

    A unit that no watchdog keeps up is started by undo.
    """

    key: ClassVar[str] = "kill"
    in_targets: ClassVar[bool] = False
    lingers: ClassVar[bool] = True

    kill: Selector = Field(description="The units that get the signal.")
    signal: Ending = Field(
        signals.SIGKILL, description="The signal; SIGKILL ends a unit's whole process group."
    )

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Send it."""
        fleet, by, units = world.fleet, intent.episode, [target.unit for target in intent.targets]
        await together(units, lambda unit: fleet.kill(unit, by=by, signal=self.signal))

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Start what is down and has nobody who would."""
        told = () if self.signal in REQUESTS else survivors(world, intent)
        with still("down", "start them"):
            await start_unwatched(world, intent, told, spared=_ended_later(world, intent))


def _ended_later(world: World, intent: FaultIntent) -> set[str]:
    """Return the targets that have lived again and ended since, in recovery, not by the signal: their engine knows whose will that was.

    It puts units back once all is undone, and starts what ought to run.
    """
    if not world.recovering:
        return set()
    before = {target.unit: target.incarnation for target in intent.targets}
    last = {unit: world.fleet.status(unit).observed.last for unit in before if unit in world.fleet.ids}
    return {unit for unit, life in last.items() if life not in {None, before[unit]}}


async def start_unwatched(
    world: World, intent: FaultIntent, told: Collection[str], *, spared: Collection[str] = ()
) -> None:
    """Start the targets that are down, or were told to end, and that no watchdog keeps up; in recovery there is none.

    `told`: those that may live on for a while though they were told, of which only the dead run knew (see `survivors`). `spared`: those
    that are left as they are.
    """
    fleet, by = world.fleet, intent.episode

    async def mend(unit: str) -> None:
        if fleet.status(unit).holder is None:
            if unit in told:
                await fleet.stop(unit, by=by, timeout=HURRY)
            with suppress(GoneError):  # somebody took it away: there is nothing to bring back
                await fleet.start(unit, by=by)

    units = [
        target.unit for target in intent.targets if target.unit in fleet.ids and target.unit not in spared
    ]
    await together([unit for unit in units if world.recovering or not fleet.is_watched(unit)], mend)
