from __future__ import annotations

import itertools
from typing import Any

import pytest
from load_bench import until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench

from supervisor.loads.clients import LoadClient
from supervisor.loads.events import EventsLoad

COUNTERS = {
    *("lost", "duplicates", "reordered", "unexpected", "late_arrivals"),
    *("received_twice", "overtaken", "foreign"),
}


def load(**entry: Any) -> EventsLoad:
    return EventsLoad.model_validate({"events": "in", "rate": "500/s", "timeout": "20s", **entry})


async def seen(bench: NatsBench, relay: Answer, count: int = 300, **entry: Any) -> dict[str, float]:
    """Return what a load counted of a system that passes events on from `in` to `out`."""
    asked = load(receive="out", settle="300ms", **entry)
    async with bench.responder("in", relay), bench.running(asked) as context:
        await bench.until_ok(context, count)
    return {name: amount for name, amount in bench.counts.items() if name in COUNTERS}


async def honest(client: Client, msg: Msg) -> None:
    await client.publish("out", msg.data)


async def test_an_honest_system_passes(nats_bench: NatsBench) -> None:
    assert await seen(nats_bench, honest) == {}
    counts = nats_bench.counts
    assert counts["ok"] == counts["scheduled"] == counts["started"]
    assert "lost" not in nats_bench.windows[0].counters
    assert nats_bench.windows[-1].counters["lost"] == 0


async def test_a_system_may_add_to_what_it_passes_on(nats_bench: NatsBench) -> None:
    async def add(client: Client, msg: Msg) -> None:
        await client.publish("out", msg.data + b" and more")

    assert await seen(nats_bench, add, 30) == {}
    assert nats_bench.counts["ok"] == nats_bench.counts["scheduled"]


async def test_dropped_events_are_lost_and_nothing_else(nats_bench: NatsBench) -> None:
    numbers = itertools.count(1)
    dropped = 0

    async def drop(client: Client, msg: Msg) -> None:
        nonlocal dropped
        if next(numbers) % 50:
            await client.publish("out", msg.data)
        else:
            dropped += 1

    found = await seen(nats_bench, drop, timeout="2s")
    assert found == {"lost": dropped}
    assert nats_bench.counts["not delivered"] == dropped
    where = sum(nats_bench.counts.get(f"lost_{where}", 0) for where in ("prefix", "middle", "postfix"))
    assert where == dropped


async def test_doubled_events_are_duplicates_and_nothing_else(nats_bench: NatsBench) -> None:
    numbers = itertools.count(1)
    doubled = 0

    async def double(client: Client, msg: Msg) -> None:
        nonlocal doubled
        await client.publish("out", msg.data)
        if not next(numbers) % 50:
            doubled += 1
            await client.publish("out", msg.data)

    found = await seen(nats_bench, double)
    assert found.keys() == {"duplicates"}
    assert found["duplicates"] in (doubled, doubled - 1), "the greeting may have been one of them"
    assert not nats_bench.counts.get("failed")


@pytest.mark.parametrize(("settled", "called"), [(True, "reordered"), (False, "overtaken")])
async def test_events_in_the_wrong_order_are_reordered_and_nothing_else(
    nats_bench: NatsBench, monkeypatch: pytest.MonkeyPatch, settled: bool, called: str
) -> None:
    """But for those of a client that was replaced: it may send what it had kept after its successor has sent."""
    monkeypatch.setattr(LoadClient, "settled", settled)
    held: list[bytes] = []
    numbers = itertools.count(1)

    async def swap(client: Client, msg: Msg) -> None:
        n = next(numbers)
        if n % 50 == 25 and n < 300:  # the last one of all would not be overtaken, but lost
            held.append(msg.data)
            return
        await client.publish("out", msg.data)
        while held:
            await client.publish("out", held.pop())

    found = await seen(nats_bench, swap)
    assert found.keys() == {called}
    assert not nats_bench.counts.get("failed")


async def test_events_that_nobody_published_are_unexpected_and_nothing_else(nats_bench: NatsBench) -> None:
    numbers = itertools.count(1)

    async def invent(client: Client, msg: Msg) -> None:
        await client.publish("out", msg.data)
        if not next(numbers) % 50:
            await client.publish("out", b" ".join([*msg.data.split()[:4], b"999999999", b"."]))

    assert (await seen(nats_bench, invent)).keys() == {"unexpected"}


async def test_what_comes_after_it_was_given_up_is_late(nats_bench: NatsBench) -> None:
    held: list[bytes] = []

    async def hold(client: Client, msg: Msg) -> None:
        if len(held) < 3 and msg.data.split()[4] != b"0":
            held.append(msg.data)
        else:
            await client.publish("out", msg.data)

    asked = load(receive="out", settle="200ms")
    async with nats_bench.responder("in", hold) as client, nats_bench.running(asked) as context:
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("lost") == 3)
        for data in held:
            await client.publish("out", data)
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("late_arrivals") == 3)
    assert nats_bench.counts["lost_prefix"] == 3
    assert not nats_bench.counts.get("duplicates")


async def test_what_others_publish_there_is_not_ours(nats_bench: NatsBench) -> None:
    async def another(_: Client, __: Msg) -> None:
        pass

    async with nats_bench.responder("x", another) as client, nats_bench.running(load()) as context:
        await nats_bench.until_ok(context, 10)
        ours = f"{context.run} load 17 0 5 from an earlier life of this load, or another process of it"
        await client.publish("in", ours.encode())
        await client.publish("in", b"somebody else's event")
        await client.publish("in", b"run-2 load 17 0 5 from another run")
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("foreign") == 2)
    assert {name for name in COUNTERS if nats_bench.counts.get(name)} == {"foreign"}


@pytest.mark.parametrize("client", ["default", "reconnect", "make_before_break"])
async def test_without_a_system_the_events_come_straight_back(nats_bench: NatsBench, client: str) -> None:
    async with nats_bench.running(load(client=client, rate=None, workers=20)) as context:
        await nats_bench.until_ok(context, 500)
    assert {name for name in COUNTERS if nats_bench.counts.get(name)} == set()
    assert nats_bench.counts["ok"] == nats_bench.counts["scheduled"]


async def test_a_broker_that_restarts_fails_events_and_the_load_lives(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(settle="300ms", timeout="500ms")) as context:
        await nats_bench.until_ok(context, 100)
        nats_bench.server.stop()
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("failed", 0) > 10)
        await nats_bench.server.start()
        before = nats_bench.counts["ok"]
        await nats_bench.until_ok(context, int(before) + 100)
    counts = nats_bench.counts
    assert counts.get("lost", 0) <= counts["failed"], "what the client kept arrives too late, but is not lost"
    assert not {"duplicates", "reordered", "unexpected"} & counts.keys()
