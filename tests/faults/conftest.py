from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from scripted_fault import Open, Stage, Watch

from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.faults import recovery
from supervisor.journal.writer import JournalWriter


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo is made again at once, and who had no target or had to wait looks again at once."""
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr("supervisor.faults.lines.SKIP_PAUSE", 0.02)
    monkeypatch.setattr("supervisor.faults.play.SKIP_PAUSE", 0.02)
    monkeypatch.setattr("supervisor.faults.claims.LOOK", 0.02)


@pytest.fixture
def watch(journal: JournalWriter) -> Watch:
    return Watch(journal)


@pytest.fixture
def stage(journal: JournalWriter, watch: Watch) -> Stage:
    return Stage(journal, watch)


@pytest.fixture
def opened(stage: Stage, journal: JournalWriter, tmp_path: Path) -> Open:
    """Open a fleet of local processes, by their shell scripts or their whole settings."""

    @asynccontextmanager
    async def open_fleet(
        start: bool = True, cgroups: bool = False, **scripts: str | dict[str, Any]
    ) -> AsyncIterator[Fleet]:
        units = {
            name: {"command": ["sh", "-c", script]} if isinstance(script, str) else script
            for name, script in scripts.items()
        }
        engine = ProcessEngine.model_validate({"process": {"units": units, "cgroups": cgroups}})
        context = EngineContext("local", f"test-{uuid.uuid4().hex}", journal.run_dir, tmp_path, journal)
        async with engine.open(context) as local, anyio.create_task_group() as group:
            stage.fleet = Fleet(journal, {"local": local}, {name: ("local", name) for name in units})
            group.start_soon(stage.fleet.run)
            if start:
                await stage.fleet.start_all()
            yield stage.fleet
            group.cancel_scope.cancel()

    return open_fleet
