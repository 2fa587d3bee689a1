"""Closing always returns and leaves nothing, whatever the server does meanwhile; `nothing_leaks` looks after each test."""

from __future__ import annotations

import random
import socket

import anyio
import pytest
from nats.aio.msg import Msg
from nats_servers import NatsServer, until

from supervisor.broker.connection import BrokerError, open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

CLOSES = 15.0
"""Seconds within which everything is closed on a busy machine; what nats-py itself waits for may last for ever."""


async def ignore(_: Msg) -> None:
    pass


async def test_unsent_messages_still_go_out(
    server: NatsServer, broker: Broker, journal: JournalWriter
) -> None:
    heard: list[bytes] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)

    async with open_connections(broker, journal) as connections:
        listener = await connections.handle("default")
        await listener.subscribe("last.words", hear)
        await listener.canary()
        async with await connections.new("default", "a load") as handle:
            for n in range(100):
                await handle.nc.publish("last.words", b"%d" % n)
        await until(lambda: len(heard) == 100)


async def test_a_paused_server_does_not_delay_it(
    server: NatsServer, broker: Broker, journal: JournalWriter
) -> None:
    with anyio.fail_after(CLOSES) as limit:
        async with open_connections(broker, journal) as connections:
            for n in range(5):
                handle = await connections.new("default", f"load {n}")
                await handle.subscribe("news", ignore)
            server.pause()
            with anyio.move_on_after(0.3):
                for _ in range(64):
                    await handle.nc.publish("fill", bytes(256 * 1024))
            limit.deadline = anyio.current_time() + CLOSES
    server.resume()


async def test_a_server_that_never_was(journal: JournalWriter) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # and nobody listens
        broker = Broker.model_validate({"servers": f"127.0.0.1:{holder.getsockname()[1]}"})
        with anyio.fail_after(CLOSES):
            async with open_connections(broker, journal) as connections:
                handle = await connections.handle("default")
                with pytest.raises(BrokerError, match="refused"):
                    await handle.wait_connected(0.2)


async def test_a_server_that_says_nothing(journal: JournalWriter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        broker = Broker.model_validate({"servers": f"127.0.0.1:{mute.getsockname()[1]}"})
        with anyio.fail_after(CLOSES):
            async with open_connections(broker, journal) as connections:
                handle = await connections.handle("default")
                with pytest.raises(BrokerError, match="no answer within 1s"):
                    await handle.wait_connected(0.1)


async def test_a_cancelled_owner_at_any_moment(
    server: NatsServer, broker: Broker, journal: JournalWriter
) -> None:
    """Cancellation in the middle of a connect leaves nats-py with an open socket and an exception nobody retrieves."""
    rng = random.Random(5)  # noqa: S311
    for n in range(60):
        with anyio.move_on_after(rng.uniform(0, 0.01)):
            async with open_connections(broker, journal) as connections:
                handle = await connections.new("default", f"owner {n}")
                await handle.subscribe("news", ignore)
                await anyio.sleep(rng.uniform(0, 0.005))


async def test_cancelled_while_it_heals(server: NatsServer, broker: Broker, journal: JournalWriter) -> None:
    rng = random.Random(6)  # noqa: S311
    for _ in range(6):
        with anyio.CancelScope() as scope:
            async with open_connections(broker, journal) as connections:
                handle = await connections.handle("default")
                await handle.wait_connected(CLOSES)
                await server.kill()
                await anyio.sleep(rng.uniform(0, 0.2))
                await server.start()
                await anyio.sleep(rng.uniform(0, 0.2))
                scope.cancel()


async def test_a_closed_handle_says_so(
    server: NatsServer, broker: Broker, journal: JournalWriter, changes: list[BrokerChanged]
) -> None:
    async with open_connections(broker, journal) as connections:
        handle = await connections.new("default", "rpc")
        await handle.aclose()
        await handle.aclose()
        assert not handle.connected
        with pytest.raises(BrokerError, match=r"connection default \(rpc\)\): it is closed"):
            await handle.wait_connected(1)
        with pytest.raises(BrokerError):
            await handle.canary()
        await until(
            lambda: [c.state for c in changes if c.connection == "default (rpc)"] == ["connected", "closed"]
        )


async def test_shared_and_own_handles(broker: Broker, journal: JournalWriter) -> None:
    async with open_connections(broker, journal) as connections:
        shared = await connections.handle("default")
        assert await connections.handle() is shared
        own = await connections.new("default", "monitor")
        assert own is not shared
        assert own.nc is not shared.nc
        with pytest.raises(
            BrokerError, match=r"there is no connection 'sys': the broker section has default$"
        ):
            await connections.handle("sys")
