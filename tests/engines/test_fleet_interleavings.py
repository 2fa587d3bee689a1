"""Whoever acts on units at the same time: nobody starts what somebody else holds, and every exit has its true cause.

A real engine cannot be made to produce every order of events, so this one is in memory: each of its calls, each end of a unit and
each telling of it takes as many turns of the event loop as hypothesis likes.
"""

# ruff: noqa: ARG002  # an engine in memory has no use for many of its arguments

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from itertools import count, cycle
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.engines.base import EngineError, Exit, Observed, UnitState
from supervisor.engines.fleet import Desired, Fleet, Held
from supervisor.journal.events import Cause, Event, UnitExited, UnitStarted

UNITS = ("a", "b")
ACTOR: ContextVar[str] = ContextVar("ACTOR")
ASKS = signal.SIGUSR2


class Imagined:
    """An engine whose units live in a dictionary, and which knows why each of them ended."""

    def __init__(self, turns: list[int], group: TaskGroup) -> None:
        self._turns, self._group, self._numbers = cycle(turns), group, count(1)
        self.fleet: Fleet
        self.alive: dict[str, str] = {}
        self.marks: dict[str, list[tuple[str, int]]] = {}
        """For each incarnation who sent what, in order."""
        self.truth: dict[str, tuple[Cause, str | None]] = {}
        self._send, self._receive = anyio.create_memory_object_stream[Exit](10_000)
        self._told = anyio.Lock()

    async def turns(self) -> None:
        for _ in range(next(self._turns)):
            await checkpoint()

    def close(self) -> None:
        self._send.close()
        self._receive.close()

    async def observe(self) -> Mapping[str, Observed]:
        seen = {
            unit: Observed(UnitState.UP, self.alive[unit]) if unit in self.alive else Observed(UnitState.DOWN)
            for unit in UNITS
        }
        await self.turns()
        return seen

    async def start(self, unit: str) -> Observed:
        await self.turns()
        assert unit not in self.alive, "the fleet starts only what is down"
        self.alive[unit] = incarnation = f"{unit}-{next(self._numbers)}"
        self.marks[incarnation] = []
        return Observed(UnitState.UP, incarnation)

    async def ready(self, unit: str) -> None:
        await self.turns()

    async def stop(self, unit: str, timeout: float | None = None) -> None:
        incarnation = self._mark(unit, signal.SIGTERM)
        await self.turns()
        self.end(unit, incarnation)

    async def kill(self, unit: str, signal: int) -> None:
        incarnation = self._mark(unit, signal)
        if incarnation is None:
            raise EngineError("not running")
        await self.turns()
        self._group.start_soon(self._end_later, unit, incarnation)

    async def _end_later(self, unit: str, incarnation: str) -> None:
        await self.turns()
        self.end(unit, incarnation)

    def _mark(self, unit: str, number: int) -> str | None:
        incarnation = self.alive.get(unit)
        if incarnation:
            self.marks[incarnation].append((ACTOR.get(), number))
        return incarnation

    def end(self, unit: str, incarnation: str | None) -> None:
        """A unit ends, by a signal or by itself: then for whoever had told it to before."""
        if incarnation is None or self.alive.get(unit) != incarnation:
            return
        del self.alive[unit]
        mono = time.monotonic()
        status = self.fleet.status(unit)
        if marks := self.marks[incarnation]:
            self.truth[incarnation] = _cause(marks[0][0]), marks[0][0]
        elif status.holder and status.desired is Desired.DOWN:
            self.truth[incarnation] = _cause(status.holder), status.holder
        else:
            self.truth[incarnation] = Cause.CRASH, None
        self._group.start_soon(self._tell, Exit(unit, incarnation, 1, mono=mono))

    async def _tell(self, gone: Exit) -> None:
        async with self._told:  # exits are told in order
            await self.turns()
            self._send.send_nowait(gone)

    async def logs(
        self,
        unit: str,
        *,
        last: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stamped: bool = False,
    ) -> bytes:
        return b""

    def exits(self) -> MemoryObjectReceiveStream[Exit]:
        return self._receive.clone()


def _cause(by: str) -> Cause:
    return {"run": Cause.RUN, "operator": Cause.OPERATOR}.get(by, Cause.EPISODE)


class Notes:
    """A journal that checks every start at the moment it is written down."""

    def __init__(self) -> None:
        self.fleet: Fleet
        self.exits: list[UnitExited] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, UnitStarted):
            status = self.fleet.status(event.unit)
            assert status.holder in {None, event.by}, f"{event.by} started what {status.holder} holds"
        if isinstance(event, UnitExited):
            self.exits.append(event)


