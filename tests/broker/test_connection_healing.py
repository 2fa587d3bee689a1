"""A handle is usable again soon after its server, whatever happened to it; `scripts/prove_monitor` measures how soon."""

from __future__ import annotations

import re
import time

import anyio
import nats.errors
import pytest
from handles import WITHIN, down, states, usable
from nats.aio.msg import Msg
from nats_servers import NatsServer, Start, until

from supervisor.broker.connection import BrokerError, Handle, open_connections
from supervisor.broker.healing import PATIENCE
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")


async def refused(handle: Handle, because: str) -> None:
    """Wait until it says that it cannot be used and why: of several attempts, not each one learns the reason."""
    with anyio.fail_after(WITHIN):
        while True:
            with pytest.raises(BrokerError) as caught:
                await handle.wait_connected(0.05)
            if re.search(because, str(caught.value)):
                return


async def fill(handle: Handle, quarters: int) -> None:
    """Publish so many times 256 KiB."""
    for _ in range(quarters):
        await handle.nc.publish("fill", bytes(256 * 1024))


async def test_the_plain_case(handle: Handle, changes: list[BrokerChanged]) -> None:
    assert handle.connected
    assert 0 < await handle.canary(WITHIN) < WITHIN
    await until(lambda: states(changes) == ["connected"])
    assert changes[0].connection == "default"


async def test_a_server_that_restarts(
    handle: Handle, server: NatsServer, changes: list[BrokerChanged]
) -> None:
    await server.stop()
    await down(handle)
    with pytest.raises(BrokerError, match="not connected"):
        await handle.canary()
    await server.start()
    await usable(handle)
    await until(lambda: states(changes) == ["connected", "disconnected", "reconnected"])


async def test_a_server_that_is_killed_and_stays_away(handle: Handle, server: NatsServer) -> None:
    await server.kill()
    await down(handle)
    await anyio.sleep(1.2)  # long enough for several rounds of every kind of attempt
    await refused(handle, f"cannot use the broker at nats://{server.address}.*refused")
    await server.start()
    await usable(handle)


async def test_a_server_that_is_paused(handle: Handle, server: NatsServer) -> None:
    server.pause()
    await down(handle)
    await anyio.sleep(1.5)  # an attempt to reconnect fails meanwhile, and leaves nothing
    server.resume()
    await usable(handle)


