"""A view of a real system: local processes, an HTTP server in this process, the session that asks it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from probe_bench import Answer, Serve, Watch

from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.writer import JournalWriter
from supervisor.probes.base import View


@pytest.fixture
async def view(tmp_path: Path, journal: JournalWriter) -> AsyncIterator[View]:
    """See a system without units and without a broker."""
    async with aiohttp.ClientSession() as http:
        yield View(base=tmp_path, http=http, fleet=Fleet(journal, {}, {}))


@pytest.fixture
def watching(view: View, journal: JournalWriter, tmp_path: Path) -> Watch:
    """See a system of local processes, by their shell scripts or their whole settings."""

    @asynccontextmanager
    async def open_view(**scripts: str | dict[str, Any]) -> AsyncIterator[View]:
        units = {
            name: {"command": ["sh", "-c", script]} if isinstance(script, str) else script
            for name, script in scripts.items()
        }
        engine = ProcessEngine.model_validate({"process": {"units": units}})
        context = EngineContext("local", f"test-{uuid.uuid4().hex}", journal.run_dir, tmp_path, journal)
        async with engine.open(context) as local, anyio.create_task_group() as group:
            fleet = Fleet(journal, {"local": local}, {name: ("local", name) for name in units})
            group.start_soon(fleet.run)
            await fleet.start_all()
            yield replace(view, fleet=fleet)
            group.cancel_scope.cancel()

    return open_view


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Answer every HTTP request with a coroutine; the URL to ask is returned."""
    runners: list[web.ServerRunner] = []

    async def start(answer: Answer) -> str:
        runners.append(runner := web.ServerRunner(web.Server(answer)))  # type: ignore[arg-type]  # a request is a request
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}/ready"

    yield start
    for runner in runners:
        await runner.cleanup()
