"""A bucket's entries, followed on a real server through whatever happens to it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import nats.errors
import pytest
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue
from nats_servers import NatsServer, until

from supervisor.broker import ordered
from supervisor.broker.api import call, each, stream_names
from supervisor.broker.connection import Connections, Handle, open_connections
from supervisor.broker.monitor import invariants, revisions
from supervisor.broker.monitor.picture import Picture
from supervisor.broker.monitor.snapshot import Bucket, Entry, Operation
from supervisor.broker.monitor.streams import OURS
from supervisor.broker.monitor.watching import Watch
from supervisor.broker.options import Broker
from supervisor.journal.events import EntriesChanged, Event, InvariantViolated
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

KEYS = 1_000
BLIND = 6.0
"""Seconds after which a change is seen by the latest on a busy machine, once the server has it."""


class Watched:
    """A bucket, its watch, and a connection of the test's own."""

    def __init__(self, owner: Handle, handle: Handle) -> None:
        self.owner, self.events = owner, list[Event]()
        self.picture = Picture(self.events.append)
        self.watch = Watch("B", 0.1, handle, self.picture)

    async def create(self, **config: int) -> KeyValue:
        js = await self.owner.jetstream()
        return await js.create_key_value(KeyValueConfig(bucket="B", **config))

    async def put(self, keys: int = KEYS) -> None:
        async def one(n: int) -> None:
            await self.owner.request(f"$KV.B.k{n}", b"value")

        await each(range(keys), one)

    async def insist(self, key: str) -> int:
        """Change an entry on a server that may be just coming back; return its revision."""
        with anyio.fail_after(30):
            while True:
                with suppress(nats.errors.Error):
                    answer = await self.owner.request(f"$KV.B.{key}", b"value", timeout=0.5)
                    return int(json.loads(answer.data)["seq"])

    def seen(self) -> Bucket:
        return self.watch.look()

    async def until(self, condition: Callable[[Bucket], object], seconds: float = 30) -> None:
        try:
            await until(lambda: condition(self.watch.look()), seconds)
        except TimeoutError:
            bucket = self.seen()
            raise AssertionError(f"{bucket.live} live of {len(bucket.entries)}: {bucket.why}") from None

    async def complete(self, keys: int = KEYS) -> None:
        await self.until(lambda bucket: bucket.complete and len(bucket.entries) == keys)

    def told(self) -> list[EntriesChanged]:
        self.picture.news.flush(everything=True)
        return [event for event in self.events if isinstance(event, EntriesChanged)]

    async def ours(self) -> list[str]:
        names = (await call(self.owner, "CONSUMER.NAMES.KV_B")).get("consumers") or []
        return [name for name in names if name.startswith(OURS)]


@asynccontextmanager
async def watching(connections: Connections) -> AsyncIterator[Watched]:
    owner = await connections.handle()
    await owner.wait_connected(20)
    async with await connections.new("default", "monitor") as handle, anyio.create_task_group() as group:
        watched = Watched(owner, handle)
        group.start_soon(watched.watch.run)
        yield watched
        group.cancel_scope.cancel()


@pytest.fixture
async def connections(broker: Broker, journal: JournalWriter) -> AsyncIterator[Connections]:
    async with open_connections(broker, journal) as connections:
        yield connections


@pytest.fixture
async def watched(connections: Connections) -> AsyncIterator[Watched]:
    async with watching(connections) as watched:
        yield watched
    if "KV_B" in await stream_names(watched.owner):
        with anyio.fail_after(ordered.INACTIVE - 1):  # before the server would do it
            while await watched.ours():  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.01)


async def test_a_bucket_is_seen_as_soon_as_it_is_there_with_every_change(watched: Watched) -> None:
    await watched.until(lambda bucket: "there is no bucket B" in bucket.why)
    kv = await watched.create(history=3)
    await watched.complete(0)
    await watched.put()
    await watched.until(lambda bucket: bucket.live == KEYS)
    revision = await kv.put("k1", b"new")
    await kv.delete("k2")
    await kv.purge("k3")
    await watched.until(lambda bucket: bucket.live == KEYS - 2)
    entries = watched.seen().entries
    assert entries["k1"] == Entry(revision, Operation.PUT)
    assert entries["k2"] == Entry(revision + 1, Operation.DELETE)
    assert entries["k3"] == Entry(revision + 2, Operation.PURGE)
    assert len(await watched.ours()) == 1
    (event,) = watched.told()
    assert (event.put, event.deleted, event.purged, event.vanished) == (KEYS + 1, 1, 1, 0)
    assert len(event.samples) == 10


async def test_what_was_there_before_is_no_news(watched: Watched, connections: Connections) -> None:
    await watched.create()
    await watched.put(10)
    async with watching(connections) as later:
        await later.complete(10)
        assert later.told() == []
        await later.insist("new")
        await later.complete(11)
        assert [event.samples for event in later.told()] == [("new",)]


