"""Bugs of nats-py that soakd meets by not using what has them; the others stand with the handle, the watch and the loads.

The table "What nats-py does wrong" in docs/architecture.md has them all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import anyio.lowlevel
import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig
from nats_servers import NatsServer, until

from supervisor.broker.api import call, each, stream_subjects
from supervisor.broker.client import Signal
from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.housekeeping import cleanup, snapshot
from supervisor.broker.options import Broker
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

LOOKS = 40
KEYS = 300
MESSAGES = 20_000


@pytest.fixture
async def handle(broker: Broker, journal: JournalWriter) -> AsyncIterator[Handle]:
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        await handle.wait_connected(20)
        yield handle


async def put(handle: Handle, *keys: str) -> None:
    async def one(key: str) -> None:
        await handle.request(f"$KV.B.{key}", b"value")

    await each(keys, one)


async def test_keys_are_looked_at_without_a_consumer(handle: Handle) -> None:
    """`kv.keys()` leaves an ephemeral consumer behind each time: forty calls, forty consumers for five minutes."""
    await (await handle.jetstream()).create_key_value(KeyValueConfig(bucket="B"))
    await put(handle, *(f"k{n}" for n in range(KEYS)))
    before = await snapshot(handle, ["B"], None)
    for n in range(LOOKS):
        await put(handle, f"new{n}")
        done = await cleanup(handle, buckets=["B"], streams=None, existing=before)
        assert done.entries == 1
        assert len(await stream_subjects(handle, "KV_B", "$KV.B.>")) == KEYS
        assert (await call(handle, "CONSUMER.NAMES.KV_B")).get("consumers") in (None, [])


async def test_no_key_is_missed_while_others_change_and_an_empty_bucket_is_no_error(handle: Handle) -> None:
    """`keys()` and `history()` raise a false NoKeysError, or return a part, where writers are busy (#842)."""
    await (await handle.jetstream()).create_key_value(KeyValueConfig(bucket="B"))
    assert await stream_subjects(handle, "KV_B", "$KV.B.>") == set()
    stay = {f"$KV.B.stay{n}" for n in range(KEYS)}
    await put(handle, *(subject.removeprefix("$KV.B.") for subject in stay))
    stop = anyio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await put(handle, f"come{n}", f"stay{n % KEYS}")
            await call(handle, "STREAM.PURGE.KV_B", {"filter": f"$KV.B.come{n}"})

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(write)
        for _ in range(LOOKS):
            assert await stream_subjects(handle, "KV_B", "$KV.B.>") >= stay
        stop.set()


async def test_subscriptions_are_callbacks_not_iterators(handle: Handle) -> None:
    """`async for msg in sub` takes about ten times as long (#541); compared here in processor time of one process."""
    heard = 0

    async def hear(_: Msg) -> None:
        nonlocal heard
        heard += 1

    async def send(subject: str) -> None:
        for n in range(MESSAGES):
            await handle.nc.publish(subject, b"x")
            if not n % 500:
                await anyio.lowlevel.checkpoint()

    await handle.subscribe("ours", hear)
    start = time.process_time()
    await send("ours")
    await until(lambda: heard == MESSAGES)
    ours = time.process_time() - start

    iterated = await handle.nc.subscribe("theirs")
    start = time.process_time()
    await send("theirs")
    left = MESSAGES
    with anyio.fail_after(30):
        async for _ in iterated.messages:
            left -= 1
            if not left:
                break
    assert ours < time.process_time() - start


async def test_callbacks_of_the_client_never_raise(handle: Handle, server: NatsServer) -> None:
    """A `disconnected_cb` that raises leaves nats-py reconnecting for ever; ours meets a full and then a closed stream."""
    for _ in range(500):
        handle._notice(Signal(handle.nc, "reconnected"))
    await server.kill()
    await until(lambda: not handle.connected)
    await server.start()
    await handle.wait_connected(20)
    client = handle.nc
    await handle.aclose()
    await client._on_disconnected()
    with suppress(nats.errors.Error):
        await client._on_error(nats.errors.StaleConnectionError())
