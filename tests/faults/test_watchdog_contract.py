"""The watchdog contract: fleet, watchdogs, faults, scheduler, operator and reloads are the real ones, in any order.

The engine is in memory, and so is the clock: where nobody has anything to do but to wait, the time of the next timer has come. So
hours of backoff, holds and patience take milliseconds, and a knot shows at once as a deadline that is over.

The suite plays the same 30 every time; `SOAKD_TEST_EXAMPLES=2000` plays so many others.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from imagined_engine import ACTOR, UNITS, Imagined

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired, Fleet
from supervisor.faults.base import World
from supervisor.faults.limits import Bounds
from supervisor.faults.operator import Operator, Refused
from supervisor.faults.scheduler import Scheduler
from supervisor.journal import events as ev
from supervisor.journal.timeline import Timeline
from supervisor.reload import Reload
from supervisor.soak import Soak
from supervisor.supervision import Supervisor
from supervisor.watch.kept import Kept
from supervisor.watch.watchdog import WatchContext

EXAMPLES = "SOAKD_TEST_EXAMPLES"
HOUR = 3600.0
"""Seconds of the clock in memory after which something has come to a stand."""


TURN = 0.002
"""Seconds that a turn of the event loop takes: without, whoever is busy all the time would stop the clock."""


class Clock(selectors.DefaultSelector):
    """A clock that leaps to the next timer as soon as nothing else is to be done. Nobody wakes the loop from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all wait for each other"
        self.now += timeout + TURN
        return super().select(0)