async def test_keys_purged_without_a_marker_are_noticed(watched: Watched) -> None:
    await watched.create()
    await watched.put()
    await watched.complete()
    watched.told()
    await call(watched.owner, "STREAM.PURGE.KV_B", {"filter": "$KV.B.k7"})
    await watched.complete(KEYS - 1)
    assert "k7" not in watched.seen().entries
    await call(watched.owner, "STREAM.PURGE.KV_B")
    await watched.complete(0)
    assert sum(event.vanished for event in watched.told()) == KEYS


async def test_a_mortal_entry_is_known_as_such_and_seen_to_go(watched: Watched) -> None:
    await watched.create(limit_marker_ttl=5)
    await watched.complete(0)
    await watched.owner.request("$KV.B.brief", b"", headers={"Nats-TTL": "1s"})
    await watched.until(lambda bucket: "brief" in bucket.entries)
    assert watched.seen().entries["brief"].mortal
    await watched.until(lambda bucket: bucket.live == 0)
    assert watched.seen().entries["brief"].operation is Operation.PURGE, "the server leaves a marker"
    assert sum(event.put for event in watched.told()) == 1, "it was there, if a busy machine could not see it"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_watch_goes_on_after_a_restart(
    watched: Watched, server: NatsServer, number: signal.Signals
) -> None:
    """nats-py's own watch is blind for 9 s after SIGTERM and for 17 s after SIGKILL (#510)."""
    await watched.create()
    await watched.put()
    await watched.complete()
    await server.stop(number)
    await watched.until(lambda bucket: bucket.why)
    assert watched.seen().live == KEYS, "unknown is not gone"
    assert not watched.seen().complete
    await server.start()
    await watched.insist("after")
    await watched.until(lambda bucket: "after" in bucket.entries and bucket.complete, BLIND)
    assert [event for event in watched.told() if event.vanished or event.deleted] == []


async def test_a_consumer_that_somebody_deletes_is_replaced(watched: Watched) -> None:
    kv = await watched.create()
    await watched.put(10)
    await watched.complete(10)
    (name,) = await watched.ours()
    await call(watched.owner, f"CONSUMER.DELETE.KV_B.{name}")
    await kv.put("after", b"deletion")
    await watched.complete(11)
    assert len(await watched.ours()) == 1


async def test_a_bucket_that_is_created_again_begins_anew(watched: Watched) -> None:
    await watched.create()
    await watched.put(50)
    await watched.complete(50)
    watched.told()
    js = await watched.owner.jetstream()
    await js.delete_key_value("B")
    await watched.until(lambda bucket: bucket.why)
    assert watched.seen().live == 50, "only the list of streams says that it is gone"
    await watched.create()
    await watched.put(3)
    await watched.complete(3)
    assert sum(event.vanished for event in watched.told()) == 50


async def test_a_bucket_whose_stream_is_gone_is_empty(watched: Watched) -> None:
    await watched.create()
    await watched.put(50)
    await watched.complete(50)
    await (await watched.owner.jetstream()).delete_key_value("B")
    watched.picture.when_gone["KV_B"]()
    assert (watched.seen().live, watched.seen().complete) == (0, False)


async def test_revisions_that_go_back_with_the_disk_are_a_violation(
    watched: Watched, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store from a backup under a running system: what clients were told is no longer true."""
    for module in (invariants, revisions):
        monkeypatch.setattr(module, "CONFIRM", 0.5)
    await watched.create()
    await watched.put(20)
    await watched.complete(20)
    store, copy = server.directory / "store", server.directory / "copy"
    await server.stop()
    await anyio.to_thread.run_sync(shutil.copytree, store, copy)
    await server.start()
    last = await watched.insist("k5")
    await watched.until(lambda bucket: bucket.entries["k5"].revision == last)
    await server.stop()
    await anyio.to_thread.run_sync(shutil.rmtree, store)
    await anyio.to_thread.run_sync(shutil.copytree, copy, store)
    await server.start()
    await until(lambda: any(isinstance(event, InvariantViolated) for event in watched.events))
    (violated,) = [event for event in watched.events if isinstance(event, InvariantViolated)]
    assert (violated.invariant, violated.subject) == ("kv revision", "KV_B")
    assert violated.data["keys"] == {"k5": {"known": last, "now": 6, "mortal": False}}
    await watched.complete(20)
    assert watched.seen().entries["k5"].revision == 6


async def test_a_key_that_vanished_while_nobody_watched_is_no_violation(
    watched: Watched, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (invariants, revisions):
        monkeypatch.setattr(module, "CONFIRM", 0.2)
    kv = await watched.create(history=5)
    await kv.put("a", b"1")
    await kv.put("a", b"2")
    await kv.put("b", b"1")
    await watched.complete(2)
    monkeypatch.setattr(ordered, "SILENCE", 0.0)
    await watched.until(lambda bucket: bucket.why)
    await call(watched.owner, "STREAM.PURGE.KV_B", {"filter": "$KV.B.a"})
    monkeypatch.setattr(ordered, "SILENCE", 1.6)
    await watched.complete(1)
    assert not [event for event in watched.events if isinstance(event, InvariantViolated)]
