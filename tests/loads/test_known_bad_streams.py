"""Bad streams: see `known_bad`."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from known_bad import (
    ENOUGH,
    FIRST,
    LONG,
    PATIENT,
    RATE,
    SLOW,
    broken,
    flagged,
    judged,
    now_and_then,
    once,
    soaked,
    with_latency,
)
from load_bench import PATIENCE, Bench
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy
from nats_bench import Answer, NatsBench
from test_known_bad_messages import made_up

from supervisor.judge.verdict import Judgement
from supervisor.loads import pull
from supervisor.loads.jetstream import JetStreamLoad

STREAM = (
    *("failures == 0", "lost == 0", "duplicates == 0", "unexpected == 0"),
    *("counter double_acks == 0", "counter late_acks == 0", "counter unexpected_acks == 0"),
)


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


async def acknowledge_twice(client: Client, msg: Msg) -> None:
    answer = await client.request("real", msg.data, timeout=PATIENCE, headers=msg.headers)
    await msg.respond(answer.data)
    await msg.respond(answer.data)


async def acknowledge_another(client: Client, msg: Msg) -> None:
    await store(client, msg)
    inbox, _, n = msg.reply.rpartition(".")
    await client.publish(f"{inbox}.{int(n) + 1_000_000}", b'{"stream": "REAL", "seq": 1}')


def belated() -> Answer:
    """Say of one message that it is stored only when it is published once more."""
    numbers, kept = itertools.count(1), list[Msg]()

    async def relay(client: Client, msg: Msg) -> None:
        again = kept and msg.data == kept[0].data
        if not again and next(numbers) == FIRST:
            await client.request("real", msg.data, timeout=PATIENCE, headers=msg.headers)
            kept.append(msg)
            return
        if again:
            await store(client, kept.pop())
        await store(client, msg)

    return relay


BAD_STREAMS: dict[str, tuple[Callable[[], Answer], str, dict[str, Any]]] = {
    "loses what it acknowledged": (lambda: now_and_then(lie, store), "lost == 0", {}),
    "stores twice": (lambda: now_and_then(store_twice, store), "duplicates == 0", {}),
    "stores what nobody wrote": (lambda: now_and_then(store_another, store), "unexpected == 0", {}),
    "acknowledges twice": (lambda: now_and_then(acknowledge_twice, store), "counter double_acks == 0", {}),
    "acknowledges late": (belated, "counter late_acks == 0", {"attempt": "500ms"}),
    "acknowledges what nobody published": (
        lambda: now_and_then(acknowledge_another, store),
        "counter unexpected_acks == 0",
        {},
    ),
    "stalls": (lambda: once(LONG, store), SLOW, {}),
}


async def stored(
    bench: NatsBench, relay: Answer, expected: str = "", count: int = ENOUGH, **more: Any
) -> Judgement:
    pace = (
        {"rate": RATE} if expected == SLOW else {"workers": 10}
    )  # a busy machine may not keep up with a rate
    entry = {"jetstream": "REAL", "subject": "in", "settle": "5s", "attempt": "20s", **PATIENT, **pace}
    load = JetStreamLoad.model_validate(entry | more)
    async with bench.responder("in", relay) as system:
        await system.jetstream().add_stream(name="REAL", subjects=["real"])
        counts = {"ok": count} | ({expected.split()[1]: 1} if expected.startswith("counter ") else {})
        return await soaked(bench.bench, load, with_latency(STREAM, expected), None, **counts)


@pytest.mark.parametrize("bad", BAD_STREAMS)
async def test_a_bad_stream_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None, bad: str
) -> None:
    relay, threshold, entry = BAD_STREAMS[bad]

    judgement = await stored(nats_bench, relay(), threshold, **entry)

    assert broken(judgement) == {threshold}, flagged(judgement)


LOSSES = (
    *("failures == 0", "lost_in_stream == 0", "lost_in_delivery == 0", "duplicates == 0", "unexpected == 0"),
    *("lost_to_retention == 0",),
)
PLACES = (
    *("failures == 0", "lost_in_delivery == 0", "lost_prefix == 0", "lost_middle == 0", "lost_postfix == 0"),
    *("duplicates == 0", "unexpected == 0"),
)


def lying(place: int) -> Answer:
    """Acknowledge at a place where the message is not."""

    async def lie(_: Client, msg: Msg) -> None:
        await msg.respond(json.dumps({"stream": "REAL", "seq": place}).encode())

    return now_and_then(lie, store)


@asynccontextmanager
async def a_stream_of_ours(bench: NatsBench, relay: Answer) -> AsyncIterator[JetStreamContext]:
    """A stream that counts as made by the run, which so keeps every message, and begins with message 1000."""
    async with bench.responder("in", relay) as system:
        mark = f"made by soakd, run {bench.bench.run_id}"
        await system.jetstream().add_stream(name="REAL", subjects=["real"], description=mark, first_seq=1000)
        yield system.jetstream()


def short(**entry: Any) -> JetStreamLoad:
    """A load of which losses are decided at its end."""
    entry = {"jetstream": "REAL", "subject": "in", "settle": "1m", "attempt": "20s", **PATIENT, **entry}
    return JetStreamLoad.model_validate(entry)


@pytest.mark.parametrize(("place", "where"), [(7, "prefix"), (1_000_000, "postfix")])
async def test_a_stream_that_lost_its_beginning_or_end_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None, place: int, where: str
) -> None:
    async with a_stream_of_ours(nats_bench, lying(place)):
        judgement = await soaked(nats_bench.bench, short(workers=10), PLACES, ok=100)

    assert broken(judgement) == {f"lost_{where} == 0"}, flagged(judgement)


Meddle = Callable[[JetStreamContext, str], Awaitable[object]]


async def meddled(bench: NatsBench, meddle: Meddle, thresholds: tuple[str, ...]) -> Judgement:
    """Judge a load with whose stream, or with whose consumer of that name, somebody does something."""
    load = short(rate=RATE)
    async with AsyncExitStack() as stack:
        result = await stack.enter_async_context(judged(bench.bench, load, thresholds))
        js = await stack.enter_async_context(a_stream_of_ours(bench, store))
        context = await stack.enter_async_context(bench.running(load))
        await bench.until_ok(context, 20)
        (reader,) = await js.consumers_info("REAL")
        await meddle(js, reader.name)
        await bench.until_ok(context, int(bench.counts["ok"]) + 20)
    return result[0]


async def delete_one(js: JetStreamContext, consumer: str) -> None:
    """Delete a message that was published while the consumer delivered none."""

    async def pause(**body: str) -> None:
        subject = f"$JS.API.CONSUMER.PAUSE.REAL.{consumer}"
        answer = await js._nc.request(subject, json.dumps(body).encode(), timeout=PATIENCE)
        assert json.loads(answer.data).get("paused", False) == bool(body), answer.data

    async def last() -> int:
        return (await js.stream_info("REAL")).state.last_seq

    await pause(pause_until=(datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    gone = 1 + await last()
    while await last() <= gone:  # noqa: ASYNC110  # nobody tells
        await anyio.sleep(0.01)
    await js.delete_msg("REAL", gone)
    await pause()


async def test_a_stream_that_lost_something_in_between_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None
) -> None:
    judgement = await meddled(nats_bench, delete_one, PLACES)

    assert broken(judgement) == {"lost_middle == 0"}, flagged(judgement)


async def take_away(js: JetStreamContext, consumer: str) -> None:
    """Take three messages by the load's own consumer, and say that they have arrived."""
    sub = await js.pull_subscribe_bind(consumer, "REAL")
    for _ in range(3):
        (msg,) = await sub.fetch(1, timeout=PATIENCE)
        await msg.ack_sync(timeout=PATIENCE)