class Book:
    """A journal in memory, which holds every start, stop and crash against the contract at the moment it is written down."""

    def __init__(self, turns: Callable[[], Awaitable[None]]) -> None:
        self._turns, self._listeners = turns, list[Callable[[ev.Record], None]]()
        self.fleet: Fleet
        self.events: list[ev.Event] = []

    def emit(self, event: ev.Event) -> None:
        self._check(event)
        self.events.append(event)
        record = ev.Record(len(self.events), time.time(), time.monotonic(), event)
        for listener in self._listeners:
            listener(record)

    def _check(self, event: ev.Event) -> None:
        assert not isinstance(event, ev.TaskCrashed), event
        if isinstance(event, ev.UnitStarted):
            holder = self.fleet.status(event.unit).holder
            assert holder in {None, event.by}, f"{event.by} has started what {holder} holds"

    async def commit(self, event: ev.Event) -> ev.Record:
        await self._turns()
        self.emit(event)
        return ev.Record(len(self.events), time.time(), time.monotonic(), event)

    def subscribe(self, listener: Callable[[ev.Record], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def write_file(self, name: str, data: bytes, **_: bool) -> Path:  # noqa: ARG002  # nobody reads it
        await self._turns()
        return Path("/nowhere") / name

    async def sync_file(self, name: str) -> None:  # noqa: ARG002  # there is no disk
        await self._turns()

    def log(self, name: str, **_: int) -> Book:  # noqa: ARG002  # nobody reads it
        return self

    def write(self, data: bytes) -> None:
        """Take lines of a log."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        await self._turns()
        return function(*args)

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Told(Fleet):
    """The real fleet; the engine in memory is told who calls, so that it knows the truth about each end."""

    async def stop(
        self, unit: str, *, by: str, timeout: float | None = None, signal: int | None = None
    ) -> None:
        ACTOR.set(by)
        await super().stop(unit, by=by, timeout=timeout, signal=signal)

    async def kill(self, unit: str, *, by: str, signal: int) -> None:
        ACTOR.set(by)
        await super().kill(unit, by=by, signal=signal)


@dataclass
class AllUp:
    """The steady state: every unit is up."""

    fleet: Fleet

    def holds(self) -> bool:
        return all(self.fleet.status(unit).observed.state is UnitState.UP for unit in UNITS)

    async def wait(self, timeout: float) -> tuple[bool, tuple[str, ...]]:
        with anyio.move_on_after(timeout):
            while not self.holds():  # noqa: ASYNC110  # the fleet tells nobody
                await anyio.sleep(0.5)
        return self.holds(), () if self.holds() else ("units up",)


# --- what is drawn -----------------------------------------------------------------------------------------------------

targets = st.sampled_from(["a", "b", ["a", "b"], {"of": ["a", "b"], "pick": "one"}])
some = st.sampled_from(["100ms", "300ms", "2s", "7s"])
holds = st.sampled_from(["200ms", "1s", "5s"])


def kind(key: str, **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    keys = {
        name: value if isinstance(value, st.SearchStrategy) else st.just(value)
        for name, value in more.items()
    }
    return st.fixed_dictionaries({key: targets, **keys}, optional={"only_when": st.just("steady")})


disturbances = st.one_of(
    kind("stop", hold=holds),
    kind("pause", hold=holds),
    kind("kill", signal=st.sampled_from(["SIGKILL", "SIGTERM"])),
    kind("restart"),
    kind("rolling_restart", pause_between=some),
    kind("crash_loop", crashes=st.integers(2, 3), uptime=some),
)
named = st.fixed_dictionaries({"f": disturbances}, optional={"g": disturbances, "h": disturbances})
watching = st.sampled_from([{}, {"log_tail": 7}, {"delay": "700ms"}])


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """What one version of the soak file says of faults and watchdogs."""
    faults, by_nemesis = draw(named), draw(st.booleans())
    for fault in faults.values():
        if not by_nemesis:
            fault["every"] = draw(some)
    nemesis = (
        {"of": list(faults), "every": draw(some), "overlap": draw(st.booleans())} if by_nemesis else None
    )
    limits = draw(st.sampled_from([{}, {"units_down": 1}, {"episodes": 1}]))
    return {"faults": faults, "nemesis": nemesis, "limits": limits, "watchdog": draw(watching)}


moments = st.sampled_from([0.0, 0.0, 0.05, 0.4, 1.5, 4.0])
"""Seconds from one act to the next."""
acts = st.one_of(
    st.tuples(moments, st.just("hold"), st.sampled_from(UNITS), st.sampled_from([None, "up", "down"])),
    st.tuples(moments, st.just("release"), st.sampled_from(UNITS), st.none()),
    st.tuples(moments, st.just("inject"), st.sampled_from("fgh"), st.none()),
    st.tuples(moments, st.just("pause"), st.sampled_from([None, 2.0]), st.booleans()),
    st.tuples(moments, st.sampled_from(["resume", "abort"]), st.none(), st.none()),
)


# --- the play -----------------------------------------------------------------------------------------------------------


@dataclass
class Play:
    """A run in memory."""

    plan: dict[str, Any]
    engine: Imagined
    book: Book
    fleet: Fleet
    kept: Kept
    scheduler: Scheduler
    operator: Operator

    async def operate(self, script: list[tuple[float, str, Any, Any]]) -> None:
        """Do what an operator does, and be refused where he is."""
        does: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "hold": self.operator.hold,
            "release": lambda unit, _: self.operator.release(unit),
            "inject": lambda name, _: self.operator.inject(name),
            "pause": lambda seconds, finish: self.operator.pause(seconds, finish=finish),
            "resume": lambda *_: self.operator.resume(),
            "abort": lambda *_: self.operator.abort(),
        }
        for wait, act, *words in script:
            await anyio.sleep(wait)
            with suppress(Refused):
                await does[act](*words)

    async def reload(self, plans: list[tuple[float, dict[str, Any]]]) -> None:
        """Take other soak files, or be refused."""
        file = Read(self.plan)
        reload = Reload(
            file,  # type: ignore[arg-type]  # the part of it that counts
            lambda: file,  # type: ignore[arg-type, return-value]
            Path("/nowhere"),
            self.book,  # type: ignore[arg-type]
            self.scheduler,
            lambda soak: self.kept.adopt(soak.watched()),
            lambda _: (),
        )
        for wait, plan in plans:
            await anyio.sleep(wait)
            file = Read(plan)
            with suppress(Refused):
                await reload.reload()

    def calm(self) -> bool:
        """Whether all is told, each crash is evidence, and all is up again."""
        told = {one.incarnation for one in self.book.all(ev.UnitExited)}
        kept = {one.incarnation for one in self.book.all(ev.UnitCrashed)}
        all_told = told == self.engine.truth.keys() and kept >= self.engine.crashed()
        return all_told and AllUp(self.fleet).holds()

    async def crash(self, crashes: list[tuple[float, str]]) -> None:
        for wait, unit in crashes:
            await anyio.sleep(wait)
            self.engine.end(unit, self.engine.alive.get(unit))

    async def fail(self, failures: list[float]) -> None:
        for wait in failures:
            await anyio.sleep(wait)
            self.engine.failing_starts += 1


class Read:
    """A plan, read as a soak file is."""

    def __init__(self, plan: dict[str, Any]) -> None:
        units = {unit: {"command": "true"} for unit in UNITS}
        watchdog = {"units": list(UNITS), "intensity": None, **plan["watchdog"]}
        self.data: dict[str, Any] = {
            "soak": "play",
            "engines": {"e": {"process": {"units": units}}},
            "watchdogs": [watchdog],
            **{key: plan[key] for key in ("faults", "limits", "nemesis") if plan[key]},
        }
        self.soak, self.resolved = Soak.model_validate(self.data), ""


async def at_once(function: Callable[..., Any], *args: Any) -> Any:
    """Stand for a thread, which nobody in memory waits for."""
    await anyio.lowlevel.checkpoint()
    return function(*args)


async def same(loaded: Read) -> Read:
    """Find no more units than there are."""
    await anyio.lowlevel.checkpoint()
    return loaded


@contextmanager
def leaping() -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    """Put the clock in memory in the place of the machine's, and nothing in the place of its disk and its engines."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supervisor.reload.anyio.to_thread.run_sync", at_once)
        patch.setattr("supervisor.reload.write_atomically", lambda *_: None)
        patch.setattr("supervisor.reload.missing", lambda *_: [])
        patch.setattr("supervisor.reload.discovered", same)
        patch.setattr(time, "monotonic", lambda: clock.now)
        yield lambda: asyncio.SelectorEventLoop(clock)


@settings(
    deadline=None,
    max_examples=int(os.environ.get(EXAMPLES, "30")),
    derandomize=EXAMPLES not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    plan=plans(),
    script=st.lists(acts, max_size=6),
    reloads=st.lists(st.tuples(moments, plans()), max_size=2),
    crashes=st.lists(st.tuples(moments, st.sampled_from(UNITS)), max_size=4),
    failures=st.lists(moments, max_size=2),
    turns=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    finish=st.sampled_from([0.0, 5.0, HOUR]),
)
def test_nothing_stays_broken_and_nobody_is_in_anybodys_way(finish: float, **drawn: Any) -> None:
    with leaping() as loop:
        anyio.run(_play, finish, drawn, backend_options={"loop_factory": loop})


async def _play(finish: float, drawn: dict[str, Any]) -> None:
    with anyio.fail_after(10 * HOUR):
        async with anyio.create_task_group() as background:
            play = await _open(drawn["plan"], drawn["turns"], background)
            try:
                async with anyio.create_task_group() as actors:
                    actors.start_soon(play.operate, drawn["script"])
                    actors.start_soon(play.reload, drawn["reloads"])
                    actors.start_soon(play.crash, drawn["crashes"])
                    actors.start_soon(play.fail, drawn["failures"])
                if await play.scheduler.finish(finish):  # it had too little time, and said so
                    assert await play.scheduler.finish(HOUR) == (), "every episode is undone"
                with anyio.fail_after(HOUR):  # a watchdog may be in the midst of its backoff
                    while not play.calm():  # noqa: ASYNC110  # nobody tells of it
                        await anyio.sleep(1)
                await anyio.wait_all_tasks_blocked()
                _judge(play)
            finally:
                play.engine.close()
                background.cancel_scope.cancel()


async def _open(plan: dict[str, Any], turns: list[int], group: TaskGroup) -> Play:
    engine, timeline = Slow(turns, group), Timeline()
    book = Book(engine.turns)
    book.subscribe(timeline.apply)
    fleet = Told(book, {"e": engine}, {unit: ("e", unit) for unit in UNITS})  # type: ignore[dict-item]
    engine.fleet = book.fleet = fleet
    soak = Read(plan).soak
    watched = list(soak.watched())
    for watchdog, unit in watched:
        watchdog.enlist(unit, fleet)
    supervisor = Supervisor(group, book, pytest.fail)
    supervisor.keep("fleet", fleet.run)
    await fleet.start_all()
    kept = Kept(watched, WatchContext(fleet, book, timeline), supervisor)
    scheduler = Scheduler(
        soak.faults,
        World(fleet),
        book,
        AllUp(fleet),
        7,
        time.monotonic(),
        lambda: True,
        nemesis=soak.nemesis,
        bounds=Bounds(soak.limits, soak.nodes()),
    )
    supervisor.keep("faults", scheduler.run)
    return Play(plan, engine, book, fleet, kept, scheduler, Operator(scheduler))


class Slow(Imagined):
    """One whose calls may take time, too."""

    async def turns(self) -> None:
        turns = next(self._turns)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        if turns > 4:
            await anyio.sleep(0.1 * turns)


def _judge(play: Play) -> None:
    book, engine, fleet = play.book, play.engine, play.fleet
    exits, crashes = book.all(ev.UnitExited), book.all(ev.UnitCrashed)
    assert {one.incarnation: (one.cause, one.by) for one in exits} == engine.truth
    assert len(exits) == len(engine.truth), "each exit once"
    assert sorted(one.incarnation for one in crashes) == sorted(engine.crashed()), (
        "what crashed is evidence, nothing else is"
    )
    intents = {one.episode for one in book.all(ev.FaultIntent)}
    assert len(intents) == len(book.all(ev.FaultIntent)), "no episode twice"
    assert {one.episode for one in book.all(ev.FaultUndone)} == intents
    assert sorted(one.episode for one in book.all(ev.EpisodeClosed)) == sorted(intents)
    assert not engine.frozen & set(engine.alive.values()), "nothing is frozen"
    for unit in UNITS:
        status = fleet.status(unit)
        assert (status.desired, status.holder) == (Desired.UP, None)
        assert status.observed.incarnation == engine.alive[unit]
    event(f"{min(len(intents), 5)} episodes")
    event(f"{min(len(crashes), 3)} crashes")
    event(f"{sum(not one.refused for one in book.all(ev.SoakFileRead))} reloads")
