from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import nats
import pytest
from load_bench import until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats_bench import Answer, NatsBench

from supervisor.loads.jetstream import JetStreamLoad

PATIENCE = 10.0
PLACES = 8
PATIENT = {"timeout": "20s", "attempt": "20s"}
QUIET = {"failed", "indeterminate", "lost", "duplicates", "unexpected", "lost_to_retention", "undecided"}


@pytest.fixture
async def js(nats_bench: NatsBench) -> AsyncIterator[JetStreamContext]:
    broker = nats_bench.server.broker
    client = await nats.connect(broker["servers"][0], user=broker["user"], password=broker["password"])
    yield client.jetstream()
    await client.close()


def load(**entry: Any) -> JetStreamLoad:
    return JetStreamLoad.model_validate({"jetstream": "SOAK", "rate": "300/s", "settle": "1s", **entry})


async def streams(js: JetStreamContext) -> set[str]:
    return {str(info.config.name) for info in await js.streams_info()}


@pytest.mark.parametrize("client", ["default", "reconnect", "make_before_break"])
async def test_a_good_stream_passes_and_is_removed(
    nats_bench: NatsBench, js: JetStreamContext, client: str
) -> None:
    async with nats_bench.running(load(client=client, workers=20, rate=None, **PATIENT)) as context:
        await nats_bench.until_ok(context, 500)
        assert await streams(js) == {"SOAK"}
    counts = nats_bench.counts
    assert {name for name in QUIET if counts.get(name)} == set()
    assert counts["ok"] == counts["attempts"] == counts["scheduled"]
    assert any("lost" in window.counters for window in nats_bench.windows), "nothing was lost, and it says so"
    assert await streams(js) == set()


async def test_a_consumer_that_is_gone_is_made_anew_and_nothing_is_lost(
    nats_bench: NatsBench, js: JetStreamContext
) -> None:
    async with nats_bench.running(load(workers=5, rate=None, settle="200ms", **PATIENT)) as context:
        await nats_bench.until_ok(context, 20)
        (reader,) = await js.consumers_info("SOAK")
        await js.delete_consumer("SOAK", reader.name)
        await nats_bench.bench.until_counted(context, "consumers_lost")
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 20)
    assert {name for name in QUIET if nats_bench.counts.get(name)} == set()
    assert any("lost" in window.counters for window in nats_bench.windows), "all of them arrived"


async def relayed(bench: NatsBench, js: JetStreamContext, relay: Answer, **limits: Any) -> dict[str, float]:
    """Return what a load saw of a system that stores what comes to `in` on a stream of its own."""
    await js.add_stream(name="REAL", subjects=["real"], **limits)
    asked = load(jetstream="REAL", subject="in", rate=None, workers=10, **PATIENT)
    async with bench.responder("in", relay), bench.running(asked) as context:
        await bench.until_ok(context, 200)
    assert await streams(js) == {"REAL"}, "a stream that was there stays"
    return {name: amount for name, amount in bench.counts.items() if name in QUIET}


async def store(client: Client, msg: Msg, *, headers: bool = True) -> None:
    answer = await client.request(
        "real", msg.data, timeout=PATIENCE, headers=msg.headers if headers else None
    )
    await msg.respond(answer.data)


async def test_an_honest_system_passes(nats_bench: NatsBench, js: JetStreamContext) -> None:
    assert await relayed(nats_bench, js, store) == {}


async def test_acknowledged_and_not_stored_is_lost_and_nothing_else(
    nats_bench: NatsBench, js: JetStreamContext, decided_soon: None
) -> None:
    numbers = itertools.count(1)
    lies = 0

    async def lie(client: Client, msg: Msg) -> None:
        nonlocal lies
        if next(numbers) % 40:
            await store(client, msg)
        else:
            lies += 1
            await msg.respond(json.dumps({"stream": "REAL", "seq": 1_000_000}).encode())

    assert await relayed(nats_bench, js, lie) == {"lost": lies}
    assert nats_bench.counts["lost_in_stream"] == nats_bench.counts["lost_postfix"] == lies
    violation = nats_bench.violations[0]
    assert len(nats_bench.violations) == lies
    assert "the stream does not have it" in violation.detail
    assert violation.data["sequence"] == 1_000_000
    near = violation.data["neighbours"]
    assert {near[f"message {n}"] for n in (999_999, 1_000_000, 1_000_001)} == {"none"}
    assert violation.data["stream"] == "REAL"
    assert violation.data["subject"] == "in"
    assert violation.data["acked_by"] == "nats1"
    assert violation.data["connected_to"].startswith("127.0.0.1:")
    assert violation.data["replicas"]["nats1"]["holds"] == "no"


async def test_stored_twice_is_a_duplicate_and_nothing_else(
    nats_bench: NatsBench, js: JetStreamContext
) -> None:
    numbers = itertools.count(1)
    doubled = 0

    async def twice(client: Client, msg: Msg) -> None:
        nonlocal doubled
        await store(client, msg)
        n = next(numbers)
        if n < 200 and not n % 40:  # the second one of the last of all may come too late to be read
            doubled += 1
            await client.request("real", msg.data, timeout=PATIENCE)

    assert await relayed(nats_bench, js, twice) == {"duplicates": doubled}


