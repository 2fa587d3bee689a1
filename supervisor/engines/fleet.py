"""The fleet: all units of a soak, what each is meant to be, who says so, and why its process ended.

Watchdogs, faults and the operator act on units only through here, so they never fight: each unit has one desired state, at most
one holder, and one lock that is held for transitions only. Who stops or kills a unit lays claim to its incarnation first; when the
engine tells of the exit, the claim says whose it was, and an exit without one is a crash.
"""

from __future__ import annotations

import difflib
import math
import random
import signal as signals
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Final

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from supervisor.engines.base import CanPause, EngineError, Exit, Observed, Units, UnitState
from supervisor.engines.selectors import Selector
from supervisor.journal.base import Journal
from supervisor.journal.events import Cause, UnitExited, UnitReady, UnitStarted, UnitStartFailed

log = structlog.get_logger("soakd.fleet")

PROTECT: Final = "soakd.protect"
"""A unit with this label set to `true` is never the target of an episode."""
LEAVING: Final = 10.0
"""Seconds that a start waits for a process which was told to end: Docker's and systemd's patience is of that order."""
ANSWERING: Final = 600.0
"""Seconds in which a signal that only asks may still explain an exit: nats-server's lame duck takes two minutes by default."""
TELLING: Final = 1.0
"""Seconds that the last exit may take from the engine into the journal, before the run ends."""
DEPARTURES: Final = 64
"""Departures kept for one watchdog; there is one for each start, and watchdogs are the ones that start."""

_ENDING: Final = frozenset(signals.Signals) - {
    # By default these do not end a process ...
    *(signals.SIGCHLD, signals.SIGCONT, signals.SIGSTOP, signals.SIGTSTP),
    *(signals.SIGTTIN, signals.SIGTTOU, signals.SIGURG, signals.SIGWINCH),
}
_ASKING: Final = frozenset({signals.SIGHUP, signals.SIGUSR1, signals.SIGUSR2})
"""Signals that servers use for requests, lame duck for one: they may end a process, later or never."""


class Desired(StrEnum):
    """What a unit is meant to be."""

    UP = "up"
    DOWN = "down"
    PAUSED = "paused"


