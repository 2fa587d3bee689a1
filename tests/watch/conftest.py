from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from watched import Watch, Watched

from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.base import Journal
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter
from supervisor.watch.watchdog import WatchContext, Watchdog


@pytest.fixture
def watch(journal: JournalWriter) -> Watch:
    """Start units and a watchdog for each; `through` is what the watchdogs have for a journal."""

    @asynccontextmanager
    async def watching(
        units: dict[str, Any], *, through: Journal | None = None, keep: bool = True, **policy: Any
    ) -> AsyncIterator[Watched]:
        specs = {name: spec if isinstance(spec, dict) else {"command": spec} for name, spec in units.items()}
        engine = ProcessEngine.model_validate({"process": {"units": specs}})
        watchdog = Watchdog.model_validate({"units": list(units), **policy})
        timeline = Timeline()
        journal.subscribe(timeline.apply)
        place = EngineContext("e", f"test-{uuid.uuid4().hex}", journal.run_dir, journal.run_dir, journal)
        async with engine.open(place) as opened, anyio.create_task_group() as group:
            fleet = Fleet(journal, {"e": opened}, {name: ("e", name) for name in units})
            context = WatchContext(fleet, through or journal, timeline)
            watched = Watched(fleet, journal, watchdog, context, journal.run_dir, group)
            journal.subscribe(watched.take)
            group.start_soon(fleet.run)
            for unit in units:
                watchdog.enlist(unit, fleet)
            await fleet.start_all()
            if keep:
                for unit in units:
                    group.start_soon(watchdog.watch, unit, context, name=unit)
            yield watched
            group.cancel_scope.cancel()

    return watching
