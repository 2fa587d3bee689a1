"""The fleet: all units of a soak, what each is meant to be, who says so, and why its process ended.

Watchdogs, faults and the operator act on units only through here, so they never fight: each unit has one desired state, at most
one holder, and one lock that is held for transitions only. Who stops or kills a unit lays claim to its incarnation first; when the
engine tells of the exit, the claim says whose it was, and an exit without one is a crash (see `member.py`).
"""

from __future__ import annotations

import random
import signal as signals
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Unpack

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import EngineError, Observed, Part, Units, UnitState
from supervisor.engines.capabilities import CanPause
from supervisor.engines.departures import Departure
from supervisor.engines.lives import Lives
from supervisor.engines.member import OUTSIDE, Desired, Held, Member, Protected, UnitStatus
from supervisor.engines.order import check_order, in_order, reverse
from supervisor.engines.roster import Leaders, Roster
from supervisor.engines.selectors import Selector
from supervisor.journal.base import Journal
from supervisor.journal.events import UnitStartFailed

__all__ = ["Departure", "Desired", "Fleet", "Held", "Protected", "UnitStatus"]

TELLING: Final = 1.0
"""Seconds that the last exit may take from the engine into the journal, before the run ends."""


class Fleet:
    """All units, over all engines. A unit is named by its id, or as `engine/name`."""

    def __init__(
        self,
        journal: Journal,
        engines: Mapping[str, Units],
        names: Mapping[str, tuple[str, str]],
        after: Mapping[str, tuple[str, ...]] | None = None,
        leaders: Leaders | None = None,
        *,
        resting: Collection[str] = (),
    ) -> None:
        """`names` gives for each unit id its engine and its name there; `leaders` finds the unit that leads a stream.

        `resting` are ids of units that are down and not to be started (`Engine.resting`).
        """
        self._journal, self._roster = journal, Roster(engines, names, leaders)
        self._find, self._lives = self._roster.find, Lives(journal, self._roster)
        self._after = {
            unit: tuple(self._roster.id_of(other) for other in (after or {}).get(unit, ())) for unit in names
        }
        self._ours: set[str] = set()
        """Units that this run brought up: the only ones it takes down."""
        self._found_up: set[str] = set()
        """Units that ran before it: they shall run after it."""
        for unit in resting:
            self._roster[unit].entrust(OUTSIDE, Desired.DOWN)

    async def join(self, name: str, engine: Units, units: Mapping[str, str]) -> None:
        """Take in one more engine, with its units: id -> name there. Before `run` alone: nobody would follow its exits."""
        await self._roster.join(name, engine, units)
        self._after |= dict.fromkeys(units, ())

    @property
    def ids(self) -> tuple[str, ...]:
        """All units, in the order of the soak file."""
        return tuple(self._roster)

    def status(self, unit: str) -> UnitStatus:
        """Return what is known of a unit, without looking."""
        return self._find(unit).status

    def id_of(self, unit: str) -> str:
        """Return the id of a unit that is named in either way; EngineError if there is none."""
        return self._find(unit).id

    async def look(self, unit: str) -> UnitStatus:
        """Look at a unit; return what is known of it now."""
        member = self._find(unit)
        async with member.lock:
            await member.look()
        return self.status(unit)

    def departures(self, unit: str) -> MemoryObjectReceiveStream[Departure]:
        """Return the exits of a unit from the first such call on, each once: for its watchdog alone, which closes the stream.

        A watchdog that is started again gets those it missed; the oldest are dropped when nobody takes them.
        """
        return self._lives.departures.of(self._find(unit).id)

    def place(self, unit: str) -> tuple[Units, str]:
        """Return the engine that has a unit, and its name there: for what engines can do beside the life of units."""
        member = self._find(unit)
        return member.engine, member.name

    def is_watched(self, unit: str) -> bool:
        """Whether somebody follows its departures: then its restart may be left to that watchdog."""
        return self._find(unit).id in self._lives.departures

    def unwatch(self, unit: str) -> None:
        """Nobody follows the departures of a unit any more: who does so now hears the end of them."""
        self._lives.departures.end(self._find(unit).id)
        self.let_end(unit, allowed=False)

    def let_end(self, unit: str, *, allowed: bool = True) -> None:
        """Take exit code 0 for the proper end of a unit from now on, or for a crash: its watchdog's policy says which."""
        self._find(unit).may_end = allowed

    # --- who is meant ------------------------------------------------------------------------------------------------

    async def resolve(
        self, selector: Selector, rng: random.Random, *, targets: bool = False
    ) -> tuple[str, ...]:
        """Return the units a selector means now, drawn with `rng`; EngineError if there are too few.

        With `targets`, for a fault: protected units are left out of a label's, and Protected is raised if one is named.
        """
        return await self._roster.resolve(selector, rng, targets=targets)

    # --- who holds it ------------------------------------------------------------------------------------------------

    async def hold(self, unit: str, *, by: str, desired: Desired) -> None:
        """Take a unit over; once this returns, nobody else can start, stop or signal it.

        Held raised: somebody else has it. Protected raised: `by` is an episode, and the unit may not be a target. Who holds
        it already may change what it is meant to be.
        """
        member = self._find(unit)
        async with member.lock:
            await member.admit(by, "take it over")
            if (member.holder, member.desired) != (by, desired):
                member.entrust(by, desired)

    async def release(self, unit: str, *, by: str) -> None:
        """Give a unit back: it is meant to be up again, unless somebody outside has taken it away meanwhile.

        Idempotent, and harmless for a unit that somebody else holds.
        """
        member = self._find(unit)
        async with member.lock:
            if member.holder == by:
                gone = member.observed is not None and member.observed.state is UnitState.ABSENT
                member.entrust(OUTSIDE if gone else None, Desired.DOWN if gone else Desired.UP)

    async def wait_free(self, unit: str) -> None:
        """Wait until nobody holds the unit."""
        member = self._find(unit)
        while member.holder is not None:
            await member.changed.wait()

    # --- what is done to it ------------------------------------------------------------------------------------------

    async def start(self, unit: str, *, by: str) -> Observed:
        """Bring a unit up; one that is up already is left alone. Held raised: somebody else holds it.

        A process that was told to end is waited for, up to `member.LEAVING` seconds; if it stays after all, the unit is up.
        """
        member = self._find(unit)
        async with member.lock:
            member.refuse_others(by, "start it")
            observed = await member.look()
            if member.is_up and member.doomed():
                observed = await member.see_off()
            return observed if member.is_up else await self._start(member, by)

    async def _start(self, member: Member, by: str) -> Observed:
        begun = time.monotonic()
        try:
            member.observed = observed = await member.engine.start(member.name)
        except EngineError as error:
            self._journal.emit(UnitStartFailed(unit=member.id, by=by, error=str(error)))
            raise
        self._lives.began(member, by, time.monotonic() - begun)
        return observed

    async def stop(
        self, unit: str, *, by: str, timeout: float | None = None, signal: int | None = None
    ) -> None:
        """Stop a unit in order (see `Units.stop`); down already: no error."""
        member = self._find(unit)
        async with member.lock:
            await member.admit(by, "stop it")
            await self._stop(member, by, timeout, signal)

    async def _stop(
        self, member: Member, by: str, timeout: float | None = None, signal: int | None = None
    ) -> bool:
        """Stop a unit; return whether it was up."""
        seen = await member.look()
        member.claim(by, signals.SIGTERM)
        await member.engine.stop(member.name, timeout, signal)
        member.observed = replace(seen, state=UnitState.DOWN, incarnation=None, pid=None)
        return seen.incarnation is not None

    async def kill(self, unit: str, *, by: str, signal: int) -> None:
        """Send a signal (see `Units.kill`); EngineError if the unit is down."""
        member = self._find(unit)
        async with member.lock:
            await member.admit(by, f"send it signal {signal}")
            await member.look()
            member.claim(by, signal)
            await member.engine.kill(member.name, signal)

    async def pause(self, unit: str, *, by: str) -> None:
        """Freeze a unit; EngineError if its engine cannot."""
        await self._freeze(unit, by, frozen=True)

    async def resume(self, unit: str, *, by: str) -> None:
        """Let a frozen unit go on."""
        await self._freeze(unit, by, frozen=False)

    async def _freeze(self, unit: str, by: str, *, frozen: bool) -> None:
        member, what = self._find(unit), "pause it" if frozen else "resume it"
        async with member.lock:
            await member.admit(by, what)
            if not isinstance(member.engine, CanPause):
                raise EngineError(f"cannot {what}: the engine of {member.id} has no pause")
            await (member.engine.pause if frozen else member.engine.resume)(member.name)
            await member.look()

    async def wait_ready(self, unit: str) -> None:
        """Wait until a unit's readiness check says yes; EngineError if it exits first or the check's time is up."""
        await self._lives.ready(self._find(unit))

    async def logs(self, unit: str, **part: Unpack[Part]) -> bytes:
        """Return a part of a unit's output (see `Units.logs`)."""
        member = self._find(unit)
        return await member.engine.logs(member.name, **part)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Bring all units up, each once those it comes after are ready; EngineError of the first that fails."""
        check_order(self._after)
        await self._roster.look_at_new()

        async def bring_up(unit: str) -> None:
            member = self._roster[unit]
            if member.is_up:
                self._found_up.add(unit)
                self._lives.began(member, OUTSIDE)
            elif member.holder == OUTSIDE:
                self._refuse_waiting(unit)
                return
            else:
                self._ours.add(unit)
            await self.start(unit, by="run")
            await self.wait_ready(unit)

        await in_order(self._after, bring_up)

    def _refuse_waiting(self, resting: str) -> None:
        if waiting := [
            unit for unit, others in self._after.items() if resting in others and not self._roster[unit].is_up
        ]:
            raise EngineError(
                f"cannot start {', '.join(waiting)} after {resting}: it is down and nobody asks for its start; "
                "start it, or set `start: true` at its engine"
            )

    async def stop_all(self) -> None:
        """Take down what this run brought up, each after those that come after it; nothing can be started by others any more.

        What was up before it and is down by nobody's will is started again. Holds of others are overridden. EngineError at the end
        names every unit that could not be stopped.
        """
        failures: list[str] = []

        async def take_down(unit: str) -> None:
            member = self._roster[unit]
            async with member.lock:
                wanted = unit in self._found_up and member.holder != OUTSIDE
                member.entrust("run", Desired.DOWN)
                if wanted:
                    await self._leave_up(member)
                if unit in self._ours:
                    exits = member.exits
                    try:
                        was_up = await self._stop(member, "run")
                    except EngineError as error:
                        failures.append(str(error))
                        return
                    with anyio.move_on_after(TELLING if was_up else 0):
                        while member.exits == exits:
                            await member.changed.wait()

        await in_order(reverse(self._after), take_down)
        if failures:
            raise EngineError("; ".join(failures))

    async def _leave_up(self, member: Member) -> None:
        """Start a unit that has crashed, or was given up, unless it has ended in peace; that it cannot be started is on record."""
        seen = await member.look()
        if seen.state is UnitState.DOWN and not member.done:
            with suppress(EngineError):
                await self._start(member, "run")

    # --- what happens to it ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the engines' exits: find the cause of each, journal it, tell the unit's watchdog. A leaf task.

        What is started meanwhile is seen to become ready.
        """
        await self._lives.run()
