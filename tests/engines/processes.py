"""Engines of local processes, and what tests look at beside them."""

from __future__ import annotations

import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from harness import PATIENCE, Bench

from supervisor.engines.base import EngineContext
from supervisor.engines.process import ProcessEngine
from supervisor.journal.writer import JournalWriter

RUN = f"test-{uuid.uuid4().hex}"
"""Nobody else's: an engine that is closed ends whatever carries its run's id."""


def engine(**units: Any) -> ProcessEngine:
    return ProcessEngine.model_validate({"process": {"units": units}})


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], **more}


def python(script: str, **more: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", textwrap.dedent(script)], **more}


@asynccontextmanager
async def opened(journal: JournalWriter, base: Path | None = None, **units: Any) -> AsyncIterator[Bench]:
    kind = engine(**units)
    context = EngineContext("local", RUN, journal.run_dir, base or journal.run_dir, journal, {"TOLD": "all"})
    async with kind.open(context) as running:
        exits = running.exits()
        try:
            yield Bench(kind, running, context, exits)
        finally:
            exits.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # the outside world sends no events
            await anyio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
