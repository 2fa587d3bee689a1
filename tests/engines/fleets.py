"""Fleets of local processes as tests use them."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from harness import PATIENCE

from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.events import (
    Event,
)
from supervisor.journal.writer import JournalWriter

IDLE = {"command": "sleep 1000"}
EPISODE = "restart-a#1"


@dataclass
class Stage:
    fleet: Fleet
    events: list[Event]

    async def heard(self, kind: type[Event], unit: str, count: int = 1) -> Any:
        """Wait for the n-th event of a kind about a unit."""
        with anyio.fail_after(PATIENCE):
            while len(found := [e for e in self.events if isinstance(e, kind) and e.unit == unit]) < count:  # type: ignore[attr-defined]  # noqa: ASYNC110  # all of these have it; records come from a thread
                await anyio.sleep(0.005)
            return found[count - 1]


@asynccontextmanager
async def staged(journal: JournalWriter, leaders: Any = None, **units: Any) -> AsyncIterator[Stage]:
    engine = ProcessEngine.model_validate({"process": {"units": units}})
    context = EngineContext("local", f"test-{uuid.uuid4().hex}", journal.run_dir, journal.run_dir, journal)
    events: list[Event] = []
    unsubscribe = journal.subscribe(lambda record: events.append(record.event))
    async with engine.open(context) as running, anyio.create_task_group() as group:
        fleet = Fleet(journal, {"local": running}, {u: ("local", u) for u in units}, engine.after(), leaders)
        group.start_soon(fleet.run)
        yield Stage(fleet, events)
        group.cancel_scope.cancel()
    unsubscribe()


def pid_of(fleet: Fleet, unit: str) -> int:
    pid = fleet.status(unit).observed.pid
    assert pid
    return pid


def rng() -> random.Random:
    return random.Random(1)  # noqa: S311  # draws are meant to be reproduced
