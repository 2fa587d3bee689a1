"""The fleet: all units of a soak, what each is meant to be, who says so, and why its process ended.

Watchdogs, faults and the operator act on units only through here, so they never fight: each unit has one desired state, at most
one holder, and one lock that is held for transitions only. Who stops or kills a unit lays claim to its incarnation first; when the
engine tells of the exit, the claim says whose it was, and an exit without one is a crash (see `member.py`).
"""

from __future__ import annotations

import difflib
import random
import signal as signals
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import CanPause, EngineError, Exit, Observed, Outside, Units, UnitState, Unwell
from supervisor.engines.departures import Departure, Departures
from supervisor.engines.member import OUTSIDE, Desired, Member, cause_by
from supervisor.engines.order import check_order, in_order, reverse
from supervisor.engines.selectors import Selector
from supervisor.journal.base import Journal
from supervisor.journal.events import Cause, UnitExited, UnitReady, UnitStarted, UnitStartFailed

__all__ = ["Departure", "Desired", "Fleet", "Held", "Protected", "UnitStatus"]

PROTECT: Final = "soakd.protect"
"""A unit with this label set to `true` is never the target of an episode."""
TELLING: Final = 1.0
"""Seconds that the last exit may take from the engine into the journal, before the run ends."""
AGAIN: Final = 1.0
"""Seconds until a unit whose readiness check has had its time is looked at again."""


_log: Final = structlog.get_logger("soakd.fleet")


