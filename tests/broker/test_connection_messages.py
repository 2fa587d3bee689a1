"""Messages on a handle: many at once on a slow way, subscriptions that survive healing, and ones that raise."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from handles import WITHIN, down, usable
from nats.aio.msg import Msg
from nats_servers import NatsServer, until

from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.mended import Callback
from supervisor.broker.options import Broker
from supervisor.journal.events import BrokerChanged
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")


MANY = 150


class Narrow:
    """A way to a server that lets bytes through slowly from some moment on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.slow = False

    async def carry(self, client: SocketStream) -> None:
        server = await anyio.connect_tcp("127.0.0.1", self._port)
        async with client, server, anyio.create_task_group() as group:
            group.start_soon(self._pass, client, server, group.cancel_scope)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                while True:
                    await client.send(await server.receive(512 if self.slow else 65536))
                    await anyio.sleep(0.01 if self.slow else 0)
            group.cancel_scope.cancel()

    @staticmethod
    async def _pass(client: SocketStream, server: SocketStream, scope: anyio.CancelScope) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await server.send(await client.receive())
        scope.cancel()


async def test_a_canary_behind_many_messages_is_no_dead_server(
    server: NatsServer,
    broker: Broker,
    journal: JournalWriter,
    changes: list[BrokerChanged],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a bucket of a hundred thousand entries, told at once to a busy machine, would be begun again and again."""
    monkeypatch.setattr("supervisor.broker.healing.BUSY", 60)  # it comes in three seconds, or in more
    heard = 0

    async def hear(_: Msg) -> None:
        nonlocal heard
        heard += 1

    narrow = Narrow(server.port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, AsyncExitStack() as stack:
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(listener.serve, narrow.carry)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # no Django here
        way = Broker.model_validate({"servers": f"127.0.0.1:{port}"})
        connections = await stack.enter_async_context(open_connections(way, journal))
        handle = await connections.new("default", "narrow")
        await handle.subscribe("many", hear)
        await handle.canary()
        direct = await stack.enter_async_context(open_connections(broker, journal))
        sender = await direct.new("default", "sender")
        client, narrow.slow = handle.nc, True
        for _ in range(MANY):  # of which some fifty pass in a second
            await sender.nc.publish("many", bytes(1024))
        await until(lambda: heard == MANY, 50)
        narrow.slow = False
        await usable(handle)
        assert handle.nc is client
        assert not [c for c in changes if c.state == "disconnected" and "narrow" in c.connection]
        group.cancel_scope.cancel()


async def test_subscriptions_survive_both_ways_of_healing(handle: Handle, server: NatsServer) -> None:
    heard: list[bytes] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)

    subscribed = await handle.subscribe("news.*", hear)
    await handle.nc.publish("news.1", b"plain")
    await until(lambda: heard == [b"plain"])

    client = handle.nc
    await server.kill()
    await down(handle)
    await server.start()
    await usable(handle)
    await handle.nc.publish("news.2", b"after a restart")
    await until(lambda: heard[-1] == b"after a restart")

    await client.end(0)  # as after an -ERR
    await until(lambda: handle.nc is not client)
    await usable(handle)
    await handle.nc.publish("news.3", b"on a new client")
    await until(lambda: heard[-1] == b"on a new client")

    await subscribed.unsubscribe()
    await handle.nc.publish("news.4", b"unheard")
    await handle.canary()
    assert len(heard) == 3


async def fails_in_a_task(_: Msg) -> None:
    raise ValueError("a bug of ours")


def fails_in_the_read_loop(_: Msg) -> None:
    raise ValueError("a bug of ours")


@pytest.mark.parametrize("fail", [fails_in_a_task, fails_in_the_read_loop])
async def test_a_subscription_that_raises_is_not_swallowed(
    broker: Broker, journal: JournalWriter, fail: Callback
) -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # it is raised where the context ends
        async with open_connections(broker, journal) as connections:
            handle = await connections.handle("default")
            await handle.subscribe("news", fail)
            await handle.nc.publish("news")
            await anyio.sleep(WITHIN)
    assert caught.group_contains(ValueError, match="a bug of ours")
