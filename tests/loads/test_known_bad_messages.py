"""Bad responders, relays and streams: see `known_bad`."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from known_bad import (
    ENOUGH,
    FIRST,
    LONG,
    PATIENT,
    RARE,
    RATE,
    SLOW,
    broken,
    flagged,
    nothing,
    now_and_then,
    once,
    soaked,
    with_latency,
)
from load_bench import PATIENCE
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats_bench import Answer, NatsBench, honest

from supervisor.judge.verdict import Judgement
from supervisor.loads.events import EventsLoad
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.request import RequestLoad

# --- requests -----------------------------------------------------------------------------------------------------------

REQUEST = ("failed == 0", "indeterminate == 0", "duplicates == 0", "unexpected == 0")


async def twice(client: Client, msg: Msg) -> None:
    await honest(client, msg)
    await honest(client, msg)


def swapped() -> Answer:
    """Give two callers each other's answer."""
    waiting: list[Msg] = []

    async def answer(client: Client, msg: Msg) -> None:
        if waiting:
            other = waiting.pop()
            await client.publish(other.reply, msg.data)
            await client.publish(msg.reply, other.data)
        else:
            waiting.append(msg)

    pair = itertools.count(RARE - FIRST)

    async def now_and_then_two(client: Client, msg: Msg) -> None:
        if next(pair) % RARE < 2:
            await answer(client, msg)
        else:
            await honest(client, msg)

    return now_and_then_two


async def to_nobody(client: Client, msg: Msg) -> None:
    await honest(client, msg)
    inbox, _, n = msg.reply.rpartition(".")
    await client.publish(f"{inbox}.{int(n) + 1_000_000}", msg.data)


def slow(good: Answer) -> Answer:
    """Take a second for every twentieth, without keeping the others waiting."""
    numbers = itertools.count(1)
    group: set[Any] = set()

    async def late(client: Client, msg: Msg) -> None:
        await anyio.sleep(LONG)
        await good(client, msg)

    async def answer(client: Client, msg: Msg) -> None:
        if next(numbers) % 20:
            await good(client, msg)
        else:
            task = asyncio.create_task(late(client, msg))
            group.add(task)
            task.add_done_callback(group.discard)

    return answer


BAD_RESPONDERS: dict[str, tuple[Callable[[], Answer], str]] = {
    "drops": (lambda: now_and_then(nothing, honest), "indeterminate == 0"),
    "answers twice": (lambda: now_and_then(twice, honest), "duplicates == 0"),
    "answers another's question": (swapped, "failed == 0"),
    "answers what nobody asked": (lambda: now_and_then(to_nobody, honest), "unexpected == 0"),
    "answers late": (lambda: slow(honest), SLOW),
    "stalls": (lambda: once(LONG, honest), SLOW),
}