Act = tuple[int, str, str]
acts = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["hold down", "hold up", "release", "start", "stop", "kill", "term", "ask"]),
    st.sampled_from(UNITS),
)
crashes = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(UNITS)), max_size=5)


@settings(deadline=None, max_examples=120)
@given(
    scripts=st.fixed_dictionaries(
        {actor: st.lists(acts, max_size=6) for actor in ("x#1", "y#2", "operator", "run")}
    ),
    crashes=crashes,
    turns=st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_every_interleaving(
    scripts: dict[str, list[Act]], crashes: list[tuple[int, str]], turns: list[int]
) -> None:
    anyio.run(_play, scripts, crashes, turns)


async def _play(scripts: dict[str, list[Act]], crashes: list[tuple[int, str]], turns: list[int]) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as background:
            engine, notes = Imagined(turns, background), Notes()
            fleet = Fleet(notes, {"e": engine}, {unit: ("e", unit) for unit in UNITS})  # type: ignore[arg-type]  # emit is all the fleet needs of a journal
            engine.fleet = notes.fleet = fleet
            background.start_soon(fleet.run)
            for unit in UNITS:
                background.start_soon(_watch, fleet, unit)
            ACTOR.set("run")
            try:
                await fleet.start_all()
                async with anyio.create_task_group() as actors:
                    for actor, script in scripts.items():
                        actors.start_soon(_act, engine, actor, script)
                    actors.start_soon(_crash, engine, crashes)
                await anyio.wait_all_tasks_blocked()
                _judge(engine, notes)
            finally:
                engine.close()
                background.cancel_scope.cancel()


def _judge(engine: Imagined, notes: Notes) -> None:
    assert {e.incarnation: (e.cause, e.by) for e in notes.exits} == engine.truth
    assert len(notes.exits) == len(engine.truth), "each exit once"
    for unit in UNITS:
        status = engine.fleet.status(unit)
        assert (status.desired, status.holder) == (Desired.UP, None)
        assert status.observed.incarnation == engine.alive.get(unit)
        if unit not in engine.alive:
            last = [e for e in notes.exits if e.unit == unit][-1]
            assert last.cause is not Cause.CRASH, "its watchdog saw it, and nobody held it in the end"


async def _act(engine: Imagined, actor: str, script: list[Act]) -> None:
    ACTOR.set(actor)
    fleet = engine.fleet
    does: dict[str, Callable[[str], Awaitable[Any]]] = {
        "hold down": lambda unit: fleet.hold(unit, by=actor, desired=Desired.DOWN),
        "hold up": lambda unit: fleet.hold(unit, by=actor, desired=Desired.UP),
        "release": lambda unit: _release(engine, unit, actor),
        "start": lambda unit: fleet.start(unit, by=actor),
        "stop": lambda unit: fleet.stop(unit, by=actor),
        "kill": lambda unit: fleet.kill(unit, by=actor, signal=signal.SIGKILL),
        "term": lambda unit: fleet.kill(unit, by=actor, signal=signal.SIGTERM),
        "ask": lambda unit: fleet.kill(unit, by=actor, signal=ASKS),
    }
    for wait, act, unit in script:
        for _ in range(wait):
            await checkpoint()
        try:
            await does[act](unit)
        except (Held, EngineError):
            continue
    for unit in UNITS:
        await _release(engine, unit, actor)


async def _release(engine: Imagined, unit: str, actor: str) -> None:
    """Release, which also takes back what was only asked for."""
    held = engine.fleet.status(unit).holder == actor
    await engine.fleet.release(unit, by=actor)
    if held and (incarnation := engine.alive.get(unit)):
        engine.marks[incarnation] = [mark for mark in engine.marks[incarnation] if mark != (actor, ASKS)]


async def _crash(engine: Imagined, crashes: list[tuple[int, str]]) -> None:
    for wait, unit in crashes:
        for _ in range(wait):
            await checkpoint()
        engine.end(unit, engine.alive.get(unit))


async def _watch(fleet: Fleet, unit: str) -> None:
    """A watchdog in the small."""
    ACTOR.set("watchdog")
    with fleet.departures(unit) as departures:
        async for gone in departures:
            while gone.cause is Cause.CRASH:
                try:
                    await fleet.start(unit, by="watchdog")
                    break
                except Held:
                    await fleet.wait_free(unit)