async def test_a_flush_that_timed_out_does_not_end_the_read_loop(
    handle: Handle, server: NatsServer, changes: list[BrokerChanged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In nats-py the late PONG meets a cancelled future, the read loop ends and is_connected stays true."""
    monkeypatch.setattr("supervisor.broker.healing.DEADLINE", WITHIN)  # the pause is not what it is healed of
    client = handle.nc
    server.pause()
    with pytest.raises(nats.errors.FlushTimeoutError):
        await client.flush(timeout=0.2)  # type: ignore[arg-type]
    server.resume()
    await usable(handle)
    assert handle.nc is client
    assert client._reading_task is not None
    assert not client._reading_task.done()
    assert "disconnected" not in states(changes)


async def test_a_dead_read_loop(handle: Handle, changes: list[BrokerChanged]) -> None:
    """Whatever ends it: the client believes to be connected, the canary knows better."""
    reader = handle.nc._reading_task
    assert reader is not None
    reader.cancel()
    await until(reader.done)
    assert handle.nc.is_connected
    await until(lambda: states(changes) == ["connected", "disconnected", "reconnected"], WITHIN)
    await usable(handle)


async def test_a_dead_reconnect(handle: Handle, server: NatsServer) -> None:
    client = handle.nc
    await server.kill()
    await down(handle)
    await until(lambda: client._reconnection_task is not None)
    assert client._reconnection_task is not None
    client._reconnection_task.cancel()
    await server.start()
    await usable(handle)


async def test_unsent_bytes_to_a_paused_server(handle: Handle, server: NatsServer) -> None:
    """nats-py would wait for the paused server to close the old socket before it tries a new one (#671)."""
    server.pause()
    with anyio.move_on_after(0.5):
        await fill(handle, 64)
    await down(handle)
    server.resume()
    await usable(handle)


async def test_unsent_bytes_while_another_server_is_there(
    cluster: list[NatsServer], journal: JournalWriter
) -> None:
    broker = Broker.model_validate({"servers": [server.address for server in cluster]})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle("default")
        await handle.wait_connected(WITHIN)
        paused = next(server for server in cluster if server.address == handle.nc.server)
        paused.pause()
        with anyio.move_on_after(0.5):
            await fill(handle, 64)
        await until(lambda: handle.connected and handle.nc.server != paused.address, WITHIN)
        await usable(handle)


async def test_a_stale_connection_with_unsent_bytes_keeps_its_client(
    cluster: list[NatsServer], journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same when nats-py itself finds the connection stale: its subscriptions and unsent messages live on."""
    monkeypatch.setattr("supervisor.broker.healing.PATIENCE", 30)  # no new client
    broker = Broker.model_validate({"servers": [server.address for server in cluster]})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle("default")
        client = handle.nc
        paused = next(server for server in cluster if server.address == client.server)
        paused.pause()
        with anyio.move_on_after(0.2):
            await fill(handle, 64)
        await client._process_op_err(nats.errors.StaleConnectionError())
        await until(lambda: client.is_connected and client.server != paused.address, WITHIN)
        await usable(handle)
        assert handle.nc is client


async def test_unsent_bytes_after_an_error_of_the_server(handle: Handle) -> None:
    """nats-py closes in a task that nobody looks at, and raises there."""
    client = handle.nc
    client._wire.abort()
    await client._send_command(b"PUB unsent 1\r\n1\r\n")
    await client._process_err("'maximum connections exceeded'")
    await until(lambda: client.is_closed and not client._closers)
    await usable(handle)
    assert handle.nc is not client


async def test_a_full_buffer(handle: Handle, server: NatsServer) -> None:
    """nats-py raises, or blocks, once its `pending_size` is full; the handle heals all the same."""
    await server.kill()
    await until(lambda: handle.nc.is_reconnecting)
    with pytest.raises(nats.errors.OutboundBufferLimitError):
        await fill(handle, 100)
    await server.start()
    await usable(handle)
    await handle.nc.publish("fill", b"more")


async def test_credentials_that_are_revoked_for_a_while(
    start: Start, journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    """An Authorization Violation closes a client of nats-py for good."""
    good, bad = (f"authorization {{ user: soak, password: {word} }}" for word in ("right", "wrong"))
    server = await start(good)
    broker = Broker.model_validate({"servers": server.address, "user": "soak", "password": "right"})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle("default")
        await handle.wait_connected(WITHIN)
        await server.reload(bad)
        await down(handle)
        await until(lambda: "rejected" in states(changes))
        await anyio.sleep(1.5)
        await refused(handle, r"(?i)authorization violation")
        await until(lambda: server.log.count("authentication error") >= 2)
        assert server.log.count("authentication error") < 30, "it should try again, and not like mad"
        await server.reload(good)
        await usable(handle)
    assert states(changes).count("rejected") == 1
    refusal = next(change for change in changes if change.state == "rejected")
    assert "authorization violation" in refusal.detail.lower()


async def test_an_error_of_the_server_that_closes_the_client(
    start: Start, journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    """nats-py takes every -ERR but two for the end, also those after which the server goes on."""
    server = await start("max_subscriptions: 8")
    async with open_connections(Broker.model_validate({"servers": server.address}), journal) as connections:
        handle = await connections.handle("default")
        client = handle.nc
        for n in range(8):
            await client.subscribe(f"more.{n}")
        await until(lambda: client.is_closed)
        await usable(handle)
        assert handle.nc is not client
        await until(lambda: "reconnected" in states(changes))
    refusal = next(change for change in changes if change.state == "rejected")
    assert "maximum subscriptions exceeded" in refusal.detail


async def test_a_server_that_ends_each_client_is_not_hammered(
    start: Start, journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    async def ignore(_: Msg) -> None:
        pass

    server = await start("max_subscriptions: 3")
    async with open_connections(Broker.model_validate({"servers": server.address}), journal) as connections:
        handle = await connections.handle()
        for n in range(4):
            await handle.subscribe(f"too.many.{n}", ignore)
        clients, began = {handle.nc}, anyio.current_time()
        with anyio.fail_after(WITHIN):
            while len(clients) < 4:
                clients.add(handle.nc)
                await anyio.sleep(0.002)
        # Of the three that were built, at least two came after another one that lived shortly.
        assert anyio.current_time() - began > 2 * PATIENCE * 0.7
    assert len(changes) < 20


async def test_a_server_that_comes_late(
    server: NatsServer, broker: Broker, journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    await server.stop()
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle("default")
        assert not handle.connected
        with pytest.raises(BrokerError, match="refused"):
            _ = handle.nc
        await server.start()
        await usable(handle)
    await until(lambda: states(changes) == ["connected", "closed"])


async def test_our_own_event_loop_that_stands_still(handle: Handle, changes: list[BrokerChanged]) -> None:
    client = handle.nc
    time.sleep(1.5)  # noqa: ASYNC251  # the disturbance
    await usable(handle)
    assert handle.nc is client
    await until(lambda: bool(changes))
    assert states(changes) == ["connected"]