def request(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate({"request": "echo", "rate": RATE, "expect": "echo", **PATIENT, **entry})


async def asked(bench: NatsBench, answer: Answer, expected: str = "", count: int = ENOUGH) -> Judgement:
    thresholds, system = with_latency(REQUEST, expected), bench.responder("echo", answer)
    return await soaked(bench.bench, request(), thresholds, system, ok=count)


@pytest.mark.parametrize("bad", BAD_RESPONDERS)
async def test_a_bad_responder_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    answer, threshold = BAD_RESPONDERS[bad]

    judgement = await asked(nats_bench, answer(), threshold)

    assert broken(judgement) == {threshold}, flagged(judgement)
    assert judgement.verdict == "fail"


# --- events -------------------------------------------------------------------------------------------------------------

EVENTS = ("lost == 0", "duplicates == 0", "reordered == 0", "unexpected == 0")


async def on(client: Client, msg: Msg) -> None:
    await client.publish("out", msg.data)


async def on_twice(client: Client, msg: Msg) -> None:
    await on(client, msg)
    await on(client, msg)


def reordering() -> Answer:
    """Let one in a thousand be overtaken by the next."""
    numbers, kept = itertools.count(RARE - FIRST), list[Msg]()

    async def relay(client: Client, msg: Msg) -> None:
        if next(numbers) % RARE:
            await on(client, msg)
            while kept:
                await on(client, kept.pop())
        else:
            kept.append(msg)

    return relay


def made_up(msg: Msg) -> bytes:
    """Return a message of which its writer is far from writing it."""
    words = msg.data.split(b" ", 5)
    return b" ".join([*words[:4], b"1000000", words[5]])


async def on_with_another(client: Client, msg: Msg) -> None:
    await on(client, msg)
    await client.publish("out", made_up(msg))


BAD_RELAYS: dict[str, tuple[Callable[[], Answer], str]] = {
    "drops": (lambda: now_and_then(nothing, on), "lost == 0"),
    "duplicates": (lambda: now_and_then(on_twice, on), "duplicates == 0"),
    "reorders": (reordering, "reordered == 0"),
    "makes events up": (lambda: now_and_then(on_with_another, on), "unexpected == 0"),
    "stalls": (lambda: once(LONG, on), SLOW),
}


def events(**entry: Any) -> EventsLoad:
    return EventsLoad.model_validate(
        {"events": "in", "receive": "out", "rate": RATE, "settle": "4s", **PATIENT, **entry}
    )


async def relayed(bench: NatsBench, relay: Answer, expected: str = "", count: int = ENOUGH) -> Judgement:
    thresholds, system = with_latency(EVENTS, expected), bench.responder("in", relay)
    return await soaked(bench.bench, events(), thresholds, system, ok=count)


@pytest.mark.parametrize("bad", BAD_RELAYS)
async def test_a_bad_relay_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    relay, threshold = BAD_RELAYS[bad]

    judgement = await relayed(nats_bench, relay(), threshold)

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- streams ------------------------------------------------------------------------------------------------------------

STREAM = ("failures == 0", "lost == 0", "duplicates == 0", "unexpected == 0")


async def store(client: Client, msg: Msg) -> None:
    answer = await client.request("real", msg.data, timeout=PATIENCE, headers=msg.headers)
    await msg.respond(answer.data)


async def lie(client: Client, msg: Msg) -> None:
    """Acknowledge what was never stored."""
    await msg.respond(json.dumps({"stream": "REAL", "seq": 1_000_000}).encode())


async def store_twice(client: Client, msg: Msg) -> None:
    await store(client, msg)
    await client.request("real", msg.data, timeout=PATIENCE)


async def store_another(client: Client, msg: Msg) -> None:
    await store(client, msg)
    await client.request("real", made_up(msg), timeout=PATIENCE)


BAD_STREAMS: dict[str, tuple[Callable[[], Answer], str]] = {
    "loses what it acknowledged": (lambda: now_and_then(lie, store), "lost == 0"),
    "stores twice": (lambda: now_and_then(store_twice, store), "duplicates == 0"),
    "stores what nobody wrote": (lambda: now_and_then(store_another, store), "unexpected == 0"),
    "stalls": (lambda: once(LONG, store), SLOW),
}


async def stored(bench: NatsBench, relay: Answer, expected: str = "", count: int = ENOUGH) -> Judgement:
    pace = (
        {"rate": RATE} if expected == SLOW else {"workers": 10}
    )  # a busy machine may not keep up with a rate
    entry = {"jetstream": "REAL", "subject": "in", "settle": "5s", "attempt": "20s", **PATIENT, **pace}
    load = JetStreamLoad.model_validate(entry)
    async with bench.responder("in", relay) as system:
        await system.jetstream().add_stream(name="REAL", subjects=["real"])
        return await soaked(bench.bench, load, with_latency(STREAM, expected), ok=count)


@pytest.mark.parametrize("bad", BAD_STREAMS)
async def test_a_bad_stream_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    relay, threshold = BAD_STREAMS[bad]

    judgement = await stored(nats_bench, relay(), threshold)

    assert broken(judgement) == {threshold}, flagged(judgement)


LOSSES = (
    *("failures == 0", "lost_in_stream == 0", "lost_in_delivery == 0", "duplicates == 0", "unexpected == 0"),
    *("lost_to_retention == 0",),
)
PLACES = (
    *("failures == 0", "lost_in_delivery == 0", "lost_prefix == 0", "lost_middle == 0", "lost_postfix == 0"),
    *("duplicates == 0", "unexpected == 0"),
)


async def lie_of_the_past(_: Client, msg: Msg) -> None:
    """Acknowledge at a place before all that the stream has."""
    await msg.respond(b'{"stream": "REAL", "seq": 7}')


@asynccontextmanager
async def a_stream_of_ours(bench: NatsBench, relay: Answer) -> AsyncIterator[JetStreamContext]:
    """A stream that counts as made by the run, which so keeps every message, and begins with message 1000."""
    async with bench.responder("in", relay) as system:
        mark = f"made by soakd, run {bench.bench.run_id}"
        await system.jetstream().add_stream(name="REAL", subjects=["real"], description=mark, first_seq=1000)
        yield system.jetstream()


def short(**entry: Any) -> JetStreamLoad:
    entry = {"jetstream": "REAL", "subject": "in", "settle": "500ms", "attempt": "20s", **PATIENT, **entry}
    return JetStreamLoad.model_validate(entry)


async def test_a_stream_that_loses_its_beginning_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench,
) -> None:
    async with a_stream_of_ours(nats_bench, now_and_then(lie_of_the_past, store)):
        judgement = await soaked(nats_bench.bench, short(workers=10), PLACES, ok=150)

    assert broken(judgement) == {"lost_prefix == 0"}, flagged(judgement)


async def test_a_stream_that_passes_messages_over_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench,
) -> None:
    """Somebody else takes three of them by our own consumer, and says that they have arrived."""

    async def take_away(js: JetStreamContext) -> None:
        while not (there := await js.consumers_info("REAL")):  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)
        sub = await js.pull_subscribe_bind(there[0].name, "REAL")
        for _ in range(3):
            (msg,) = await sub.fetch(1, timeout=PATIENCE)
            await msg.ack_sync(timeout=PATIENCE)

    async with a_stream_of_ours(nats_bench, store) as js, anyio.create_task_group() as group:
        group.start_soon(take_away, js)
        judgement = await soaked(nats_bench.bench, short(rate=RATE), LOSSES, ok=150, lost=3)

    assert broken(judgement) == {"lost_in_delivery == 0"}, flagged(judgement)