async def test_a_stream_that_passes_messages_over_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None
) -> None:
    judgement = await meddled(nats_bench, take_away, LOSSES)

    assert broken(judgement) == {"lost_in_delivery == 0"}, flagged(judgement)


async def begin_anew(js: JetStreamContext, consumer: str) -> None:
    """Let the load's consumer forget what it has delivered, as one does whose state is lost."""
    await js.delete_consumer("REAL", consumer)
    await js.add_consumer("REAL", durable_name=consumer, ack_policy=AckPolicy.EXPLICIT)


async def test_a_stream_that_delivers_again_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that comes a second time from its one place is no duplicate."""
    monkeypatch.setattr(pull, "EXPIRES", 0.1)  # while it is made anew nobody answers a pull
    judgement = await meddled(nats_bench, begin_anew, (*STREAM, "counter redelivered == 0"))

    assert broken(judgement) == {"counter redelivered == 0"}, flagged(judgement)


# --- streams that do not keep what they have delivered --------------------------------------------------------------------

KEPT = (*LOSSES, "backward_acks == 0")


async def jetstream(bench: Bench) -> JetStreamContext:
    assert bench.connections
    return await (await bench.connections.handle()).jetstream()


async def delivered(js: JetStreamContext, place: int) -> None:
    while (await js.consumers_info("SOAK"))[0].ack_floor.stream_seq < place:  # type: ignore[union-attr]  # noqa: ASYNC110  # nobody tells
        await anyio.sleep(0.01)


async def delete(js: JetStreamContext) -> None:
    for sequence in range(20, 31):
        await js.delete_msg("SOAK", sequence)


async def shorten(js: JetStreamContext) -> None:
    await js.purge_stream("SOAK", seq=31)


async def empty(js: JetStreamContext) -> None:
    await js.purge_stream("SOAK")


THIEVES = {"middle": (delete, 11), "prefix": (shorten, 30), "whole": (empty, 60)}


@pytest.mark.parametrize("place", THIEVES)
async def test_a_stream_that_does_not_keep_what_it_has_delivered_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench, decided_soon: None, place: str
) -> None:
    steal, lost = THIEVES[place]
    bench, load = nats_bench.bench, short(jetstream="SOAK", subject=None, workers=5)
    async with judged(bench, load, KEPT) as result, bench.under(load) as context:
        await bench.until_counted(context, "ok", 60)
        js = await jetstream(bench)
        await delivered(js, 60)
        await steal(js)
        await bench.until_counted(context, "ok", int(bench.counts["ok"]) + 20)

    assert broken(result[0]) == {"lost_in_stream == 0"}, flagged(result[0])
    assert bench.counts["lost"] >= lost
    assert place == "whole" or bench.counts["lost"] == bench.counts[f"lost_{place}"] == lost
    told = nats_bench.violations[0]
    assert told.invariant == "an acknowledged message stays in its stream"
    assert told.data["replicas"]["nats1"]["holds"] == "no"
    assert told.data["id"].endswith(f".{told.data['sequence']}"), (
        "one writer alone: place and number are alike"
    )


async def test_a_store_that_comes_back_as_it_was_is_flagged_by_what_is_gone(
    nats_bench: NatsBench, decided_soon: None, tmp_path: Path
) -> None:
    """Its newest messages are gone, and others soon have their places."""
    bench, server = nats_bench.bench, nats_bench.server
    load, store = (
        short(jetstream="SOAK", subject=None, rate="100/s", attempt="500ms"),
        server.directory / "jetstream",
    )
    thresholds = ("failures == 0", "lost_in_stream == 0", "lost_in_delivery == 0", "backward_acks == 0")
    async with judged(bench, load, thresholds) as result, bench.under(load) as context:
        await bench.until_counted(context, "ok", 20)
        async with nats_bench.frozen():
            shutil.copytree(store, tmp_path / "past")
        js = await jetstream(bench)
        await bench.until_counted(context, "ok", int(bench.counts["ok"]) + 40)
        await delivered(js, int(bench.counts["ok"]) - 10)
        server.stop()
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "past", store)
        await server.start()
        await bench.until_counted(context, "ok", int(bench.counts["ok"]) + 60)

    assert broken(result[0]) == {"lost_in_stream == 0", "backward_acks == 0"}, flagged(result[0])
    assert bench.counts["lost"] >= 30
