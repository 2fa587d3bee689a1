"""The embedded cluster: what it expands to, and that it is one."""

from __future__ import annotations

import json
import signal
import socket
import stat
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from anyio import to_thread
from nats.aio.client import Client
from nats.js.api import StreamConfig
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

from supervisor.broker.embedded import Embedded, expand
from supervisor.broker.options import Broker
from supervisor.broker.ports import free_ports
from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.events import Cause, UnitExited
from supervisor.journal.writer import JournalWriter

# --- what it expands to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_it_expands_to_process_units_and_a_broker_section(nodes: int) -> None:
    engine, broker = expand({"nodes": nodes}, count(20_001))
    names = [f"nats{n}" for n in range(1, nodes + 1)]
    units = ProcessEngine.model_validate(engine).process.units
    parsed = Broker.model_validate(broker)
    assert list(units) == list(parsed.nodes) == names
    assert parsed.servers == tuple(f"nats://127.0.0.1:{20_001 + 3 * n}" for n in range(nodes))
    for n, unit in enumerate(units.values()):
        config = unit.files["nats.conf"]
        assert unit.command[1:] == ("-c", "nats.conf")
        assert unit.stop_signal == signal.SIGTERM
        assert unit.ready
        assert unit.ready.http == f"http://127.0.0.1:{20_002 + 3 * n}/healthz"
        assert unit.after == (), "a meta leader needs a majority: nodes cannot wait for each other"
        assert f'listen: "127.0.0.1:{20_001 + 3 * n}"' in config
        assert ("cluster" in config) == (nodes > 1)
        assert config.count("nats://") == (nodes if nodes > 1 else 0)
        assert "0.0.0.0" not in config  # noqa: S104  # that it is not there
        assert parsed.nodes[names[n]].monitor == f"http://127.0.0.1:{20_002 + 3 * n}"


def test_it_is_pure() -> None:
    assert expand({"nodes": 3}, count(20_001)) == expand({}, count(20_001))


def test_settings_of_the_store() -> None:
    engine, _ = expand({"nodes": 1, "sync_interval": "1.5s", "max_file": "2GB"}, count(20_001))
    config = engine["process"]["units"]["nats1"]["files"]["nats.conf"]
    assert "sync_interval: 1500ms\n" in config
    assert "max_file_store: 2GB\n" in config
    engine, _ = expand({"nodes": 1, "sync_interval": "always"}, count(20_001))
    assert "sync_interval: always\n" in engine["process"]["units"]["nats1"]["files"]["nats.conf"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"nodes": 2},
            "expected 1, 3 or 5 nodes: 2 survive the loss of no more nodes than 1, since a majority must stay",
        ),
        ({"nodes": 4}, "4 survive the loss of no more nodes than 3"),
        ({"nodes": 0}, "expected 1, 3 or 5 nodes"),
        ({"nodes": 7}, "expected 1, 3 or 5 nodes"),
        ({"nods": 3}, "Extra inputs are not permitted"),
        ({"sync_interval": "soon"}, "expected a duration"),
        ({"sync_interval": "0s"}, "expected at least 1ms, or always"),
        ({"max_file": "much"}, "String should match pattern"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(spec, count(20_001))


def test_which_nats_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(**spec: Any) -> str:
        engine, _ = expand({"nodes": 1, **spec}, count(20_001), tmp_path)
        return str(engine["process"]["units"]["nats1"]["command"][0])

    assert program() == str(Path(sys.executable).parent / "nats-server")
    assert program(command="nats-server-2.9") == "nats-server-2.9"
    assert program(command="bin/nats-server") == str(tmp_path / "bin" / "nats-server")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        ValueError,
        match=r"cannot find nats-server, .* nor on PATH: install it with `pip install 'soakd\[demo\]'`",
    ):
        program()
    (tmp_path / "bin").mkdir()
    found = tmp_path / "bin" / "nats-server"
    found.touch()
    found.chmod(found.stat().st_mode | stat.S_IXUSR)
    assert program() == str(found)


def test_the_schema_is_that_of_a_model() -> None:
    assert set(Embedded.model_json_schema()["properties"]) == {
        "nodes",
        "command",
        "sync_interval",
        "max_file",
        "lame_duck_duration",
        "lame_duck_grace_period",
    }


# --- that it is one --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def cluster(journal: JournalWriter, nodes: int) -> AsyncIterator[tuple[Fleet, Broker]]:
    section, broker = expand({"nodes": nodes}, free_ports())
    engine = ProcessEngine.model_validate(section)
    assert engine.problems(journal.run_dir) == []
    context = EngineContext("embedded", f"test-{uuid.uuid4().hex}", journal.run_dir, journal.run_dir, journal)
    async with engine.open(context) as units, anyio.create_task_group() as group:
        fleet = Fleet(journal, {"embedded": units}, {u: ("embedded", u) for u in engine.unit_names()})
        group.start_soon(fleet.run)
        await fleet.start_all()
        yield fleet, Broker.model_validate(broker)
        await fleet.stop_all()
        group.cancel_scope.cancel()


