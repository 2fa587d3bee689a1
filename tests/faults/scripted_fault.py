"""A fault whose every step the test decides, a system that is steady when the test says so, and eyes on the journal."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio

from supervisor.broker.connection import Connections
from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired, Fleet
from supervisor.faults.base import Aim, Expectations, Fault, World
from supervisor.faults.limits import Bounds
from supervisor.faults.nemesis import Nemesis
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.base import Journal
from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    Event,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Record,
    Target,
    UndoFailed,
)

E = TypeVar("E", bound=Event)
Open = Callable[..., AbstractAsyncContextManager[Fleet]]
PATIENCE = 30.0
"""Seconds after which a test that waits for something fails."""


async def nothing(_: FaultIntent) -> None:
    await anyio.lowlevel.checkpoint()


@dataclass
class Script:
    """What a scripted fault does, and what it was asked."""

    inject: Callable[[FaultIntent], Awaitable[None]] = nothing
    undo: Callable[[FaultIntent], Awaitable[None]] = nothing
    aim: Callable[[random.Random], Awaitable[Aim]] | None = None
    units: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    """`inject f#1`, `undo f#1` ... in order."""


class Scripted(Fault):
    """A fault that does what its script says."""

    key: ClassVar[str] = "scripted"
    scripted: Any

    async def aim(self, world: World, rng: random.Random) -> Aim:  # noqa: ARG002  # a script needs no world
        script: Script = self.scripted
        if script.aim:
            return await script.aim(rng)
        return Aim(tuple(Target(unit=unit) for unit in script.units), {"number": rng.random()})

    async def inject(self, world: World, intent: FaultIntent) -> None:  # noqa: ARG002  # a script needs no world
        self.scripted.asked.append(f"inject {intent.episode}")
        await self.scripted.inject(intent)

    async def undo(self, world: World, intent: FaultIntent) -> None:  # noqa: ARG002  # a script needs no world
        self.scripted.asked.append(f"undo {intent.episode}")
        await self.scripted.undo(intent)


class System:
    """A system whose steady state holds while the test says so."""

    def __init__(self) -> None:
        self.steady = anyio.Event()
        self.steady.set()
        self.asked: list[float] = []
        self.failed = 0
        """How often somebody waited in vain."""

    async def wait(self, timeout: float) -> tuple[bool, tuple[str, ...]]:
        self.asked.append(timeout)
        with anyio.move_on_after(timeout):
            await self.steady.wait()
            return True, ()
        self.failed += 1
        return False, ("unit nats1 up",)


class Watch:
    """All records of a journal, and the way to wait for one."""

    def __init__(self, journal: Journal) -> None:
        self.records: list[Record] = []
        self._new = anyio.Event()
        journal.subscribe(self._take)

    def _take(self, record: Record) -> None:
        self.records.append(record)
        self._new.set()
        self._new = anyio.Event()

    def all(self, kind: type[E], **fields: object) -> list[E]:
        return [event for event in self.events if isinstance(event, kind) and _fits(event, fields)]

    @property
    def events(self) -> list[Event]:
        return [record.event for record in self.records]

    async def until(self, kind: type[E], count: int = 1, **fields: object) -> E:
        """Wait for the count-th event of a kind whose fields have these values."""
        with anyio.move_on_after(PATIENCE):
            while len(found := self.all(kind, **fields)) < count:
                await self._new.wait()
            return found[count - 1]
        raise AssertionError(f"no {kind.__name__} {fields} number {count} among {self.events}")


def _fits(event: Event, fields: dict[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in fields.items())


@dataclass
class Stage:
    """A scheduler's surroundings."""

    journal: Journal
    watch: Watch
    system: System = field(default_factory=System)
    guardian: bool = True
    fleet: Fleet | None = None
    base: Path = field(default_factory=Path)
    connections: Connections | None = None
    born: float = field(default_factory=time.monotonic)
    nemesis: Nemesis | None = None
    bounds: Bounds | None = None
    expectations: Expectations | None = None
    deaf: tuple[str, ...] = ()
    """Loads that do not hear of an episode in time."""

    @property
    def world(self) -> World:
        fleet = self.fleet or Fleet(self.journal, {}, {})
        run_dir = self.journal.run_dir
        return World(
            fleet, self.connections, base=self.base, born=self.born, run_dir=run_dir, heard=self._heard
        )

    async def _heard(self) -> tuple[str, ...]:
        return self.deaf

    @asynccontextmanager
    async def running(self, finish: float = 5.0, **faults: Fault) -> AsyncIterator[Scheduler]:
        """Run a scheduler as the daemon does: to its finish, in order."""
        named = {name.replace("_", "-"): fault for name, fault in faults.items()}
        now = time.monotonic()
        scheduler = Scheduler(
            named,
            self.world,
            self.journal,
            self.system,
            7,
            now,
            lambda: self.guardian,
            nemesis=self.nemesis,
            bounds=self.bounds,
            expectations=self.expectations,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(scheduler.run)
            yield scheduler
            with anyio.fail_after(PATIENCE):
                await scheduler.finish(finish)


async def to_its_end(scheduler: Scheduler, timeout: float) -> tuple[str, ...]:
    """Run a scheduler until its schedules are over, and finish it; return what it returns."""
    async with anyio.create_task_group() as group:
        group.start_soon(scheduler.run)
        with anyio.fail_after(PATIENCE):
            await scheduler.drawn_out()
        return await scheduler.finish(timeout)
    raise AssertionError


def cut(scheduler: Scheduler, fault: str) -> None:
    """End inject and hold of the episode that is open, as if its time were over."""
    episode = scheduler.lines[fault].episode
    assert episode
    episode.cut()


def incarnations(fleet: Fleet) -> dict[str, str | None]:
    return {unit: fleet.status(unit).observed.incarnation for unit in fleet.ids}


def free_and_up(fleet: Fleet) -> bool:
    status = [fleet.status(unit) for unit in fleet.ids]
    return all((s.holder, s.desired, s.observed.state) == (None, Desired.UP, UnitState.UP) for s in status)


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something holds that nobody tells of."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # see above
            await anyio.sleep(0.02)


FAULT_EVENTS = (FaultIntent, FaultInjected, FaultFailed, FaultUndone, UndoFailed, EpisodeClosed, DrawSkipped)


def life(stage: Stage, episode: str) -> list[str]:
    return [event.kind for event in stage.watch.events if getattr(event, "episode", None) == episode]


def fault(script: Script, **keys: object) -> Scripted:
    """A fault that comes once and at once, unless its schedule is given; one that is `drawn` has none."""
    once = {"every": "0s", "times": 1}
    scheduled = keys.pop("drawn", False) or keys.keys() & {"every", "between", "at", "after"}
    return Scripted.model_validate({"scripted": script, **({} if scheduled else once), **keys})


async def hang(_: FaultIntent) -> None:
    await anyio.sleep_forever()


async def fail(_: FaultIntent) -> None:
    raise RuntimeError("the tool said no")
