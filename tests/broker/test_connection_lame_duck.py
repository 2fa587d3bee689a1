"""A server that is about to leave: what the connection reports, and moving to another one before it goes."""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import AsyncExitStack

import anyio
import nats.errors
import pytest
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats_servers import BINARY, NatsServer, Start, until

from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

VERSION = (
    subprocess.run([BINARY, "--version"], check=True, capture_output=True, text=True)
    .stdout.split("v")[-1]
    .strip()
)
WITHIN = 20.0
"""Seconds for a connection on a busy machine."""
LEAVES = 60.0
"""Seconds after which a server in lame-duck mode is gone on a busy machine: it ends its clients one by one."""
RATE = 200
"""Requests a second: enough for some to be in flight at any moment of a move."""


class Requester:
    """Sends requests at a rate through a handle, each in its own task, and counts what came of them."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.answered = 0
        self.failed: list[str] = []
        self.slowest = 0.0

    async def run(self, stop: anyio.Event) -> None:
        async with anyio.create_task_group() as group:
            start, n = anyio.current_time(), 0
            while not stop.is_set():
                group.start_soon(self._one)
                n += 1
                await anyio.sleep_until(start + n / RATE)

    async def _one(self) -> None:
        start = anyio.current_time()
        try:
            await self.handle.request("echo", b"hello", timeout=WITHIN)
        except nats.errors.Error as error:
            self.failed.append(repr(error))
        else:
            self.answered += 1
        self.slowest = max(self.slowest, anyio.current_time() - start)


class Responder:
    """Answers each request after a while, so that some are on their way at any moment."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group

    async def hear(self, msg: Msg) -> None:
        self._group.start_soon(self._answer, msg)

    async def _answer(self, msg: Msg) -> None:
        await anyio.sleep(0.02)
        await msg.respond(msg.data)


def introduction(server: NatsServer) -> str:
    """Return what a server says to whoever connects: about itself, and where the others are."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN) as client:
        return client.makefile().readline()


async def test_make_before_break_fails_no_request(
    cluster: list[NatsServer], journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    """Requester and responders all sit on the server that leaves; it exits only after its clients had to be elsewhere."""
    leaving, *others = cluster
    first = Broker.model_validate({"servers": [leaving.address]})
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(open_connections(first, journal))
        requester = Requester(await connections.new("default", "requests", make_before_break=True))
        responder = await connections.new("default", "responder", make_before_break=True)
        group = await stack.enter_async_context(anyio.create_task_group())
        await responder.subscribe("echo", Responder(group).hear, queue="responders")
        await responder.canary(WITHIN)
        old = requester.handle.nc
        await until(lambda: len(old.discovered_servers) == 2)
        stop = anyio.Event()
        async with anyio.create_task_group() as requests:
            requests.start_soon(requester.run, stop)
            await until(lambda: requester.answered > RATE // 2)
            leaving.send(signal.SIGUSR2)
            await until(lambda: requester.handle.nc is not old, LEAVES)
            assert await leaving.ended(LEAVES) == 0
            before = requester.answered
            await until(lambda: requester.answered > before + RATE // 2)
            stop.set()
        assert requester.failed == []
        for handle in (requester.handle, responder):
            assert handle.connected
            assert handle.nc.server in {server.address for server in others}
        assert old.is_closed
    mine = [c.state for c in changes if c.connection == "default (requests)" and c.state != "discovered"]
    assert mine[:3] == ["connected", "lame-duck", "reconnected"]
    moved = next(change for change in changes if change.state == "reconnected")
    assert moved.detail == f"moved from {leaving.address}, which is about to leave"


async def test_without_it_the_connection_reports_and_is_back_after_the_eviction(
    cluster: list[NatsServer],
    journal: JournalWriter,
    changes: list[BrokerChanged],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "supervisor.broker.healing.PATIENCE", LEAVES
    )  # however busy the machine: no new client
    leaving = cluster[0]
    broker = Broker.model_validate({"servers": [leaving.address]})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        client = handle.nc
        await until(lambda: len(client.discovered_servers) == 2)
        leaving.send(signal.SIGUSR2)
        await until(lambda: "reconnected" in [change.state for change in changes], LEAVES)
        assert handle.nc is client
        assert handle.nc.server != leaving.address
    told = [change for change in changes if change.state not in {"discovered", "closed"}]
    assert [change.state for change in told] == ["connected", "lame-duck", "disconnected", "reconnected"]
    assert told[1].detail == f"n1 {VERSION}"


async def test_nowhere_to_go(start: Start, journal: JournalWriter, changes: list[BrokerChanged]) -> None:
    """The only server announces its end: the handle stays on it to the last, and is back when the server is."""
    server = await start("lame_duck_duration: 30s\nlame_duck_grace_period: 1s\n")
    broker = Broker.model_validate({"servers": [server.address]})
    async with open_connections(broker, journal) as connections:
        handle = await connections.new("default", "only", make_before_break=True)
        heard: list[str] = []
        handle.listen(heard.append)
        server.send(signal.SIGUSR2)
        await until(lambda: "lame-duck" in heard)
        assert handle.nc._server_info["ldm"], "a look at the cluster's health reads it there"
        await handle.canary()  # it has a second for that; what the journal is told may come later
        await until(lambda: "lame-duck" in [change.state for change in changes])
        await server.ended(LEAVES)
        await server.start()
        await handle.wait_connected(WITHIN)


async def test_new_servers_are_reported_and_vanished_ones_forgotten(
    cluster: list[NatsServer],
    journal: JournalWriter,
    changes: list[BrokerChanged],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker.model_validate({"servers": [server.address for server in cluster[:2]]})
    await cluster[2].kill()
    await until(lambda: not any(cluster[2].address in introduction(server) for server in cluster[:2]))
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        await cluster[2].start()
        await until(lambda: "discovered" in [change.state for change in changes])
        found = next(change for change in changes if change.state == "discovered")
        assert cluster[2].address in found.detail
        assert handle.connected
        monkeypatch.setattr("supervisor.broker.mended.FEW", 0)
        await cluster[2].kill()
        await until(lambda: cluster[2].address not in {url.netloc for url in handle.nc.servers})
