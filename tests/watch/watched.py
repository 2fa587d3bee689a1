"""Watchdogs at work: real processes, a real journal, the fleet between them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Fleet
from supervisor.journal.base import Journal
from supervisor.journal.events import Event, Record
from supervisor.watch.watchdog import WatchContext, Watchdog

PATIENCE = 30.0
E = TypeVar("E", bound=Event)

IDLE = {"command": ["sh", "-c", "echo up; exec sleep 1000"], "ready": {"log": "^up"}}
QUICK = {"first": "10ms", "factor": 1.1, "max": "1s"}
"""The backoff that a test has the patience for."""
STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
"""What stands before each line in a crash file."""


@dataclass
class Watched:
    """Units under watch, and all that was journalled."""

    fleet: Fleet
    journal: Journal
    watchdog: Watchdog
    context: WatchContext
    directory: Path
    group: TaskGroup
    records: list[Record] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def take(self, record: Record) -> None:
        self.records.append(record)
        self.changed.set()
        self.changed = anyio.Event()

    def all(self, kind: type[E], unit: str | None = None) -> list[E]:
        events = [record.event for record in self.records if isinstance(record.event, kind)]
        return [event for event in events if unit in {None, getattr(event, "unit", None)}]

    async def until(self, holds: Callable[[], object]) -> None:
        with anyio.fail_after(PATIENCE):
            while not holds():
                await self.changed.wait()

    async def see(self, kind: type[E], count: int = 1, unit: str | None = None) -> list[E]:
        """Wait until so many events of a kind were journalled; return them all."""
        await self.until(lambda: len(self.all(kind, unit)) >= count)
        return self.all(kind, unit)

    async def mon(self, unit: str, text: str) -> str:
        """Wait until the mon log of a unit has a text; return the log. What was journalled before it has been heard of then."""
        path = self.directory / f"{unit}.mon.log"
        with anyio.fail_after(PATIENCE):
            while text not in (log := path.read_text() if path.exists() else ""):  # noqa: ASYNC110  # a file tells nobody
                await anyio.sleep(0.01)
        await self.journal.call(lambda: None)
        return log

    def pid(self, unit: str) -> int:
        observed = self.fleet.status(unit).observed
        assert observed.pid is not None
        return observed.pid

    def kill(self, *units: str, number: int = signal.SIGKILL) -> None:
        for pid in [self.pid(unit) for unit in units]:
            os.kill(pid, number)

    def up(self, unit: str) -> bool:
        return self.fleet.status(unit).observed.state is UnitState.UP

    def crash_files(self, unit: str) -> list[Path]:
        return sorted(self.directory.glob(f"{unit}.crash.*.log"))


Watch = Callable[..., AbstractAsyncContextManager[Watched]]
"""The fixture `watch`."""


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


FAILING = python("import sys; print('working', flush=True); raise ValueError('no subscription 17')")
