"""The monitor's loops and watches run side by side: what one of them has in hand may be gone when its answer comes."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import anyio
import pytest
from nats.aio.subscription import Subscription
from nats_servers import until

from supervisor.broker.api import call, stream_names
from supervisor.broker.client import Client
from supervisor.broker.connection import BrokerError, Connections, Handle, open_connections
from supervisor.broker.monitor import revisions
from supervisor.broker.monitor.entries import Book
from supervisor.broker.monitor.invariants import Question
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.monitor.revisions import Revisions
from supervisor.broker.monitor.snapshot import Entry, Operation
from supervisor.broker.monitor.streams import look, subjects_held
from supervisor.broker.options import Broker
from supervisor.broker.options import Monitor as Options
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
async def connections(broker: Broker, journal: JournalWriter) -> AsyncIterator[Connections]:
    async with open_connections(broker, journal) as connections:
        yield connections


@pytest.fixture
async def handle(connections: Connections) -> Handle:
    return await connected(connections)


async def connected(connections: Connections) -> Handle:
    handle = await connections.new("default", "test")
    await handle.wait_connected(20)
    return handle


async def create(handle: Handle, name: str, *subjects: str) -> None:
    config = {"name": name, "subjects": subjects or [f"{name}.>"], "storage": "memory"}
    await call(handle, f"STREAM.CREATE.{name}", config)


async def test_a_question_that_is_dropped_while_it_waits_for_its_turn(
    handle: Handle, journal: JournalWriter
) -> None:
    """A stream is gone, or was heard of, between the list of questions and the task that asks one."""
    monitor = Monitor(Options.model_validate({"every": "50ms"}), handle, journal)
    picture, ledger = monitor._picture, monitor._picture.ledger
    for name in ("kept", "gone"):
        await create(handle, name)
        await handle.request(f"{name}.a", b"one message")
        stream = await look(handle, name, 2)
        picture.see_names(frozenset({*picture.presence.there, name}), time.monotonic(), whole=True)
        ledger.questions[name] = Question(stream, replace(stream, leader="another"), "content")

    async def drop() -> None:
        ledger.forget("gone")

    async with anyio.create_task_group() as group:
        group.start_soon(monitor._ask)
        group.start_soon(drop)  # it runs before the tasks that `_ask` starts
    assert not ledger.questions, "the other one was asked all the same"
    assert picture.streams["kept"].messages == 1
    assert picture.violations == 0


async def test_what_is_announced_is_noticed_while_a_list_of_names_takes_for_ever(
    handle: Handle, connections: Connections, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten thousand names a list takes its time, and a change may have come just after it was begun."""
    await create(handle, "old")
    monitor = Monitor(
        Options.model_validate({"every": "50ms"}), await connections.new("default", "monitor"), journal
    )
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        await until(lambda: monitor.snapshot().complete)
        begun = anyio.Event()

        async def never(*_: object) -> None:
            begun.set()
            await anyio.sleep_forever()

        monkeypatch.setattr(monitor._names, "read", never)
        await begun.wait()
        await create(handle, "new")
        await until(lambda: monitor.snapshot().streams.get("new"))
        for name in ("old", "new"):
            await call(handle, f"STREAM.DELETE.{name}")
        await until(lambda: not monitor.snapshot().streams)
        group.cancel_scope.cancel()


async def test_a_bucket_that_goes_while_its_keys_are_asked_about(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "CONFIRM", 0.0)
    await create(handle, "KV_B", "$KV.B.>")
    book = Book()
    for revision, key in enumerate(("a", "b", "c"), 1):
        await handle.request(f"$KV.B.{key}", b"value")
        book.apply(key, Entry(revision + 10, Operation.PUT))
        book.apply(key, Entry(revision, Operation.PUT))
    examined = Revisions(handle, "KV_B", "$KV.B.", book)
    stream = await look(handle, "KV_B", 2)

    async def forget() -> None:
        book.clear()

    async with anyio.create_task_group() as group:
        group.start_soon(examined.examine, stream)
        group.start_soon(forget)  # once the first of them is asked about
    assert len(book) == 0


