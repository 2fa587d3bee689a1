"""Servers for a test, the events it caused, and a look at what it left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest
from handles import WITHIN
from nats_servers import NatsServer, Start, make_cluster

from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged, Record
from supervisor.journal.writer import JournalWriter


@pytest.fixture
async def nothing_leaks(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Fail a test that leaves a task or a connection, or made nats-py log an error."""
    tasks = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - tasks if "TestRunner" not in repr(task.get_coro())]
    assert not left, f"tasks were left behind: {left}"
    open_ = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.status != psutil.CONN_LISTEN]
    assert not open_, f"connections were left behind: {open_}"
    gc.collect()  # an exception that nobody retrieved shows itself here, and anyio's test runner raises it
    await anyio.lowlevel.checkpoint()
    errors = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name != "soakd.broker"
    ]
    assert not errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers of one's own: `await start(config, name=...)`."""
    servers: list[NatsServer] = []

    async def start(config: str = "", name: str = "solo", jetstream: str = "") -> NatsServer:
        directory = tmp_path / f"{name}{len(servers)}"
        servers.append(server := NatsServer(directory, config, name, jetstream=jetstream))
        return await server.start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
async def server(start: Start) -> NatsServer:
    return await start()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[NatsServer]]:
    """Three nodes that can go into lame-duck mode quickly."""
    with make_cluster(tmp_path, 3, "lame_duck_duration: 30s\nlame_duck_grace_period: 2s\n") as servers:
        async with anyio.create_task_group() as group:
            for server in servers:
                group.start_soon(server.start)
        yield servers


@pytest.fixture
def changes(journal: JournalWriter) -> Iterator[list[BrokerChanged]]:
    """What connections reported to the journal so far."""
    seen: list[BrokerChanged] = []

    def note(record: Record) -> None:
        if isinstance(record.event, BrokerChanged):
            seen.append(record.event)

    unsubscribe = journal.subscribe(note)
    yield seen
    unsubscribe()


@pytest.fixture
def broker(server: NatsServer) -> Broker:
    return Broker.model_validate({"servers": server.address})


@pytest.fixture
async def handle(
    broker: Broker, journal: JournalWriter, changes: list[BrokerChanged]
) -> AsyncIterator[Handle]:
    """A handle that is connected; `changes` heard of it from its beginning."""
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle("default")
        await handle.wait_connected(WITHIN)
        yield handle
