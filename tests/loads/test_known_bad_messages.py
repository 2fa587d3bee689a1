"""Bad responders and relays: see `known_bad`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
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
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench, honest

from supervisor.judge.verdict import Judgement
from supervisor.loads.events import EventsLoad
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