async def test_one_answer_about_a_key_is_no_proof_and_a_change_meanwhile_stays(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "CONFIRM", 0.0)
    await create(handle, "KV_B", "$KV.B.>")
    book = Book()
    for revision, key in enumerate(("a", "b"), 1):
        await handle.request(f"$KV.B.{key}", b"value")
        book.apply(key, Entry(revision + 10, Operation.PUT))
        book.apply(key, Entry(revision, Operation.PUT))
    examined = Revisions(handle, "KV_B", "$KV.B.", book)
    stream = await look(handle, "KV_B", 2)
    assert await examined.examine(stream) == (None, [])
    assert book["a"].revision == 11

    async def told() -> None:
        book.apply("b", Entry(13, Operation.PUT))

    found = []

    async def examine() -> None:
        found.append(await examined.examine(stream))

    async with anyio.create_task_group() as group:
        group.start_soon(examine)
        group.start_soon(told)
    assert found[0][0] is not None, "two agree"
    assert found[0][0].data["keys"]["a"] == {"known": 11, "now": 1, "mortal": False}
    assert (book["a"].revision, book["b"].revision) == (1, 13)


async def test_a_list_of_subjects_says_how_far_it_goes(handle: Handle) -> None:
    await create(handle, "S")
    for n in range(3):
        await handle.request(f"S.{n}", b"value")
    assert await subjects_held(handle, "S", "S.>") == ({"S.0", "S.1", "S.2"}, 3)


async def test_a_subscription_that_ends_while_it_is_made_on_another_client(
    broker: Broker, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Healing builds a client and makes all subscriptions on it; meanwhile the owner of one of them has enough."""
    made, ends = anyio.Event(), anyio.Event()
    heard = []
    async with open_connections(broker, journal) as connections:
        handle, other = await connected(connections), await connected(connections)
        sub = await handle.subscribe("told", lambda msg: note(msg.data))
        client = other.nc
        subscribe = client.subscribe

        async def note(data: bytes) -> None:
            heard.append(data)

        async def slowly(*words: object, **more: object) -> Subscription:
            made.set()
            await ends.wait()
            return await subscribe(*words, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(client, "subscribe", slowly)
        async with anyio.create_task_group() as group:
            group.start_soon(sub.make, client)
            await made.wait()
            await sub.unsubscribe()
            ends.set()
        assert not sub.made(client)
        assert subjects_of(client).isdisjoint({"told"}), "nobody would ever end it"
        await handle.nc.publish("told", b"1")
        await handle.canary()
        await other.canary()
    assert heard == []


def subjects_of(client: Client) -> set[str]:
    return {sub.subject for sub in client._subs.values()}


async def test_streams_and_buckets_that_come_and_go_all_the_time(
    broker: Broker, journal: JournalWriter
) -> None:
    """Nothing of that ends the monitor, and in the end it sees what is there."""
    async with open_connections(broker, journal) as connections, anyio.create_task_group() as group:
        owner, own = await connected(connections), await connections.new("default", "monitor")
        monitor = Monitor(Options.model_validate({"every": "10ms", "buckets": ["B0"]}), own, journal)
        group.start_soon(monitor.run)

        async def churn(n: int) -> None:
            name, subject = (f"KV_B{n}", f"$KV.B{n}") if n < 3 else (f"s{n}", f"s{n}")
            for turn in range(12):
                with suppress(BrokerError):
                    await create(owner, name, f"{subject}.>")
                for key in range(3):
                    await owner.nc.publish(f"{subject}.{key}", b"value")
                await anyio.sleep((turn % 4) * 0.02)
                with suppress(BrokerError):
                    if turn % 3:
                        await call(owner, f"STREAM.PURGE.{name}")
                    await call(owner, f"STREAM.DELETE.{name}")

        async with anyio.create_task_group() as churning:
            for n in range(8):
                churning.start_soon(churn, n)
            for followed in itertools.islice(itertools.cycle([["B0", "B1"], ["B1", "B2"], [], ["B0"]]), 20):
                monitor.follow(followed)
                await anyio.sleep(0.03)
        for name in await stream_names(owner):  # a deletion that took too long to be answered
            await call(owner, f"STREAM.DELETE.{name}")
        await create(owner, "KV_B0", "$KV.B0.>")
        await owner.request("$KV.B0.last", b"value")
        await until(lambda: set(monitor.snapshot().streams) == {"KV_B0"})
        await until(
            lambda: dict(monitor.snapshot().buckets["B0"].entries) == {"last": Entry(1, Operation.PUT)}
        )
        assert monitor._picture.violations == 0
        group.cancel_scope.cancel()
