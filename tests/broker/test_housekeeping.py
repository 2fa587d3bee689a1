"""Cleanup removes what a load left behind, and never what existed before the run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType, StreamConfig
from nats.js.kv import KeyValue
from nats_servers import NatsServer

from supervisor.broker.api import ApiError, call, stream_names
from supervisor.broker.connection import BrokerError, Handle, open_connections
from supervisor.broker.housekeeping import Existing, cleanup, snapshot
from supervisor.broker.options import Broker
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
async def handle(broker: Broker, journal: JournalWriter) -> AsyncIterator[Handle]:
    async with open_connections(broker, journal) as connections:
        yield await connections.handle()


@pytest.fixture
async def js(handle: Handle) -> JetStreamContext:
    return await handle.jetstream()


@pytest.fixture
async def bucket(js: JetStreamContext) -> KeyValue:
    return await js.create_key_value(KeyValueConfig(bucket="SUBS", history=3))


async def keys(handle: Handle, name: str = "SUBS") -> set[str]:
    """All keys with a value, without leaving a consumer as `kv.keys()` does."""
    state = (await snapshot(handle, [name], None)).buckets[name]
    return set(state.keys) if state else set()


async def consumers(handle: Handle) -> int:
    return int((await call(handle, "INFO"))["consumers"])


async def clean(handle: Handle, existing: Existing | None) -> tuple[int, int]:
    cleaned = await cleanup(handle, buckets=["SUBS"], streams="stream.*[0-9]", existing=existing)
    assert cleaned.took > 0
    return cleaned.streams, cleaned.entries


async def add(js: JetStreamContext, *names: str) -> None:
    for name in names:
        await js.add_stream(name=name, subjects=[f"{name}.>"], storage=StorageType.MEMORY)


async def test_streams_match_as_a_whole_and_new_ones_go(handle: Handle, js: JetStreamContext) -> None:
    await add(js, "stream-1", "stream", "my-stream-1", "stream-2x")
    existing = await snapshot(handle, [], "stream.*[0-9]")
    assert set(existing.streams) == {"stream-1"}
    await add(js, "stream-2", "stream-30")
    cleaned = await cleanup(handle, buckets=[], streams="stream.*[0-9]", existing=existing)
    assert cleaned.streams == 2
    assert await stream_names(handle) == {"stream-1", "stream", "my-stream-1", "stream-2x"}
    assert (await cleanup(handle, buckets=[], streams="stream.*[0-9]", existing=None)).streams == 1
    assert await stream_names(handle) == {"stream", "my-stream-1", "stream-2x"}


async def test_a_recreated_stream_did_not_exist(handle: Handle, js: JetStreamContext) -> None:
    await add(js, "stream-1", "stream-2")
    existing = await snapshot(handle, [], "stream.*")
    await js.delete_stream("stream-1")
    await add(js, "stream-1")
    await cleanup(handle, buckets=[], streams="stream.*", existing=existing)
    assert await stream_names(handle) == {"stream-2"}


async def test_a_stream_of_unknown_age_stays(handle: Handle, js: JetStreamContext) -> None:
    await add(js, "stream-1", "stream-2")
    cleaned = await cleanup(handle, buckets=[], streams="stream.*", existing=Existing({"stream-1": None}))
    assert cleaned.streams == 1
    assert await stream_names(handle) == {"stream-1"}


async def test_entries_of_a_bucket_that_was_empty(handle: Handle, bucket: KeyValue) -> None:
    existing = await snapshot(handle, ["SUBS"], None)
    for n in range(20):
        await bucket.put(f"key.{n}", b"value")
        await bucket.put(f"key.{n}", b"another")
    assert await clean(handle, existing) == (0, 20)
    assert await keys(handle) == set()
    assert await clean(handle, existing) == (0, 0)
    assert await consumers(handle) == 0


async def test_entries_that_existed_stay(handle: Handle, bucket: KeyValue) -> None:
    await bucket.put("old", b"1")
    await bucket.put("old.too", b"1")
    existing = await snapshot(handle, ["SUBS"], None)
    await bucket.put("old", b"2")
    for n in range(200):
        await bucket.put(f"new.{n}", b"1")
    assert await clean(handle, existing) == (0, 200)
    assert await keys(handle) == {"old", "old.too"}
    assert (await bucket.get("old")).value == b"2"
    assert await clean(handle, None) == (0, 2)
    assert await keys(handle) == set()
    assert await consumers(handle) == 0


async def test_a_deleted_key_did_not_exist(handle: Handle, bucket: KeyValue) -> None:
    """Otherwise a soak on a used system would never clean up the keys its tests use each time."""
    await bucket.put("kept", b"1")
    for name in ("deleted", "purged"):
        await bucket.put(name, b"1")
    await bucket.delete("deleted")
    await bucket.purge("purged")
    existing = await snapshot(handle, ["SUBS"], None)
    state = existing.buckets["SUBS"]
    assert state is not None
    assert state.keys == {"kept"}
    await bucket.put("deleted", b"2")
    await clean(handle, existing)
    assert await keys(handle) == {"kept"}


async def test_a_bucket_that_comes_later_or_again(handle: Handle, js: JetStreamContext) -> None:
    existing = await snapshot(handle, ["SUBS"], None)
    assert existing.buckets == {"SUBS": None}
    assert await clean(handle, existing) == (0, 0)
    bucket = await js.create_key_value(KeyValueConfig(bucket="SUBS"))
    await bucket.put("key", b"1")
    assert await clean(handle, existing) == (0, 1)

    await bucket.put("key", b"1")
    existing = await snapshot(handle, ["SUBS"], None)
    await js.delete_key_value("SUBS")
    bucket = await js.create_key_value(KeyValueConfig(bucket="SUBS"))
    await bucket.put("key", b"of the new bucket")
    assert await clean(handle, existing) == (0, 1)


async def test_only_what_the_snapshot_covers(handle: Handle, bucket: KeyValue) -> None:
    existing = await snapshot(handle, [], None)
    with pytest.raises(ValueError, match="does not cover bucket SUBS"):
        await clean(handle, existing)


async def test_more_than_a_page_of_streams(handle: Handle, js: JetStreamContext) -> None:
    """nats-py's own list ends after its first page."""

    async def make(first: int) -> None:
        for n in range(first, 1100, 20):
            await js.add_stream(StreamConfig(name=f"s{n}", subjects=[f"s{n}"], storage=StorageType.MEMORY))

    async with anyio.create_task_group() as group:
        for first in range(20):
            group.start_soon(make, first)
    assert await stream_names(handle) == {f"s{n}" for n in range(1100)}
    existing = await snapshot(handle, [], "s[0-9]+")
    assert len(existing.streams) == 1100
    await add(js, "s9999")
    assert (await cleanup(handle, buckets=[], streams="s[0-9]+", existing=existing)).streams == 1
    assert (await cleanup(handle, buckets=[], streams="s[0-9]+", existing=None)).streams == 1100


