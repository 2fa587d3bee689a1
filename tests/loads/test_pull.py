"""Reading a stream goes on, whatever became of a pull."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator

import anyio
import nats
import nats.errors
import pytest
from load_bench import PATIENCE, until
from nats.aio.client import Client
from nats.js.api import ConsumerConfig
from nats_bench import NatsBench

from supervisor.loads.clients import LoadClient
from supervisor.loads.pull import Pull

NEXT = "$JS.API.CONSUMER.MSG.NEXT.S.reader"
AGAIN = 1.0
"""Seconds after which the server delivers again what nobody acknowledged."""


class Stream:
    """A stream with a consumer, and what our pull has taken from it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.taken: Counter[bytes] = Counter()
        self._numbers = itertools.count()

    def take(self, payload: bytes, *_: object) -> None:
        self.taken[payload] += 1

    async def publish(self, count: int = 5) -> None:
        """Publish, on a server that may be just coming back, and wait until our pull has taken it all."""
        for _ in range(count):
            payload = b"%d" % next(self._numbers)
            with anyio.fail_after(PATIENCE):
                while True:
                    try:
                        await self.client.jetstream().publish("s", payload, timeout=0.5)
                        break
                    except (nats.errors.Error, TimeoutError):
                        await anyio.sleep(0.1)
        sent = next(self._numbers)
        self._numbers = itertools.count(sent)
        await until(lambda: len(self.taken) == sent)


@pytest.fixture
async def stream(nats_bench: NatsBench) -> AsyncIterator[Stream]:
    broker = nats_bench.server.broker
    client = await nats.connect(
        broker["servers"][0], user=broker["user"], password=broker["password"], reconnect_time_wait=0.1
    )
    await client.jetstream().add_stream(name="S", subjects=["s"])
    await client.jetstream().add_consumer("S", ConsumerConfig(durable_name="reader", ack_wait=AGAIN))
    yield Stream(client)
    await client.close()


async def test_a_pull_that_nobody_answers_or_listens_to_stops_nothing(
    nats_bench: NatsBench, stream: Stream
) -> None:
    """nats-py's `fetch` of several messages stalls on the orphan that it, or its server's death, has left (#986, #504)."""
    server, connections = nats_bench.server, nats_bench.bench.connections
    assert connections is not None
    async with await connections.new("default", "reader") as handle, anyio.create_task_group() as group:
        await handle.wait_connected(PATIENCE)
        pull = Pull(LoadClient(handle), NEXT, stream.take)
        await pull.open()
        group.start_soon(pull.run)
        await stream.publish()

        async with nats_bench.frozen():
            await until(lambda: not handle.connected)
        await stream.publish()

        server.stop()
        await server.start()
        await stream.publish()

        deaf = await stream.client.subscribe("orphan")  # it takes messages and never acknowledges them
        await stream.client.publish(NEXT, b'{"batch": 3, "expires": 60000000000}', reply="orphan")
        await stream.publish(20)
        assert deaf.pending_msgs == 3
        await deaf.unsubscribe()
        await stream.client.publish(NEXT, b'{"batch": 100, "expires": 60000000000}', reply="orphan")
        await stream.publish(20)
        group.cancel_scope.cancel()
