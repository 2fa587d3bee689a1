"""A soak on containers: engine, fleet and watchdogs as in a run, and what was journalled of it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
from docker_client import Client

from supervisor.engines.base import EngineContext, UnitState
from supervisor.engines.docker import DockerEngine
from supervisor.engines.fleet import Fleet
from supervisor.journal.events import Event, Record, UnitCrashed, UnitExited, UnitRestarted, UnitStarted
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter
from supervisor.watch.watchdog import WatchContext, Watchdog

PATIENCE = 40.0
IDLE = "echo up; exec sleep 1000"
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", re.MULTILINE)
E = TypeVar("E", bound=Event)


def new_name(prefix: str = "unit") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def running(docker: Client, *names: str, **config: Any) -> None:
    """Make containers of these names that only live, and start them; each has said so."""
    for name in names:
        docker.create(name, IDLE, **config)
        docker.start(name)
    for name in names:
        wait_said(docker, name)


def end(docker: Client, name: str) -> None:
    """SIGKILL what a container runs, as a crash would."""
    docker.end(name)


def said(docker: Client, unit: str, times: int) -> bool:
    """Whether `up` stands so many times in a container's log: one that is killed before it has spoken has no last words."""
    text = docker.call("GET", f"containers/{unit}/logs", stdout=1)
    return text is not None and bytes(text).count(b"up\n") >= times


def wait_said(docker: Client, unit: str, times: int = 1) -> None:
    """Wait until `up` stands so many times in a container's log. Blocks."""
    deadline = time.monotonic() + PATIENCE
    while not said(docker, unit, times):
        assert time.monotonic() < deadline, f"{unit} does not speak: {docker.inspect(unit)['State']}"
        time.sleep(0.005)


def engine_of(docker: Client, *names: str, **settings: Any) -> DockerEngine:
    """The engine for some containers by name, or by what `settings` say."""
    spec = {"host": docker.url, **({"names": names} if names else {}), **settings}
    return DockerEngine.model_validate({"docker": spec})


@dataclass
class Soaking:
    fleet: Fleet
    engine: DockerEngine
    context: EngineContext
    journal: JournalWriter
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[E], unit: str | None = None) -> list[E]:
        """What was journalled of one kind, of one unit or of all."""
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if unit in {None, getattr(event, "unit", None)}]

    def crash_file(self, crash: UnitCrashed) -> str:
        assert crash.file
        return (self.journal.run_dir / crash.file).read_text(errors="replace")

    def last_words(self, crash: UnitCrashed) -> list[str]:
        """The log's lines in a crash file, which all have their times."""
        assert crash.captured, self.crash_file(crash)
        head, _, tail = self.crash_file(crash).partition("\n\n")
        lines = [STAMP.sub("", line, count=1) for line in tail.splitlines()]
        assert len(STAMP.findall(tail)) == len(lines)
        assert f"# lines: {len(lines)}\n" in head
        return lines

    async def until(self, holds: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait until a condition holds; what was journalled is shown if it never does.

        What was journalled until it held has been heard of then: records come from a thread.
        """
        with anyio.move_on_after(patience):
            while not holds():  # noqa: ASYNC110  # conditions of all sorts
                await anyio.sleep(0.01)
            await self.journal.call(lambda: None)
            return
        raise AssertionError("it never came to hold; journalled:\n" + "\n".join(map(repr, self.events)))

    @contextmanager
    def hurried(self, unit: str, deadline: float) -> Iterator[None]:
        """Give up calls to a unit's engine that begin now after so many seconds. All of a test's would be too much for a busy machine."""
        units: Any = self.fleet.place(unit)[0]
        api, before = units._api, units._api._deadline
        api._deadline = deadline
        try:
            yield
        finally:
            api._deadline = before

    async def until_seen(self, unit: str, state: UnitState) -> None:
        """Look at a unit until it is in a state."""
        with anyio.fail_after(PATIENCE):
            while (await self.fleet.look(unit)).observed.state is not state:  # noqa: ASYNC110  # nobody tells of it
                await anyio.sleep(0.01)

    async def crashed(self, unit: str, times: int = 1) -> UnitCrashed:
        """Wait for a crash that is on record and mended."""
        await self.until(lambda: len(self.of(UnitRestarted, unit)) >= times)
        assert len(self.of(UnitCrashed, unit)) == times
        return self.of(UnitCrashed, unit)[-1]

    def each_once(self) -> None:
        """No crash lost, none told twice, no unit restarted twice for one."""
        exits = [(event.unit, event.incarnation) for event in self.of(UnitExited)]
        assert len(exits) == len(set(exits)), "an exit was told twice"
        starts = [(event.unit, event.incarnation) for event in self.of(UnitStarted)]
        assert len(starts) == len(set(starts)), "a start was told twice"
        crashed = [(event.unit, event.incarnation) for event in self.of(UnitCrashed)]
        crashes = [(event.unit, event.incarnation) for event in self.of(UnitExited) if event.cause == "crash"]
        assert sorted(crashed) == sorted(crashes)
        for unit in {event.unit for event in self.of(UnitRestarted)}:
            assert len(self.of(UnitRestarted, unit)) <= len(self.of(UnitExited, unit)), (
                f"{unit} was restarted twice"
            )


@asynccontextmanager
async def soaking(
    journal: JournalWriter, engine: DockerEngine, *, watch: bool = True, run: str = "", **policy: Any
) -> AsyncIterator[Soaking]:
    before = len(asyncio.all_tasks())
    await engine.tidy(journal.run_dir)
    engine = await engine.discover(journal.run_dir)
    context = EngineContext("docker", run or new_name("run"), journal.run_dir, journal.run_dir, journal)
    async with engine.open(context) as units:
        names = {unit: ("docker", unit) for unit in engine.unit_names()}
        fleet = Fleet(journal, {"docker": units}, names, engine.after(), resting=engine.resting())
        soak = Soaking(fleet, engine, context, journal)

        def take(record: Record) -> None:
            soak.events.append(record.event)

        forget = journal.subscribe(take)
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.run)
            if watch:
                settings = {"units": list(names), "intensity": None, "delay": 0, **policy}
                watchdog = Watchdog.model_validate(settings)
                watching = WatchContext(fleet, journal, Timeline())
                for unit in names:
                    watchdog.enlist(unit, fleet)
                    group.start_soon(watchdog.watch, unit, watching)
            await fleet.start_all()
            yield soak
            await fleet.stop_all()
            await journal.call(lambda: None)
            group.cancel_scope.cancel()
        forget()
    with anyio.fail_after(PATIENCE):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # connections take a moment to close
            await anyio.sleep(0.01)
    soak.each_once()


def policy(docker: Client, name: str) -> str:
    """Return the restart policy of a container."""
    return str(docker.inspect(name)["HostConfig"]["RestartPolicy"]["Name"])


def with_policy(name: str) -> dict[str, object]:
    """The host settings of one with a restart policy."""
    return {"RestartPolicy": {"Name": name}}


def up(docker: Client, *, labels: dict[str, str] | None = None, host: dict[str, object] | None = None) -> str:
    """Make a container that waits, start it, and return its name."""
    unit = new_name()
    docker.create(unit, IDLE, labels, host=host)
    docker.start(unit)
    wait_said(docker, unit)
    return unit


def soak_file(folder: Path, containers: str) -> str:
    """Write a soak file with these containers."""
    file = folder / "soak.yaml"
    file.write_text(f"soak: manners\nengines:\n  e:\n    docker: {{{containers}}}\n")
    return str(file)
