"""A bench for loads, and brokers for those that need one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from load_bench import PATIENCE, Bench, NatsServer
from nats_bench import NatsBench

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.journal.writer import JournalWriter
from supervisor.loads import audit, jetstream, keeping


@pytest.fixture
async def bench(tmp_path: Path, journal: JournalWriter) -> Bench:
    base = tmp_path / "base"
    base.mkdir()
    bench = Bench(base, journal)
    journal.subscribe(lambda record: bench.events.append(record.event))
    return bench


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    server.stop()


@pytest.fixture
async def nats_bench(bench: Bench, server: NatsServer) -> AsyncIterator[NatsBench]:
    async with open_connections(Broker.model_validate(server.broker), bench.journal) as connections:
        bench.connections = connections
        yield NatsBench(bench, server)
        bench.connections = None


@pytest.fixture
async def bare_bench(bench: Bench, tmp_path: Path) -> AsyncIterator[NatsBench]:
    """The same without JetStream, so that a test can play it."""
    server = NatsServer(tmp_path / "bare", jetstream=False)
    await server.start()
    async with open_connections(Broker.model_validate(server.broker), bench.journal) as connections:
        bench.connections = connections
        yield NatsBench(bench, server)
        bench.connections = None
    server.stop()


@pytest.fixture
def decided_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loss be decided at the end without waiting for what one server alone never does; and take all the time that needs."""
    monkeypatch.setattr(jetstream, "PATIENCE", 0.1)
    monkeypatch.setattr(jetstream, "LAST_LOOK", PATIENCE)
    for module in (audit, keeping):
        monkeypatch.setattr(module, "CONFIRM", 0.1)