async def test_a_list_that_changes_while_it_is_read_hides_nothing(
    server: NatsServer, journal: JournalWriter
) -> None:
    """A responder plays an API whose first page loses a name before the second one is asked for."""
    names = [f"s{n}" for n in range(6)]
    asked: list[int] = []

    async def answer(msg: Msg) -> None:
        offset = json.loads(msg.data)["offset"]
        asked.append(offset)
        if len(asked) == 2:
            names.pop(0)
        page = {"total": len(names), "streams": names[offset : offset + 3]}
        await msg.respond(json.dumps(page).encode())

    broker = Broker.model_validate({"servers": server.address, "domain": "played"})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        await handle.subscribe(f"{handle.api_prefix}.STREAM.NAMES", answer)
        assert await stream_names(handle) == {f"s{n}" for n in range(6)}
    assert asked == [0, 3, 0, 3]


async def test_every_call_has_a_deadline(handle: Handle, server: NatsServer) -> None:
    with pytest.raises(ApiError, match=r"STREAM.INFO.none: stream not found \(10059\)") as caught:
        await call(handle, "STREAM.INFO.none")
    assert (caught.value.code, caught.value.err_code) == (404, 10059)
    server.pause()
    with pytest.raises(BrokerError, match=r"no answer within 0\.2s"):
        await call(handle, "INFO", deadline=0.2)
    server.resume()
    await handle.wait_connected(20)


async def test_a_cluster_without_quorum_loses_nothing(
    cluster: list[NatsServer], journal: JournalWriter
) -> None:
    """What cannot be seen counts as there: no snapshot, and no cleanup, is made of half the truth."""
    broker = Broker.model_validate({"servers": [server.address for server in cluster]})
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        await until_ready(handle)
        for name in ("stream-1", "stream-2"):
            config = {"name": name, "subjects": [name], "num_replicas": 3}
            await until_ready(handle, f"STREAM.CREATE.{name}", config)  # refused until all nodes are there
        with anyio.fail_after(30):
            while None in (existing := await snapshot(handle, [], "stream.*")).streams.values():  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.1)  # one whose leader is not heard yet
        assert set(existing.streams) == {"stream-1", "stream-2"}
        here = next(server for server in cluster if server.address == handle.nc.server)
        others = [server for server in cluster if server is not here]
        for server in others:
            await server.kill()
        with anyio.move_on_after(1), suppress(BrokerError):
            assert (await cleanup(handle, buckets=[], streams="stream.*", existing=existing)).streams == 0
        for server in others:
            await server.start()
        for name in existing.streams:
            await until_ready(handle, f"STREAM.INFO.{name}")
        await until_ready(handle)
        assert await stream_names(handle) == {"stream-1", "stream-2"}
        assert (await cleanup(handle, buckets=[], streams="stream.*", existing=existing)).streams == 0


async def until_ready(
    handle: Handle, question: str = "STREAM.NAMES", body: dict[str, Any] | None = None
) -> None:
    """Wait until there is a leader who answers."""
    with anyio.fail_after(60):
        while True:
            with suppress(BrokerError):
                await call(handle, question, body, deadline=2)
                return
            await anyio.sleep(0.05)
