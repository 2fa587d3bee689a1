"""The monitor on a real cluster: what it sees, what it does not take for gone, and what it leaves behind (nothing)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from nats.errors import NoRespondersError
from nats.js.api import KeyValueConfig, StreamConfig
from nats_servers import NatsServer, make_cluster, until

from supervisor.broker.api import call, each, stream_names
from supervisor.broker.connection import BrokerError, Connections, Handle, open_connections
from supervisor.broker.monitor import monitor as module
from supervisor.broker.monitor import news, picture
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.monitor.presence import PATIENCE
from supervisor.broker.monitor.snapshot import Snapshot, Stream
from supervisor.broker.monitor.streams import OURS
from supervisor.broker.options import Broker
from supervisor.broker.options import Monitor as Options
from supervisor.journal.events import (
    ConsumerChanged,
    EntriesChanged,
    Event,
    InvariantViolated,
    LeaderChanged,
    Observation,
    Record,
    StreamChanged,
    ViewChanged,
)
from supervisor.journal.writer import JournalWriter
from supervisor.telemetry import lag
from supervisor.telemetry.metrics import GAUGES

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SINGLES = 60
SOON = PATIENCE - 5
"""Seconds for what is announced on a busy machine: what nobody announces takes longer to be believed."""
ACCOUNTS = """
accounts {
  SYS { users: [{ user: sys, password: sys }] }
  APP { jetstream: enabled, users: [{ user: app, password: app }] }
}
system_account: SYS
"""
E = TypeVar("E", bound=Event)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[NatsServer]]:
    with make_cluster(tmp_path, 3, ACCOUNTS) as servers:
        async with anyio.create_task_group() as group:
            for server in servers:
                server.jetstream = "max_file_store: 1GB"  # the same for all, so that streams are spread
                group.start_soon(server.start)
        yield servers


@pytest.fixture
async def connections(cluster: list[NatsServer], journal: JournalWriter) -> AsyncIterator[Connections]:
    broker = Broker.model_validate(
        {
            "servers": [server.address for server in cluster],
            "user": "app",
            "password": "app",
            "system": {"user": "sys", "password": "sys"},
        }
    )
    async with open_connections(broker, journal) as connections:
        await (await connections.handle()).wait_connected(30)
        yield connections


@pytest.fixture
def events(journal: JournalWriter) -> Iterator[list[Event]]:
    seen: list[Event] = []

    def note(record: Record) -> None:
        seen.append(record.event)

    unsubscribe = journal.subscribe(note)
    yield seen
    unsubscribe()


def of(events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


async def eventually(act: Callable[[], object], seconds: float = 40) -> None:
    """Do what a cluster that is just starting, or electing, refuses at first."""
    with anyio.fail_after(seconds):
        while True:
            try:
                await act()  # type: ignore[misc]  # it is a coroutine
            except BrokerError:
                await anyio.sleep(0.1)
            else:
                return


async def fill(handle: Handle) -> None:
    """One stream on each node and more, all on disk, one replica; one of three replicas; a bucket."""

    async def create(name: str) -> None:
        body = {"name": name, "subjects": [f"{name}.>"], "num_replicas": 1}
        await eventually(lambda: call(handle, f"STREAM.CREATE.{name}", body, deadline=2))

    r3 = {"name": "R3", "subjects": ["r3.>"], "num_replicas": 3}
    await eventually(lambda: call(handle, "STREAM.CREATE.R3", r3, deadline=2))  # all nodes are there then
    await each([f"s{n}" for n in range(SINGLES)], create)
    for n in range(SINGLES):
        await store(handle, f"s{n}.a")
    js = await handle.jetstream()
    await js.create_key_value(KeyValueConfig(bucket="B", replicas=3))
    for n in range(50):
        await store(handle, f"$KV.B.k{n}")


async def store(handle: Handle, subject: str) -> None:
    """Store one message and no second one, as soon as the stream is heard of everywhere: until then nobody takes it."""
    with anyio.fail_after(20):
        while True:
            with suppress(NoRespondersError):
                await handle.request(subject, b"one message", timeout=20)
                return
            await anyio.sleep(0.05)


async def run(monitor: Monitor, group: anyio.abc.TaskGroup) -> None:
    group.start_soon(monitor.run)
    await until(lambda: monitor.snapshot().complete, 40)


async def ours(handle: Handle) -> list[str]:
    left: list[str] = []

    async def look(stream: str) -> None:
        names = (await call(handle, f"CONSUMER.NAMES.{stream}")).get("consumers") or []
        left.extend(name for name in names if name.startswith(OURS))

    await each(await stream_names(handle), look)
    return left


@pytest.mark.timeout(300)
async def test_what_is_there_what_changes_and_what_only_does_not_answer(
    cluster: list[NatsServer],
    connections: Connections,
    journal: JournalWriter,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(news, "APART", 0.5)  # nobody reads it for hours
    monkeypatch.setattr(module, "APART", 0.5)
    monkeypatch.setattr(picture, "LEADERLESS", 0.5)
    monkeypatch.setattr(lag, "SAMPLE", 0.2)
    handle = await connections.handle()
    await fill(handle)
    options = Options.model_validate({"every": "200ms", "buckets": ["B"]})
    own, system = await connections.new("default", "monitor"), await connections.new("system", "monitor")
    monitor = Monitor(options, own, journal, system)
    assert monitor.gauges() == {}
    async with anyio.create_task_group() as group:
        group.start_soon(lag.sample, journal, lag.Lag(), monitor.gauges)
        await run(monitor, group)
        await look_at_all(monitor)
        await until(lambda: any("soakd_broker_streams" in event.values for event in of(events, Observation)))
        await notice_changes(monitor, handle, events)
        await miss_a_node(cluster, monitor, events)
        await lose_the_majority(cluster, monitor, events)
        group.cancel_scope.cancel()
    await eventually(lambda: handle.wait_connected(20))
    await eventually(lambda: none_left(handle))
    assert of(events, InvariantViolated) == []
    assert not any(event.change == "reappeared" for event in of(events, StreamChanged))


def said(monitor: Monitor, name: str) -> Stream:
    stream = monitor.snapshot().streams[name]
    assert stream is not None
    return stream


async def look_at_all(monitor: Monitor) -> None:
    seen = monitor.snapshot()
    assert set(seen.streams) == {f"s{n}" for n in range(SINGLES)} | {"R3", "KV_B"}
    known = [said(monitor, name) for name in seen.streams]
    leaders = Counter(stream.leader for stream in known if stream.replicas == 1)
    assert set(leaders) == {"n1", "n2", "n3"}, "streams of one replica are spread"
    assert (said(monitor, "R3").current, said(monitor, "R3").replicas) == (3, 3)
    assert (seen.buckets["B"].live, seen.buckets["B"].complete) == (50, True)
    assert {key.partition("{")[0] for key in monitor.gauges()} <= GAUGES.keys()
    assert monitor.gauges()["soakd_broker_streams"] == SINGLES + 2
    assert monitor.gauges()["soakd_broker_view_complete"] == 1


async def notice_changes(monitor: Monitor, handle: Handle, events: list[Event]) -> None:
    js = await handle.jetstream()
    before = said(monitor, "s0")
    await js.add_stream(StreamConfig(name="NEW", subjects=["new.>"], num_replicas=3))
    await store(handle, "new.a")
    await js.pull_subscribe("new.>", durable="reader")

    def reader() -> bool:
        """Say whether its consumer is described; as long as that has no leader it is only known to be there."""
        seen = monitor.snapshot().consumers.get("NEW")
        return seen is not None and (seen.durables, seen.idle, seen.pending) == ({"reader"}, 1, 1)

    await until(reader)
    await js.delete_stream("NEW")
    await until(lambda: "NEW" not in monitor.snapshot().streams, SOON)
    await js.add_stream(StreamConfig(name="NEW", subjects=["new.>"]))
    await until(lambda: monitor.snapshot().streams.get("NEW"), SOON)
    await js.delete_stream("s0")
    await js.add_stream(StreamConfig(name="s0", subjects=["s0.>"]))
    await until(lambda: said(monitor, "s0").created != before.created, SOON)
    await store(handle, "$KV.B.k0")
    await until(lambda: monitor.snapshot().buckets["B"].entries["k0"].revision == 51, SOON)
    await eventually(lambda: call(handle, "STREAM.LEADER.STEPDOWN.R3"))
    await until(lambda: of(events, EntriesChanged))

    def told() -> set[tuple[type[Event], str]]:
        changed = (event for event in events if isinstance(event, StreamChanged | ConsumerChanged))
        return {(type(event), event.change) for event in changed}

    wanted = {(StreamChanged, "created"), (StreamChanged, "deleted"), (ConsumerChanged, "created")}
    await until(lambda: told() >= wanted)
    await until(lambda: any("R3" in "".join(event.groups) for event in of(events, LeaderChanged)))


async def hold(
    monitor: Monitor, names: set[str], condition: Callable[[Snapshot], object], seconds: float
) -> None:
    """Wait for something, all the while nothing may be missing."""

    def look() -> object:
        seen = monitor.snapshot()
        assert set(seen.streams) == names
        assert seen.buckets["B"].live == 50
        return condition(seen)

    await until(look, seconds)


def numbers(monitor: Monitor, names: set[str]) -> dict[str, tuple[str, int, int]]:
    streams = {name: said(monitor, name) for name in names}
    return {name: (stream.created, stream.messages, stream.last) for name, stream in streams.items()}


async def miss_a_node(cluster: list[NatsServer], monitor: Monitor, events: list[Event]) -> None:
    """Streams whose only node is paused are unknown, not gone, and not at zero; `streams_info()` would lack them."""
    await until(lambda: monitor.snapshot().complete and monitor.snapshot().meta_leader)
    names, before = set(monitor.snapshot().streams), monitor.snapshot()
    node = next(
        server for server in cluster if server.name != before.meta_leader
    )  # an election takes its time
    node.pause()
    lost = {n for n, s in before.streams.items() if s and s.leader == node.name and s.replicas == 1}
    kept = numbers(monitor, lost)
    await hold(monitor, names, lambda seen: f"{len(lost)} streams do not answer" in seen.why, 60)
    assert numbers(monitor, lost) == kept
    node.resume()
    await hold(monitor, names, lambda seen: seen.complete, 60)


async def lose_the_majority(cluster: list[NatsServer], monitor: Monitor, events: list[Event]) -> None:
    """The leader of the bucket goes on answering, from what may be the past."""
    names, rounds, before = set(monitor.snapshot().streams), monitor.snapshot().rounds, len(events)
    paused = [server for server in cluster if server.name != said(monitor, "KV_B").leader]
    for server in paused:
        server.pause()
    await hold(monitor, names, lambda seen: seen.why and seen.rounds > rounds + 1, 30)

    def told(_: Snapshot) -> bool:
        """Say whether it was told since then: alone, or together with R3, which the same node may lead."""
        since = of(events[before:], LeaderChanged)
        lost = [event for event in since if (event.change, event.of) == ("quorum-lost", "stream")]
        return any("KV_B" in event.groups for event in lost)

    await hold(monitor, names, told, 40)  # a server says so 10 to 20 s after it was left alone
    await hold(
        monitor, names, lambda _: not said(monitor, "KV_B").quorum, 30
    )  # it was announced; then it is asked
    assert monitor.round_slowest < module.NAMES + 6, "every round ends when its time is up"
    assert monitor.gauges()["soakd_broker_view_complete"] == 0
    for server in paused:
        server.resume()
    await hold(monitor, names, lambda seen: seen.complete, 40)
    await until(lambda: of(events, ViewChanged)[-1].complete)


async def none_left(handle: Handle) -> None:
    if left := await ours(handle):
        raise BrokerError(f"consumers are left: {left}")