@asynccontextmanager
async def connected(broker: Broker, name: str = "default") -> AsyncIterator[Client]:
    options = broker.options(name)
    assert options.password

    async def quiet(error: Exception) -> None:
        """Servers are stopped here on purpose."""

    client = await nats.connect(
        list(options.servers), user=options.user, password=options.password.get_secret_value(), error_cb=quiet
    )
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await client.close()


async def meta_leader(broker: Broker) -> str | None:
    def look() -> str | None:
        with urllib.request.urlopen(f"{broker.nodes['nats1'].monitor}/jsz", timeout=5) as answer:  # noqa: S310  # 127.0.0.1
            leader: str | None = json.load(answer)["meta_cluster"].get("leader")
            return leader

    return await to_thread.run_sync(look)


async def store(client: Client, subject: str, data: bytes) -> None:
    """Publish once, as soon as the stream is heard of everywhere: until then nobody takes it."""
    while True:
        with suppress(NoStreamResponseError):
            await client.jetstream().publish(subject, data, timeout=30)
            return
        await anyio.sleep(0.05)


async def stored(client: Client, stream: str) -> tuple[int, int]:
    """Return messages and last sequence, once the stream has elected its own leader: that comes after the meta leader."""
    jetstream = client.jetstream(timeout=1)
    while True:
        with suppress(nats.errors.TimeoutError, ServiceUnavailableError):
            state = (await jetstream.stream_info(stream)).state
            return state.messages, state.last_seq
        await anyio.sleep(0.1)


async def test_three_nodes_and_their_store_survive_a_restart_of_all(journal: JournalWriter) -> None:
    exits: list[UnitExited] = []
    journal.subscribe(
        lambda record: exits.append(record.event) if isinstance(record.event, UnitExited) else None
    )
    with anyio.fail_after(100):
        async with cluster(journal, 3) as (fleet, broker):
            assert await meta_leader(broker) in fleet.ids
            async with connected(broker) as client:
                stream = client.jetstream(timeout=30)
                await stream.add_stream(StreamConfig(name="ORDERS", subjects=["orders"], num_replicas=3))
                for n in range(10):
                    await store(client, "orders", b"%d" % n)

            by = "restart-nats#1"
            async with anyio.create_task_group() as group:
                for unit in fleet.ids:
                    group.start_soon(lambda unit=unit: fleet.stop(unit, by=by))
            for unit in fleet.ids:
                await fleet.start(unit, by=by)
            async with anyio.create_task_group() as group:
                for unit in fleet.ids:
                    group.start_soon(fleet.wait_ready, unit)
            assert await meta_leader(broker) in fleet.ids
            async with connected(broker) as client:
                assert await stored(client, "ORDERS") == (10, 10)

            async with connected(broker, "system") as system:
                answer = json.loads((await system.request("$SYS.REQ.SERVER.PING.VARZ", timeout=5)).data)
                assert answer["data"]["server_name"] in fleet.ids
                assert answer["data"]["cluster"]["name"] == "soakd"
    assert len(exits) >= 3
    assert {(gone.cause, gone.by) for gone in exits[:3]} == {(Cause.EPISODE, by)}
    stores = [journal.run_dir / "units" / unit / "jetstream" for unit in ("nats1", "nats2", "nats3")]
    assert all(store.is_dir() for store in stores)


async def test_one_node_is_enough_for_a_stream(journal: JournalWriter) -> None:
    async with cluster(journal, 1) as (fleet, broker), connected(broker) as client:
        assert fleet.ids == ("nats1",)
        await client.jetstream().add_stream(StreamConfig(name="S", subjects=["s"]))
        await client.jetstream().publish("s", b"hello")


async def test_a_server_that_cannot_start_says_why(journal: JournalWriter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = free_ports()
        section, _ = expand({"nodes": 1}, iter([taken.getsockname()[1], *(next(ports) for _ in range(2))]))
        engine = ProcessEngine.model_validate(section)
        context = EngineContext(
            "embedded", f"test-{uuid.uuid4().hex}", journal.run_dir, journal.run_dir, journal
        )
        async with engine.open(context) as units:
            fleet = Fleet(journal, {"embedded": units}, {"nats1": ("embedded", "nats1")})
            with (
                anyio.fail_after(30),
                pytest.raises(Exception, match=r"(?s)nats1.*exited with code 1.*address already in use"),
            ):
                await fleet.start_all()
