"""Reading streams and consumers: all pages, nothing made up, and which answers are authoritative."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from nats_servers import NatsServer

from supervisor.broker.api import call, each
from supervisor.broker.connection import BrokerError, Handle, open_connections
from supervisor.broker.leadership import is_authoritative
from supervisor.broker.monitor.meta import agreed
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.monitor.snapshot import Consumers
from supervisor.broker.monitor.streams import (
    OURS,
    Names,
    Page,
    add_up,
    describe,
    look,
    parse,
    stored_at,
    summarise,
)
from supervisor.broker.options import Broker
from supervisor.broker.options import Monitor as Options
from supervisor.journal.writer import JournalWriter

MANY = 2_500
LONG = 30.0
"""Seconds for an answer on a busy machine."""


@pytest.fixture
async def handle(broker: Broker, journal: JournalWriter) -> AsyncIterator[Handle]:
    async with open_connections(broker, journal) as connections:
        handle = await connections.handle()
        await handle.wait_connected(LONG)
        yield handle


@pytest.fixture
async def js(handle: Handle) -> JetStreamContext:
    return await handle.jetstream()


async def make(handle: Handle, *names: str) -> None:
    async def create(name: str) -> None:
        body = {"name": name, "subjects": [f"{name}.>"], "storage": "memory"}
        await call(handle, f"STREAM.CREATE.{name}", body)

    await each(names, create)


async def test_all_pages_of_names_and_only_what_changed_is_read_again(handle: Handle) -> None:
    names, expected = Names(), {f"s{n:05}" for n in range(MANY)}
    await make(handle, *expected)
    assert await names.read(handle, LONG)
    assert names.all == expected
    before = names.all
    assert await names.read(handle, LONG)
    assert names.all is before, "the same object says that nothing changed"
    await call(handle, "STREAM.DELETE.s00007")
    await make(handle, "s99999")
    assert await names.read(handle, LONG)
    assert names.all == expected - {"s00007"} | {"s99999"}
    for left in ("s00001", "s00002"):
        await call(handle, f"STREAM.DELETE.{left}")
    assert await names.read(handle, LONG)
    assert len(names.all) == MANY - 2


async def test_fewer_pages_than_before_leave_nothing_of_the_old_ones(handle: Handle) -> None:
    names = Names()
    await make(handle, *(f"s{n:05}" for n in range(1030)))
    await names.read(handle, LONG)

    async def delete(n: int) -> None:
        await call(handle, f"STREAM.DELETE.s{n:05}")

    await each(range(1020), delete)
    assert await names.read(handle, LONG)
    assert len(names.all) == 10
    assert len(names._pages) == 1


async def test_no_streams_at_all(handle: Handle) -> None:
    names = Names()
    assert await names.read(handle, LONG)
    assert names.all == frozenset()
    assert await describe(handle, 0, LONG) == Page()


async def test_all_pages_of_descriptions(handle: Handle) -> None:
    """`streams_info()` of nats-py returns the first 256."""
    await make(handle, *(f"s{n:05}" for n in range(600)))
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await describe(handle, offset, LONG)
        seen += [stream.name for stream in page.streams]
        offset = page.following
    assert seen == [f"s{n:05}" for n in range(600)]


async def test_a_stream_as_its_leader_describes_it(handle: Handle, js: JetStreamContext) -> None:
    await js.add_stream(StreamConfig(name="S", subjects=["s.>"], max_msgs=5, deny_delete=True))
    for n in range(8):
        ack = await js.publish(f"s.{n % 3}", b"x" * 10)
    stream = await look(handle, "S", LONG)
    assert (stream.messages, stream.first, stream.last, stream.subjects) == (5, 4, 8, 3)
    assert stream.bytes > 50
    assert stream.quorum
    flags = stream.memory, stream.copied, stream.expires, stream.erasable
    assert flags == (False, False, False, False)
    assert await stored_at(handle, "S", ack.seq, LONG) == stream.last_time
    assert await stored_at(handle, "S", 1, LONG) is None
    with pytest.raises(BrokerError, match="stream not found"):
        await look(handle, "T", LONG)


async def test_what_a_stream_may_lose_by_itself(handle: Handle, js: JetStreamContext) -> None:
    await js.add_stream(StreamConfig(name="AGED", subjects=["a"], max_age=60, storage=StorageType.MEMORY))
    await js.add_stream(StreamConfig(name="QUEUE", subjects=["q"], retention="workqueue"))
    await call(handle, "STREAM.CREATE.MIRROR", {"name": "MIRROR", "mirror": {"name": "AGED"}})
    aged, queue, mirror = [await look(handle, name, LONG) for name in ("AGED", "QUEUE", "MIRROR")]
    assert (aged.expires, aged.memory, aged.erasable) == (True, True, True)
    assert (queue.expires, queue.memory) == (True, False)
    assert mirror.copied


async def test_consumers_by_kind_on_all_pages_without_our_own(handle: Handle, js: JetStreamContext) -> None:
    await js.add_stream(StreamConfig(name="S", subjects=["s.>"], storage=StorageType.MEMORY))
    for n in range(10):
        await js.publish("s.a", b"%d" % n)

    async def create(name: str) -> None:
        config = {"name": name, "ack_policy": "none", "mem_storage": True, "inactive_threshold": 120 * 10**9}
        await call(handle, f"CONSUMER.CREATE.S.{name}", {"stream_name": "S", "config": config})

    await each([*(f"e{n}" for n in range(300)), f"{OURS}1"], create)
    pull = await js.pull_subscribe("s.>", durable="d")
    push = await js.subscribe("s.>", durable="p", manual_ack=True)
    await js.add_consumer("S", ConsumerConfig(durable_name="unbound", deliver_subject="nobody"))
    fetched = await pull.fetch(4, timeout=LONG)
    await fetched[0].ack_sync(timeout=LONG)
    for _ in range(10):  # each is on its way for a moment: neither pending nor to be acknowledged
        await push.next_msg(LONG)
    seen = await summarise(handle, "S", LONG)
    assert seen.durables == {"d", "p", "unbound"}
    assert (seen.durable, seen.ephemeral, seen.missing) == (3, 300, 0)
    assert seen.idle == 302, (
        "all pull consumers, as nobody waits, and the unbound one; not the subscribed one"
    )
    assert seen.pending == 300 * 10 + 6 + 10
    assert seen.ack_pending == 3 + 10


# --- what is made up, and by whom it is said -------------------------------------------------------------------------


def info(**cluster: Any) -> dict[str, Any]:
    state = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0}
    config = {"name": "S", "num_replicas": 3}
    return {"config": config, "created": "2026-01-01T00:00:00Z", "state": state, "cluster": cluster}


SECOND = 1_000_000_000


def replica(name: str, active: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"name": name, "current": True, "active": int(active * SECOND), **more}


@pytest.mark.parametrize(
    ("leader", "replicas", "expected"),
    [
        ("n1", [], True),
        ("n1", [replica("n2"), replica("n3")], True),
        ("n1", [replica("n2"), replica("n3", 60)], True),
        ("n1", [replica("n2", 5), replica("n3", 5)], False),
        ("n1", [replica("n2", offline=True), replica("n3", offline=True)], False),
        ("n1", [replica("n2", 0), replica("n3", 0)], False),
        ("n2", [replica("n2"), replica("n3")], False),
        ("", [replica("n1"), replica("n2"), replica("n3")], False),
        ("n1", [replica("n2"), replica("n3"), replica("n4", 9), replica("n5", 9)], True),
        ("n1", [replica("n2"), replica("n3", 9), replica("n4", 9), replica("n5", 9)], False),
    ],
    ids=[
        "one replica", "all well", "one silent", "out of touch", "both offline", "never heard of them", "not the leader",
        "nobody leads", "two of five silent", "three of five silent",
    ],
)  # fmt: skip
def test_who_may_speak_for_a_stream(leader: str, replicas: list[dict[str, Any]], *, expected: bool) -> None:
    assert is_authoritative(leader, replicas) is expected
    assert parse(info(leader=leader, replicas=replicas), 1.0).quorum is expected


def test_replicas_that_lag() -> None:
    stream = parse(
        info(leader="n1", replicas=[replica("n2", lag=7), replica("n3", current=False, lag=90)]), 1.0
    )
    assert (stream.replicas, stream.current, stream.lag, stream.leader) == (3, 2, 90, "n1")


class Scripted:
    """A handle whose answers are made up, for what real servers do only while nodes are away."""

    api_prefix = "$JS.API"

    def __init__(self, answer: str) -> None:
        self._answer = answer.encode()

    async def request(self, *_: object, **__: object) -> Any:
        return type("Answer", (), {"data": self._answer})


async def test_the_record_that_a_meta_leader_makes_up_for_a_silent_stream_is_no_description() -> None:
    answer = """{"total": 3, "offset": 0, "limit": 256, "missing": ["A", "C"], "streams": [
        {"config": {"name": "A"}, "created": "2026-01-01T00:00:00Z", "state": {"messages": 0, "bytes": 0,
         "first_seq": 0, "last_seq": 0}, "cluster": {"replicas": [{"name": "n2", "offline": true}]}},
        {"config": {"name": "B"}, "created": "2026-01-01T00:00:00Z", "state": {"messages": 1, "bytes": 10,
         "first_seq": 1, "last_seq": 1}, "cluster": {"leader": "n1"}}]}"""
    page = await describe(Scripted(answer), 0, 2)  # type: ignore[arg-type]  # it has what is used
    assert [stream.name for stream in page.streams] == ["B"]
    assert page.missing == {"A", "C"}
    assert page.following is None


async def test_consumers_that_do_not_answer_are_counted_apart() -> None:
    answer = """{"total": 3, "offset": 0, "limit": 256, "missing": ["gone", "soakd-9"], "consumers": [
        {"name": "gone", "config": {"durable_name": "gone"}, "num_pending": 5},
        {"name": "there", "config": {"durable_name": "there"}, "num_pending": 7, "num_waiting": 1}]}"""
    seen = await summarise(Scripted(answer), "S", 2)  # type: ignore[arg-type]  # it has what is used
    assert seen == Consumers(seen.seen, durable=1, pending=7, missing=1, durables=frozenset({"there"}))


def test_no_consumers() -> None:
    assert add_up([], 0, 1.0) == Consumers(1.0)


async def test_a_server_that_is_paused_does_not_hold_anybody_up(handle: Handle, server: NatsServer) -> None:
    server.pause()
    try:
        with pytest.raises(BrokerError, match="no answer within"):
            await Names().read(handle, 0.1)
    finally:
        server.resume()


async def test_how_much_has_been_read_is_said_until_all_is(handle: Handle, journal: JournalWriter) -> None:
    await make(handle, *(f"s{n:05}" for n in range(300)))
    monitor = Monitor(Options.model_validate({"every": "50ms"}), handle, journal)
    assert monitor.why() == "the streams have not been listed yet"
    await monitor._list()
    assert monitor.why() == "0 of 300 streams have been read so far"
    monitor._unasked = [0]
    await monitor._page(0)
    assert monitor.why() == "256 of 300 streams have been read so far"
    await monitor._describe()
    assert monitor.why() == ""


# --- the leader of the cluster -----------------------------------------------------------------------------------------


def says(leader: str, size: int = 3) -> dict[str, Any]:
    return {"name": "trio", "leader": leader, "peer": "abc", "cluster_size": size}


@pytest.mark.parametrize(
    ("said", "leader"),
    [
        ([says("old"), says("new"), says("new")], "new"),
        ([says("new"), says("new")], "new"),
        ([says(""), says("old"), says("")], ""),
        ([says("old")], None),
        ([says("old"), says("new")], None),
        ([says("n1"), says("n1"), says("n2", 5)], None),
        ([says("only", 1)], "only"),
        ([{}], None),
        ([], None),
    ],
)
def test_the_leader_is_who_a_majority_names_not_whoever_answers_first(
    said: list[dict[str, Any]], leader: str | None
) -> None:
    """A server that was paused for long answers first, and with what it knew then."""
    assert agreed(said) == leader
