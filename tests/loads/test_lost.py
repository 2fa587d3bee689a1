"""Messages that a real cluster of three nodes lost, and what is told of them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from load_bench import PATIENCE, WHOLE, Bench

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle, open_connections
from supervisor.broker.embedded import expand
from supervisor.broker.options import Broker
from supervisor.broker.ports import free_ports
from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.events import InvariantViolated
from supervisor.journal.writer import JournalWriter
from supervisor.loads.base import LoadContext
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.server_logs import UnitLogs
from supervisor.supervision import nursery

NODES = ("nats1", "nats2", "nats3")


@dataclass
class Trio:
    """Three nodes, and loads on them."""

    bench: Bench
    fleet: Fleet
    handle: Handle

    async def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask until there is an answer: leaders come and go."""
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    return await api.call(self.handle, subject, body, deadline=5)
                except BrokerError:
                    await anyio.sleep(0.1)

    async def leader(self, stream: str) -> str:
        return str((await self.ask(f"STREAM.INFO.{stream}"))["cluster"]["leader"])

    @asynccontextmanager
    async def held_back(self, stream: str) -> AsyncIterator[str]:
        """Let the load's consumer deliver nothing."""
        names = (await self.ask(f"CONSUMER.NAMES.{stream}"))["consumers"]
        pause = f"CONSUMER.PAUSE.{stream}.{names[0]}"
        until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
        await self.ask(pause, {"pause_until": until})
        info = f"CONSUMER.INFO.{stream}.{names[0]}"
        with anyio.fail_after(PATIENCE):
            while not (await self.ask(info)).get("paused"):  # noqa: ASYNC110  # so far the meta leader has promised it
                await anyio.sleep(0.01)
        yield names[0]
        await self.ask(pause, {})

    async def published(self, stream: str, more: int = 20) -> int:
        """Wait for further messages and return the sequence of the last."""
        path, before = f"STREAM.INFO.{stream}", None
        while True:
            last = int((await self.ask(path))["state"]["last_seq"])
            before = last if before is None else before
            if last >= before + more:
                return last
            await anyio.sleep(0.05)

    async def begin_anew(self, stream: str, consumer: str) -> None:
        """Let a consumer forget where it was, as one does whose state is lost."""
        config = {"durable_name": consumer, "ack_policy": "explicit", "deliver_policy": "new"}
        await self.ask(f"CONSUMER.DELETE.{stream}.{consumer}")
        body = {"stream_name": stream, "config": config}
        await self.ask(f"CONSUMER.DURABLE.CREATE.{stream}.{consumer}", body)

    @asynccontextmanager
    async def running(self, load: JetStreamLoad) -> AsyncIterator[LoadContext]:
        logs = UnitLogs(self.fleet, NODES, self.bench.journal)
        context = replace(self.bench.context("load"), server_logs=logs)
        with anyio.fail_after(WHOLE):
            async with anyio.create_task_group() as group:
                group.start_soon(load.run, context)
                await self.bench.until_counted(context, "ok", 20)
                yield context
                context.stop.set()
        await self.bench.settle()

    def lost(self, stream: str) -> list[InvariantViolated]:
        told = [event for event in self.bench.events if isinstance(event, InvariantViolated)]
        return [event for event in told if event.subject.endswith(stream)]


@pytest.fixture
async def trio(bench: Bench, journal: JournalWriter) -> AsyncIterator[Trio]:
    spec, section = expand({"nodes": 3}, free_ports())
    engine = ProcessEngine.model_validate(spec)
    broker = Broker.model_validate(section)
    place = EngineContext("embedded", f"lost-{uuid.uuid4()}", journal.run_dir, journal.run_dir, journal)
    async with engine.open(place) as units, nursery() as group:
        fleet = Fleet(journal, {"embedded": units}, {name: ("embedded", name) for name in NODES})
        group.start_soon(fleet.run)
        await fleet.start_all()
        async with open_connections(broker, journal) as connections:
            bench.connections = connections
            handle = await connections.handle()
            await handle.wait_connected(PATIENCE)
            yield Trio(bench, fleet, handle)
            bench.connections = None