async def test_what_a_stream_may_drop_is_no_loss(
    nats_bench: NatsBench, js: JetStreamContext, decided_soon: None
) -> None:
    numbers = itertools.count(1)

    async def forget(client: Client, msg: Msg) -> None:
        if next(numbers) == 20:
            # What is purged before it was delivered is gone, too.
            while (await js.consumers_info("REAL"))[0].num_pending:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.01)
            await js.purge_stream("REAL")
            await msg.respond(json.dumps({"stream": "REAL", "seq": 1}).encode())
        else:
            await store(client, msg)

    limit = 1 << 30  # so that what is old may go at any time
    assert await relayed(nats_bench, js, forget, max_bytes=limit) == {"lost_to_retention": 1}
    assert not nats_bench.violations


@pytest.mark.parametrize(
    ("limits", "left"),
    [({"max_msgs": 50}, 50), ({"max_msgs_per_subject": 50}, 51), ({"retention": "interest"}, 0)],
    ids=["max_msgs", "max_msgs_per_subject", "interest"],
)
async def test_what_goes_by_the_terms_of_its_stream_is_no_loss(
    nats_bench: NatsBench, js: JetStreamContext, limits: dict[str, Any], left: int
) -> None:
    await js.add_stream(name="SOAK", subjects=["soak.SOAK", "theirs"], **limits)
    await js.publish("theirs", b"1")
    async with nats_bench.running(load(workers=1, rate=None, settle="200ms", **PATIENT)) as context:
        await nats_bench.until_ok(context, 100)
    assert (await js.stream_info("SOAK")).state.messages == left, "the others are gone"
    counts = nats_bench.counts
    assert {name for name in QUIET if counts.get(name)} <= {"lost_to_retention"}
    assert any("lost" in window.counters for window in nats_bench.windows), "nothing was lost, and it says so"


async def test_what_others_delete_of_theirs_is_no_loss(nats_bench: NatsBench, js: JetStreamContext) -> None:
    await js.add_stream(name="SOAK", subjects=["soak.SOAK", "theirs"])
    async with nats_bench.running(load(workers=1, rate=None, settle="200ms", **PATIENT)) as context:
        for count in (20, 40, 60):
            await nats_bench.until_ok(context, count)
            await js.delete_msg("SOAK", (await js.publish("theirs", b"1")).seq)
    counts = nats_bench.counts
    assert {name for name in QUIET if counts.get(name)} == set()
    assert any("lost" in window.counters for window in nats_bench.windows), "nothing was lost, and it says so"


async def test_an_answer_that_comes_after_a_retry_is_one_message(
    nats_bench: NatsBench, js: JetStreamContext
) -> None:
    seen: set[bytes] = set()

    async def slow(client: Client, msg: Msg) -> None:
        if msg.data in seen:
            await store(client, msg)
        else:
            seen.add(msg.data)
            await client.publish("real", msg.data, headers=msg.headers)  # stored, and not acknowledged

    await js.add_stream(name="REAL", subjects=["real"])
    asked = load(jetstream="REAL", subject="in", attempt="200ms", timeout="20s", workers=20, rate=None)
    async with nats_bench.responder("in", slow), nats_bench.running(asked) as context:
        await nats_bench.until_ok(context, 40)
    counts = nats_bench.counts
    assert {name for name in QUIET if counts.get(name)} == set()
    assert counts["attempts"] >= 2 * counts["ok"]


async def test_a_broker_that_restarts_loses_nothing(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(timeout="30s", attempt="500ms")) as context:
        await nats_bench.until_ok(context, 100)
        nats_bench.server.stop()
        before = nats_bench.counts["ok"]
        await nats_bench.server.start()
        await nats_bench.until_ok(context, int(before) + 200)
    counts = nats_bench.counts
    assert not {"lost", "duplicates", "unexpected", "undecided", "failed"} & counts.keys()


async def test_without_a_last_look_nothing_is_said_of_losses(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(timeout="1s", attempt="300ms")) as context:
        await nats_bench.until_ok(context, 100)
        await until(lambda: context.recorder.flush() or True)
        nats_bench.server.stop()
    whole = [window.counters for window in nats_bench.windows]
    said = any("lost" in counters for counters in whole)
    assert said == (not nats_bench.counts.get("undecided"))


async def test_acknowledgements_that_never_come_hold_no_place_for_ever(
    nats_bench: NatsBench, js: JetStreamContext
) -> None:
    """nats-py's `publish_async` waits for a lost one for ever, and each of them keeps one of its permits (#985)."""
    numbers = itertools.count(1)

    async def silent_at_first(client: Client, msg: Msg) -> None:
        if next(numbers) > 3 * PLACES:
            await store(client, msg)

    await js.add_stream(name="REAL", subjects=["real"])
    asked = load(
        jetstream="REAL", subject="in", timeout="300ms", attempt="300ms", rate="100/s", in_flight=PLACES
    )
    async with nats_bench.responder("in", silent_at_first), nats_bench.running(asked) as context:
        await nats_bench.until_ok(context, 100)
        async with nats_bench.frozen():
            await until(lambda: context.recorder.flush() or nats_bench.counts["indeterminate"] >= 4 * PLACES)
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 100)
    counts = nats_bench.counts
    assert counts["started"] == counts["ok"] + counts["indeterminate"] + counts.get("failed", 0)
    assert nats_bench.cut_off == 0