class Held(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """Somebody else holds the unit."""


class Protected(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """The unit may not be a target."""


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """What is known of a unit without looking."""

    desired: Desired
    holder: str | None
    observed: Observed
    started_by: str = ""
    """Who started it last."""


class Fleet:
    """All units, over all engines. A unit is named by its id, or as `engine/name`."""

    def __init__(
        self,
        journal: Journal,
        engines: Mapping[str, Units],
        names: Mapping[str, tuple[str, str]],
        after: Mapping[str, tuple[str, ...]] | None = None,
        leaders: Callable[[str], Awaitable[str | None]] | None = None,
        *,
        resting: Collection[str] = (),
    ) -> None:
        """`names` gives for each unit id its engine and its name there; `leaders` finds the unit that leads a stream.

        `resting` are ids of units that are down and not to be started (`Engine.resting`).
        """
        self._journal, self._engines, self._leaders = journal, dict(engines), leaders
        self._units = {unit: Member(unit, engines[engine], name) for unit, (engine, name) in names.items()}
        self._ids = {place: unit for unit, place in names.items()}
        self._after = {
            unit: tuple(self._id(other) for other in (after or {}).get(unit, ())) for unit in names
        }
        self._ours: set[str] = set()
        """Units that this run brought up: the only ones it takes down."""
        self._departures = Departures()
        self._group: TaskGroup | None = None
        for unit in resting:
            self._units[unit].entrust(OUTSIDE, Desired.DOWN)

    def join(self, name: str, engine: Units, units: Mapping[str, str]) -> None:
        """Take in one more engine, with its units: id -> name there. Before `run` alone: nobody would follow its exits."""
        self._engines[name] = engine
        for unit, own in units.items():
            self._units[unit] = Member(unit, engine, own)
            self._ids[name, own] = unit
            self._after[unit] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All units, in the order of the soak file."""
        return tuple(self._units)

    def status(self, unit: str) -> UnitStatus:
        """Return what is known of a unit, without looking."""
        member = self._find(unit)
        seen = member.observed or Observed(UnitState.ABSENT)
        return UnitStatus(member.desired, member.holder, seen, member.started_by)

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
        return self._departures.of(self._find(unit).id)

    def place(self, unit: str) -> tuple[Units, str]:
        """Return the engine that has a unit, and its name there: for what engines can do beside the life of units."""
        member = self._find(unit)
        return member.engine, member.name

    def is_watched(self, unit: str) -> bool:
        """Whether somebody follows its departures: then its restart may be left to that watchdog."""
        return self._find(unit).id in self._departures

    def unwatch(self, unit: str) -> None:
        """Nobody follows the departures of a unit any more: who does so now hears the end of them."""
        self._departures.end(self._find(unit).id)
        self.let_end(unit, allowed=False)

    def let_end(self, unit: str, *, allowed: bool = True) -> None:
        """Take exit code 0 for the proper end of a unit from now on, or for a crash: its watchdog's policy says which."""
        self._find(unit).may_end = allowed

    def _id(self, unit: str) -> str:
        engine, _, name = unit.partition("/")  # this always says who is meant, needed or not
        return self._ids.get((engine, name), unit)

    def _find(self, unit: str) -> Member:
        if found := self._units.get(self._id(unit)):
            return found
        near = difflib.get_close_matches(unit, self._units, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._units) or 'none'}"
        raise EngineError(f"cannot find the unit {unit}: {hint}")

    # --- who is meant ------------------------------------------------------------------------------------------------

    async def resolve(
        self, selector: Selector, rng: random.Random, *, targets: bool = False
    ) -> tuple[str, ...]:
        """Return the units a selector means now, drawn with `rng`; EngineError if there are too few.

        With `targets`, for a fault: protected units are left out of a label's, and Protected is raised if one is named.
        """
        await self._look_at_new()
        if selector.leader_of:
            candidates = [await self._leader(selector.leader_of)]
        elif selector.label:
            candidates = self._labelled(selector.label, unprotected=targets)
        else:
            candidates = [self._find(unit) for unit in selector.of]
        if targets:
            for member in candidates:
                _refuse_protected(member, "choose it")
        try:
            drawn = selector.draw([member.id for member in candidates], rng)
        except ValueError as error:
            raise EngineError(f"cannot choose {selector}: {error}") from error
        if not drawn:
            raise EngineError(
                f"cannot choose {selector}: no unit fits, see `soakd check` for the units there are"
            )
        return drawn

    async def _leader(self, stream: str) -> Member:
        leader = await self._leaders(stream) if self._leaders else None
        if leader is None:
            raise EngineError(
                f"cannot choose the leader of {stream}: it has none now, or `broker: nodes:` does not say which "
                "unit its server is"
            )
        return self._find(leader)

    def _labelled(self, label: str, *, unprotected: bool) -> list[Member]:
        key, _, value = label.partition("=")
        found = [member for member in self._units.values() if _labels(member).get(key) == value]
        return [member for member in found if not (unprotected and _is_protected(member))]

    async def _look_at_new(self) -> None:
        """Look at the units that nobody has looked at: their labels are not known before."""
        for engine in self._engines.values():
            new = [unit for unit in self._units.values() if unit.engine is engine and unit.observed is None]
            if new:
                seen = await engine.observe()
                for unit in new:
                    unit.observed = unit.observed or seen.get(unit.name, Observed(UnitState.ABSENT))

    # --- who holds it ------------------------------------------------------------------------------------------------

    async def hold(self, unit: str, *, by: str, desired: Desired) -> None:
        """Take a unit over; once this returns, nobody else can start, stop or signal it.

        Held raised: somebody else has it. Protected raised: `by` is an episode, and the unit may not be a target. Who holds
        it already may change what it is meant to be.
        """
        member = self._find(unit)
        async with member.lock:
            await self._admit(member, by, "take it over")
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

    async def _admit(self, member: Member, by: str, what: str) -> None:
        """Refuse whoever may not touch a unit now."""
        _refuse_others(member, by, what)
        if member.observed is None:
            await member.look()
        if cause_by(by) is Cause.EPISODE:
            _refuse_protected(member, what)

    # --- what is done to it ------------------------------------------------------------------------------------------

    async def start(self, unit: str, *, by: str) -> Observed:
        """Bring a unit up; one that is up already is left alone. Held raised: somebody else holds it.

        A process that was told to end is waited for, up to `member.LEAVING` seconds; if it stays after all, the unit is up.
        """
        member = self._find(unit)
        async with member.lock:
            _refuse_others(member, by, "start it")
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
        self._tell_start(member, by, time.monotonic() - begun)
        return observed

    def _tell_start(self, member: Member, by: str, took: float = 0.0) -> None:
        seen = member.observed
        if seen and seen.incarnation != member.was_started:
            member.was_started, incarnation = seen.incarnation, seen.incarnation or ""
            member.started_by = by
            self._journal.emit(
                UnitStarted(unit=member.id, incarnation=incarnation, pid=seen.pid, by=by, took=took)
            )
            if (
                self._group is not None and by != "run"
            ):  # `start_all` waits itself, and fails where it waits in vain
                self._group.start_soon(self._see_ready, member, seen.incarnation)

    async def _see_ready(self, member: Member, incarnation: str | None) -> None:
        """Have it on record when a unit is ready, however long that takes and whoever started it: faults, too, and outsiders."""
        while member.is_up and member.observed and member.observed.incarnation == incarnation:
            try:
                await self.wait_ready(member.id)
            except EngineError:  # its time is up, or it has ended, which we hear of in a moment
                await anyio.sleep(AGAIN)
            else:
                return

    async def stop(self, unit: str, *, by: str, timeout: float | None = None) -> None:
        """Stop a unit in order (see `Units.stop`); down already: no error."""
        member = self._find(unit)
        async with member.lock:
            await self._admit(member, by, "stop it")
            await self._stop(member, by, timeout)

    async def _stop(self, member: Member, by: str, timeout: float | None = None) -> bool:
        """Stop a unit; return whether it was up."""
        seen = await member.look()
        member.claim(by, signals.SIGTERM)
        await member.engine.stop(member.name, timeout)
        member.observed = replace(seen, state=UnitState.DOWN, incarnation=None, pid=None)
        return seen.incarnation is not None

    async def kill(self, unit: str, *, by: str, signal: int) -> None:
        """Send a signal (see `Units.kill`); EngineError if the unit is down."""
        member = self._find(unit)
        async with member.lock:
            await self._admit(member, by, f"send it signal {signal}")
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
            await self._admit(member, by, what)
            if not isinstance(member.engine, CanPause):
                raise EngineError(f"cannot {what}: the engine of {member.id} has no pause")
            await (member.engine.pause if frozen else member.engine.resume)(member.name)
            await member.look()

    async def wait_ready(self, unit: str) -> None:
        """Wait until a unit's readiness check says yes; EngineError if it exits first or the check's time is up."""
        member = self._find(unit)
        await member.engine.ready(member.name)
        observed = member.observed
        if observed and observed.incarnation and observed.incarnation != member.was_ready:
            member.was_ready = observed.incarnation
            took = max(time.monotonic() - observed.started, 0.0) if observed.started else 0.0
            self._journal.emit(UnitReady(unit=member.id, incarnation=observed.incarnation, took=took))

    async def logs(
        self,
        unit: str,
        *,
        last: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stamped: bool = False,
    ) -> bytes:
        """Return a part of a unit's output (see `Units.logs`)."""
        member = self._find(unit)
        return await member.engine.logs(member.name, last=last, since=since, until=until, stamped=stamped)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Bring all units up, each once those it comes after are ready; EngineError of the first that fails."""
        check_order(self._after)
        await self._look_at_new()

        async def bring_up(unit: str) -> None:
            member = self._units[unit]
            if member.is_up:
                self._tell_start(member, OUTSIDE)
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
            unit for unit, others in self._after.items() if resting in others and not self._units[unit].is_up
        ]:
            raise EngineError(
                f"cannot start {', '.join(waiting)} after {resting}: it is down and nobody asks for its start; "
                "start it, or set `start: true` at its engine"
            )

    async def stop_all(self) -> None:
        """Take down what this run brought up, each after those that come after it; nothing can be started any more.

        Holds of others are overridden. EngineError at the end names every unit that could not be stopped.
        """
        failures: list[str] = []

        async def take_down(unit: str) -> None:
            member = self._units[unit]
            async with member.lock:
                member.entrust("run", Desired.DOWN)
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

    # --- what happens to it ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the engines' exits: find the cause of each, journal it, tell the unit's watchdog. A leaf task.

        What is started meanwhile is seen to become ready.
        """
        try:
            async with anyio.create_task_group() as self._group:
                for name, engine in self._engines.items():
                    self._group.start_soon(self._follow, name, engine, self._group)
        finally:
            self._group = None

    async def _follow(self, name: str, engine: Units, group: TaskGroup) -> None:
        async with engine.exits() as exits:
            async for news in exits:
                if unit := self._ids.get((name, news.unit)):
                    member = self._units[unit]
                    if isinstance(news, Exit):
                        self._departed(member, news)
                    elif isinstance(news, Outside):
                        self._overruled(member, news)
                    else:
                        group.start_soon(self._put_down, member, news)

    async def _put_down(self, member: Member, news: Unwell) -> None:
        """End a unit that is beyond help, unless somebody holds it: without a claim its exit is a crash, as it ought to be."""
        async with member.lock:
            seen = await member.look()
            if member.holder is None and seen.incarnation == news.incarnation:
                try:
                    await member.engine.stop(member.name)
                except EngineError as error:
                    _log.warning("cannot stop a unit that is unwell", unit=member.id, why=str(error))

    def _overruled(self, member: Member, news: Outside) -> None:
        """Take note of what somebody outside has decided; what an episode or the operator holds stays theirs."""
        member.observed = news.observed
        if member.is_up:
            self._tell_start(member, OUTSIDE)
        if member.holder == OUTSIDE and (member.is_up or not news.stays):
            member.entrust(None, Desired.UP)
        elif member.holder is None and not member.is_up and news.stays:
            member.entrust(OUTSIDE, Desired.DOWN)

    def _departed(self, member: Member, gone: Exit) -> None:
        cause, by = member.departed(gone)
        departure = Departure(
            unit=member.id,
            incarnation=gone.incarnation,
            code=gone.code,
            signal=gone.signal,
            oom=gone.oom,
            cause=cause,
            by=by,
            mono=gone.mono,
            uptime=gone.uptime,
            wall=gone.wall,
            facts=gone.facts,
        )
        self._journal.emit(UnitExited.model_validate(departure, from_attributes=True))
        self._departures.tell(departure)


def _refuse_others(member: Member, by: str, what: str) -> None:
    if member.holder not in {None, by}:
        raise Held(f"cannot {what} for {by}: {member.id} is held {member.desired} by {member.holder}")


def _refuse_protected(member: Member, what: str) -> None:
    if _is_protected(member):
        raise Protected(
            f"cannot {what}: {member.id} has the label {PROTECT}=true; take it out of the fault's units, or the label off it"
        )


def _is_protected(member: Member) -> bool:
    return _labels(member).get(PROTECT) == "true"


def _labels(member: Member) -> Mapping[str, str]:
    return member.observed.labels if member.observed else {}
