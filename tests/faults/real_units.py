"""Faults of the soak file's kinds, on units that are real processes, perhaps with a watchdog."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from scripted_fault import Stage

from supervisor.engines.fleet import Fleet
from supervisor.faults.base import Fault
from supervisor.faults.registry import FAULTS
from supervisor.journal.timeline import Timeline
from supervisor.watch.watchdog import WatchContext, Watchdog

IDLE = "exec sleep 1000"


def kind(**keys: Any) -> Fault:
    """A fault of whatever kind, once and at once."""
    return FAULTS.find(keys, Path())[0].model_validate({"every": "0s", "times": 1, **keys})


@asynccontextmanager
async def watched(stage: Stage, *units: str) -> AsyncIterator[None]:
    """A watchdog on these units."""
    assert stage.fleet
    timeline = Timeline()
    stage.journal.subscribe(timeline.apply)
    if not units:
        yield
        return
    dog = Watchdog.model_validate({"units": list(units), "restart": "permanent"})
    context = WatchContext(stage.fleet, stage.journal, timeline)
    for unit in units:
        dog.enlist(unit, stage.fleet)
    async with anyio.create_task_group() as group:
        for unit in units:
            group.start_soon(dog.watch, unit, context)
        yield
        group.cancel_scope.cancel()


def process(fleet: Fleet, unit: str) -> psutil.Process:
    pid = fleet.status(unit).observed.pid
    assert pid
    return psutil.Process(pid)


def stands_still(fleet: Fleet, unit: str) -> bool:
    return process(fleet, unit).status() == psutil.STATUS_STOPPED


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