class Held(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """Somebody else holds the unit."""


class Protected(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """The unit may not be a target."""


@dataclass(frozen=True, slots=True)
class Departure:
    """The end of one incarnation of a unit, with its cause."""

    unit: str
    incarnation: str
    code: int | None
    signal: str | None
    oom: bool
    cause: Cause
    by: str | None
    """Who ended it, None for a crash and for somebody outside."""
    mono: float
    """Monotonic seconds at which the engine noticed."""
    uptime: float | None


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """What is known of a unit without looking."""

    desired: Desired
    holder: str | None
    observed: Observed


@dataclass(slots=True)
class _Claim:
    """From when to when somebody answers for the end of a unit. Exits are told late, so claims are compared by their times."""

    by: str
    since: float
    incarnation: str | None = None
    """None: of whichever lives, because it is held down."""
    until: float = math.inf
    asks: bool = False
    """The signal only asks: the claim ends with the hold of who sent it, or after `ANSWERING`."""


class _Unit:
    """The state of one unit."""

    def __init__(self, unit: str, engine: Units, name: str) -> None:
        self.id, self.engine, self.name = unit, engine, name
        self.lock = anyio.Lock()
        self.desired = Desired.UP
        self.holder: str | None = None
        self.observed: Observed | None = None
        self.claims: deque[_Claim] = deque(maxlen=32)
        self.was_ready: str | None = None
        """The incarnation whose readiness is on record: however many wait for it, it is told once."""
        self.exits = 0
        self.may_end = False
        self.changed = anyio.Event()
        """Set, and replaced, when the holder changes or an incarnation ended."""

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def entrust(self, holder: str | None, desired: Desired) -> None:
        """Change who holds the unit and what it is meant to be."""
        now = time.monotonic()
        for claim in self.claims:
            if (
                claim.incarnation is None or (claim.asks and claim.by == self.holder != holder)
            ) and claim.until > now:
                claim.until = now
        if holder and desired is Desired.DOWN:
            self.claims.append(_Claim(holder, now))
        self.holder, self.desired = holder, desired
        self.notify()

    def claim(self, by: str, *, asks: bool = False) -> None:
        """Say who is about to end the unit."""
        if self.observed and self.observed.incarnation:
            now = time.monotonic()
            until = now + ANSWERING if asks else math.inf
            self.claims.append(_Claim(by, now, self.observed.incarnation, until, asks))

    def cause_of_its_own(self, gone: Exit) -> Cause:
        """Return what it means that it ended and nobody else has a part in it."""
        return Cause.DONE if self.may_end and gone.code == 0 and not gone.signal else Cause.CRASH

    def doomed(self) -> bool:
        """Say whether the incarnation last seen was told to end."""
        seen = self.observed.incarnation if self.observed else None
        return any(claim.incarnation == seen and not claim.asks for claim in self.claims)

    def ended_by(self, gone: Exit) -> str | None:
        """Return who answers for the end of an incarnation: the first who did before it. Its claims are settled."""
        ours = [claim for claim in self.claims if claim.incarnation in {None, gone.incarnation}]
        for claim in ours:
            if claim.incarnation:
                self.claims.remove(claim)
        return next((claim.by for claim in ours if claim.since <= gone.mono <= claim.until), None)


class Fleet:
    """All units, over all engines."""

    def __init__(
        self,
        journal: Journal,
        engines: Mapping[str, Units],
        names: Mapping[str, tuple[str, str]],
        after: Mapping[str, tuple[str, ...]] | None = None,
        leaders: Callable[[str], Awaitable[str | None]] | None = None,
    ) -> None:
        """`names` gives for each unit id its engine and its name there; `leaders` finds the unit that leads a stream."""
        self._journal, self._engines, self._leaders = journal, engines, leaders
        self._units = {unit: _Unit(unit, engines[engine], name) for unit, (engine, name) in names.items()}
        self._ids = {place: unit for unit, place in names.items()}
        self._after = {unit: tuple((after or {}).get(unit, ())) for unit in names}
        self._ours: set[str] = set()
        """Units that this run brought up: the only ones it takes down."""
        self._streams: _Streams = {}
        weakref.finalize(self, _close, self._streams)

    @property
    def ids(self) -> tuple[str, ...]:
        """All units, in the order of the soak file."""
        return tuple(self._units)

    def status(self, unit: str) -> UnitStatus:
        """Return what is known of a unit, without looking."""
        known = self._find(unit)
        return UnitStatus(known.desired, known.holder, known.observed or Observed(UnitState.ABSENT))

    def departures(self, unit: str) -> MemoryObjectReceiveStream[Departure]:
        """Return the exits of a unit from the first such call on, each once: for its watchdog alone, which closes the stream.

        A watchdog that is started again gets those it missed; the oldest are dropped when nobody takes them.
        """
        self._find(unit)
        if unit not in self._streams:
            self._streams[unit] = anyio.create_memory_object_stream[Departure](DEPARTURES)
        return self._streams[unit][1].clone()

    def let_end(self, unit: str) -> None:
        """Take exit code 0 for the proper end of a unit from now on, not for a crash: its watchdog's policy says so."""
        self._find(unit).may_end = True

    # --- who is meant ------------------------------------------------------------------------------------------------

    async def resolve(
        self, selector: Selector, rng: random.Random, *, targets: bool = False
    ) -> tuple[str, ...]:
        """Return the units a selector means now, drawn with `rng`; EngineError if there are too few.

        With `targets`, for a fault: protected units are left out of a label's, and Protected is raised if one is named.
        """
        if selector.leader_of:
            candidates = await self._leader(selector.leader_of)
        elif selector.label:
            candidates = await self._labelled(*selector.label.split("=", 1))
            if targets:
                candidates = [unit for unit in candidates if not self._protected(unit)]
        else:
            candidates = [self._find(unit).id for unit in selector.of]
        if targets:
            await self._look_at_new()
            for unit in candidates:
                self._refuse_protected(unit, "choose it")
        try:
            drawn = selector.draw(candidates, rng)
        except ValueError as error:
            raise EngineError(f"cannot choose {selector}: {error}") from error
        if not drawn:
            raise EngineError(
                f"cannot choose {selector}: no unit fits, see `soakd check` for the units there are"
            )
        return drawn

    async def _leader(self, stream: str) -> list[str]:
        leader = await self._leaders(stream) if self._leaders else None
        if leader is None:
            raise EngineError(
                f"cannot choose the leader of {stream}: it has none now, or `broker: nodes:` does not say which "
                "unit its server is"
            )
        return [self._find(leader).id]

    async def _labelled(self, key: str, value: str) -> list[str]:
        await self._look_at_new()
        return [unit for unit in self._units if self._labels(unit).get(key) == value]

    def _labels(self, unit: str) -> Mapping[str, str]:
        observed = self._units[unit].observed
        return observed.labels if observed else {}

    def _protected(self, unit: str) -> bool:
        return self._labels(unit).get(PROTECT) == "true"

    def _find(self, unit: str) -> _Unit:
        engine, _, name = unit.partition("/")  # `engine/name` always says who is meant, needed or not
        if found := self._units.get(self._ids.get((engine, name), unit)):
            return found
        near = difflib.get_close_matches(unit, self._units, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._units) or 'none'}"
        raise EngineError(f"cannot find the unit {unit}: {hint}")

    # --- who holds it ------------------------------------------------------------------------------------------------

    async def hold(self, unit: str, *, by: str, desired: Desired) -> None:
        """Take a unit over; once this returns, nobody else can start, stop or signal it.

        Held raised: somebody else has it. Protected raised: `by` is an episode, and the unit may not be a target. Who holds
        it already may change what it is meant to be.
        """
        known = self._find(unit)
        async with known.lock:
            await self._admit(known, by, "take it over")
            if (known.holder, known.desired) != (by, desired):
                known.entrust(by, desired)

    async def release(self, unit: str, *, by: str) -> None:
        """Give a unit back: it is meant to be up again. Idempotent, and harmless for a unit that somebody else holds."""
        known = self._find(unit)
        async with known.lock:
            if known.holder == by:
                known.entrust(None, Desired.UP)

    async def wait_free(self, unit: str) -> None:
        """Wait until nobody holds the unit."""
        known = self._find(unit)
        while known.holder is not None:
            await known.changed.wait()

    async def _admit(self, known: _Unit, by: str, what: str) -> None:
        """Refuse whoever may not touch a unit now."""
        if known.holder not in {None, by}:
            raise Held(f"cannot {what} for {by}: {known.id} is held {known.desired} by {known.holder}")
        if known.observed is None:
            await self._look(known)
        if _cause(by) is Cause.EPISODE:
            self._refuse_protected(known.id, what)

    def _refuse_protected(self, unit: str, what: str) -> None:
        if self._protected(unit):
            raise Protected(
                f"cannot {what}: {unit} has the label {PROTECT}=true; take it out of the fault's units, or the label off it"
            )

    # --- what is done to it ------------------------------------------------------------------------------------------

    async def start(self, unit: str, *, by: str) -> Observed:
        """Bring a unit up; one that is up already is left alone. Held raised: somebody else holds it.

        A process that was told to end is waited for, up to `LEAVING` seconds; if it stays after all, the unit is up.
        """
        known = self._find(unit)
        async with known.lock:
            if known.holder not in {None, by}:
                raise Held(f"cannot start {unit} for {by}: it is held {known.desired} by {known.holder}")
            observed = await self._look(known)
            if observed.state in {UnitState.UP, UnitState.PAUSED} and known.doomed():
                observed = await self._leaving(known)
            if observed.state in {UnitState.UP, UnitState.PAUSED}:
                return observed
            begun = time.monotonic()
            try:
                known.observed = observed = await known.engine.start(known.name)
            except EngineError as error:
                self._journal.emit(UnitStartFailed(unit=unit, by=by, error=str(error)))
                raise
            self._journal.emit(
                UnitStarted(
                    unit=unit,
                    incarnation=observed.incarnation or "",
                    pid=observed.pid,
                    by=by,
                    took=time.monotonic() - begun,
                )
            )
            return observed

    async def stop(self, unit: str, *, by: str, timeout: float | None = None) -> None:
        """Stop a unit in order (see `Units.stop`); down already: no error."""
        known = self._find(unit)
        async with known.lock:
            await self._admit(known, by, "stop it")
            await self._stop(known, by, timeout)

    async def _stop(self, known: _Unit, by: str, timeout: float | None) -> bool:
        """Stop a unit; return whether it was up."""
        seen = await self._look(known)
        known.claim(by)
        await known.engine.stop(known.name, timeout)
        known.observed = replace(seen, state=UnitState.DOWN, incarnation=None, pid=None)
        return seen.incarnation is not None

    async def kill(self, unit: str, *, by: str, signal: int) -> None:
        """Send a signal (see `Units.kill`); EngineError if the unit is down."""
        known = self._find(unit)
        async with known.lock:
            await self._admit(known, by, f"send it signal {signal}")
            await self._look(known)
            if signal in _ENDING:
                known.claim(by, asks=signal in _ASKING)
            await known.engine.kill(known.name, signal)

    async def pause(self, unit: str, *, by: str) -> None:
        """Freeze a unit; EngineError if its engine cannot."""
        await self._freeze(unit, by, frozen=True)

    async def resume(self, unit: str, *, by: str) -> None:
        """Let a frozen unit go on."""
        await self._freeze(unit, by, frozen=False)

    async def _freeze(self, unit: str, by: str, *, frozen: bool) -> None:
        known, what = self._find(unit), "pause it" if frozen else "resume it"
        async with known.lock:
            await self._admit(known, by, what)
            if not isinstance(known.engine, CanPause):
                raise EngineError(f"cannot {what}: the engine of {unit} has no pause")
            await (known.engine.pause if frozen else known.engine.resume)(known.name)
            await self._look(known)

    async def wait_ready(self, unit: str) -> None:
        """Wait until a unit's readiness check says yes; EngineError if it exits first or the check's time is up."""
        known = self._find(unit)
        await known.engine.ready(known.name)
        observed = known.observed
        if observed and observed.incarnation and observed.incarnation != known.was_ready:
            known.was_ready = observed.incarnation
            took = max(time.monotonic() - observed.started, 0.0) if observed.started else 0.0
            self._journal.emit(UnitReady(unit=unit, incarnation=observed.incarnation, took=took))

    async def logs(
        self, unit: str, *, last: int | None = None, since: float | None = None, until: float | None = None
    ) -> bytes:
        """Return a part of a unit's output (see `Units.logs`)."""
        known = self._find(unit)
        return await known.engine.logs(known.name, last=last, since=since, until=until)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Bring all units up, each once those it comes after are ready; EngineError of the first that fails."""
        self._check_order()
        await self._look_at_new()
        ready = {unit: anyio.Event() for unit in self._units}

        async def bring_up(unit: str) -> None:
            for other in self._after[unit]:
                await ready[other].wait()
            if self.status(unit).observed.state not in {UnitState.UP, UnitState.PAUSED}:
                self._ours.add(unit)
            await self.start(unit, by="run")
            await self.wait_ready(unit)
            ready[unit].set()

        await _together(bring_up, self._units)

    async def stop_all(self) -> None:
        """Take down what this run brought up, each after those that come after it; nothing can be started any more.

        Holds of others are overridden. EngineError at the end names every unit that could not be stopped.
        """
        down = {unit: anyio.Event() for unit in self._units}
        failures: list[str] = []

        async def take_down(unit: str) -> None:
            for other, after in self._after.items():
                if unit in after:
                    await down[other].wait()
            known = self._units[unit]
            async with known.lock:
                known.entrust("run", Desired.DOWN)
                try:
                    if unit in self._ours:
                        exits = known.exits
                        was_up = await self._stop(known, "run", None)
                        with anyio.move_on_after(TELLING if was_up else 0):
                            while known.exits == exits:
                                await known.changed.wait()
                except EngineError as error:
                    failures.append(str(error))
            down[unit].set()

        await _together(take_down, self._units)
        if failures:
            raise EngineError("; ".join(failures))

    def _check_order(self) -> None:
        for unit, others in self._after.items():
            for other in others:
                if other not in self._units:
                    raise EngineError(f"cannot start {unit} after {other}: there is no such unit")
        try:
            TopologicalSorter(self._after).prepare()
        except CycleError as error:
            circle = " after ".join(reversed(error.args[1]))
            raise EngineError(
                f"cannot order the start of units: {circle}; break the circle of `after`"
            ) from error

    # --- what happens to it ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the engines' exits: find the cause of each, journal it, tell the unit's watchdog. A leaf task."""
        async with anyio.create_task_group() as group:
            for name, engine in self._engines.items():
                group.start_soon(self._follow, name, engine)

    async def _follow(self, name: str, engine: Units) -> None:
        async with engine.exits() as exits:
            async for gone in exits:
                if unit := self._ids.get((name, gone.unit)):
                    self._departed(self._units[unit], gone)

    def _departed(self, known: _Unit, gone: Exit) -> None:
        by = known.ended_by(gone)
        cause = _cause(by) if by else Cause.OUTSIDE if gone.outside else known.cause_of_its_own(gone)
        if known.observed and known.observed.incarnation == gone.incarnation:
            known.observed = Observed(UnitState.DOWN, labels=known.observed.labels)
        known.exits += 1
        known.notify()
        self._journal.emit(
            UnitExited(
                unit=known.id,
                incarnation=gone.incarnation,
                code=gone.code,
                signal=gone.signal,
                oom=gone.oom,
                cause=cause,
                by=by,
                uptime=gone.uptime,
            )
        )
        if known.id in self._streams:
            send, receive = self._streams[known.id]
            if send.statistics().current_buffer_used == DEPARTURES:
                lost = receive.receive_nowait()
                log.warning("nobody took a departure", unit=known.id, incarnation=lost.incarnation)
            send.send_nowait(
                Departure(
                    unit=known.id,
                    incarnation=gone.incarnation,
                    code=gone.code,
                    signal=gone.signal,
                    oom=gone.oom,
                    cause=cause,
                    by=by,
                    mono=gone.mono,
                    uptime=gone.uptime,
                )
            )

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look(self, known: _Unit) -> Observed:
        """Look at one unit, under its lock; once more if it ended meanwhile, since what was seen may be from before."""
        while True:
            exits = known.exits
            seen = await known.engine.observe()
            if exits == known.exits:
                known.observed = seen.get(known.name, Observed(UnitState.ABSENT))
                return known.observed

    async def _look_at_new(self) -> None:
        """Look at the units that nobody has looked at: their labels are not known before."""
        for engine in self._engines.values():
            new = [
                known for known in self._units.values() if known.engine is engine and known.observed is None
            ]
            if new:
                seen = await engine.observe()
                for known in new:
                    known.observed = known.observed or seen.get(known.name, Observed(UnitState.ABSENT))

    async def _leaving(self, known: _Unit) -> Observed:
        """Wait for a process that was told to end."""
        with anyio.move_on_after(LEAVING):
            while (observed := await self._look(known)).state in {UnitState.UP, UnitState.PAUSED}:
                if not known.doomed():
                    return observed
                await known.changed.wait()
            return observed
        known.claims.clear()
        return await self._look(known)


_Streams = dict[str, tuple[MemoryObjectSendStream[Departure], MemoryObjectReceiveStream[Departure]]]


def _close(streams: _Streams) -> None:
    for send, receive in streams.values():
        send.close()
        receive.close()


def _cause(by: str) -> Cause:
    """Return what it means that an exit was by somebody: anybody but these is an episode."""
    return {"run": Cause.RUN, "watchdog": Cause.RUN, "operator": Cause.OPERATOR}.get(by, Cause.EPISODE)


async def _together(act: Callable[[str], Coroutine[None, None, None]], units: Iterable[str]) -> None:
    """Act on all units at once; the first EngineError ends the rest and is raised as it is."""
    try:
        async with anyio.create_task_group() as group:
            for unit in units:
                group.start_soon(act, unit)
    except* EngineError as errors:
        failed: BaseException = errors
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        raise failed from None