def load(stream: str, **entry: Any) -> JetStreamLoad:
    given = {"jetstream": stream, "rate": "50/s", "settle": "1s", "timeout": "20s", "attempt": "1s"}
    return JetStreamLoad.model_validate(given | entry)


async def test_what_is_told_of_a_message_that_was_lost(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stream, with one of its replicas away; and in delivery, by a consumer that forgot where it was."""
    monkeypatch.setattr("supervisor.loads.losses.EVIDENCE", PATIENCE)
    monkeypatch.setattr("supervisor.loads.server_logs.READING", PATIENCE)
    async with trio.running(load("SOAK", replicas=3)) as context:
        leader = await trio.leader("SOAK")
        away = next(node for node in NODES if node != leader)
        async with trio.held_back("SOAK") as consumer:
            gone = await trio.published("SOAK")
            await trio.fleet.stop(away, by="test")
            acked_by = await trio.leader("SOAK")
            await trio.published("SOAK")
            await trio.ask("STREAM.MSG.DELETE.SOAK", {"seq": gone})
            await trio.bench.until_counted(context, "lost_in_stream", 1)
        async with trio.held_back("SOAK"):
            await trio.published("SOAK", 5)
            await trio.begin_anew("SOAK", consumer)
        await trio.bench.until_counted(context, "lost_in_delivery", 1)
    counts = trio.bench.counts
    assert counts["lost_in_stream"] == 1
    assert counts["lost_in_delivery"] >= 5
    assert counts["lost"] == counts["lost_middle"] == 1 + counts["lost_in_delivery"]
    first, second = (event.data for event in trio.lost("SOAK")[:2])
    assert (first["fate"], first["where"]) == ("stream", "middle")
    assert (first["subject"], first["stream"], first["sequence"]) == ("soak.SOAK", "SOAK", gone)
    assert first["published"] <= first["acked"]
    assert first["acked_by"] in (leader, acked_by, f"{leader} or {acked_by}")
    assert first["connected_to"].startswith("127.0.0.1:")
    assert first["neighbours"][f"message {gone}"] == "none"
    assert len(first["neighbours"]) == 5
    held = {node: replica["holds"] for node, replica in first["replicas"].items()}
    assert held.pop(away) == "unknown", "it is down, so nobody can say"
    assert set(held.values()) <= {"no", "unknown"}
    assert "no" in held.values()
    assert first["logs"].keys() == set(NODES)
    for node, file in first["logs"].items():
        assert "nats-server" in (trio.bench.journal.run_dir / file).read_text(), node
    assert second["fate"] == "delivery"
    assert {replica["holds"] for replica in second["replicas"].values()} >= {"yes"}
    assert (await trio.ask("STREAM.NAMES"))["streams"] == ["SOAK"], "kept as evidence"


async def test_a_store_that_was_wiped_has_lost_all_it_acknowledged(trio: Trio) -> None:
    """The stream comes back empty, without our durable consumer; all that nobody has read is lost, and what follows is not."""
    async with trio.running(load("WIPED")) as context:
        node = await trio.leader("WIPED")
        async with trio.held_back("WIPED"):
            await trio.published("WIPED")
            await trio.fleet.stop(node, by="test")
            shutil.rmtree(trio.bench.journal.run_dir / "units" / node / "jetstream")
            await trio.fleet.start(node, by="test")
            await trio.bench.until_counted(context, "lost_in_stream", 20)
        before = trio.bench.counts["ok"]
        await trio.bench.until_counted(context, "ok", int(before) + 50)
    counts = trio.bench.counts
    assert counts["lost"] == counts["lost_in_stream"]
    assert not counts.get("undecided")
    data = trio.lost("WIPED")[0].data
    assert data["acked_by"] == node
    assert data["replicas"][node]["holds"] in ("no", "another")
