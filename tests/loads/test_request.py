from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest
from load_bench import until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench, honest
from pydantic import ValidationError

from supervisor.journal.events import CUT_OFF
from supervisor.loads.request import RequestLoad

SUBJECT = "connector.echo"
QUIET = ("failed", "indeterminate", "duplicates", "late_answers", "unexpected")


def load(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate(
        {"request": SUBJECT, "rate": "500/s", "expect": "echo", "timeout": "20s", **entry}
    )


async def seen(bench: NatsBench, answer: Answer, count: int = 200, **entry: Any) -> dict[str, float]:
    """Return what a load saw of a responder, as far as it is not as it should be."""
    async with bench.responder(SUBJECT, answer), bench.running(load(**entry)) as context:
        await bench.until_ok(context, count)
    return {name: amount for name, amount in bench.counts.items() if name in QUIET}


async def test_an_honest_responder_passes(nats_bench: NatsBench) -> None:
    assert await seen(nats_bench, honest) == {}
    counts = nats_bench.counts
    assert counts["ok"] == counts["scheduled"] == counts["started"]
    assert nats_bench.cut_off == 0


async def test_a_dropped_request_is_a_timeout_and_indeterminate(nats_bench: NatsBench) -> None:
    numbers = itertools.count(1)
    dropped = 0

    async def drop(_: Client, msg: Msg) -> None:
        nonlocal dropped
        if next(numbers) % 50:
            await msg.respond(msg.data)
        else:
            dropped += 1

    found = await seen(nats_bench, drop, timeout="1s")
    assert found == {"indeterminate": dropped}
    assert nats_bench.counts["timeout"] == dropped >= 4


async def test_a_second_answer_is_a_duplicate(nats_bench: NatsBench) -> None:
    numbers = itertools.count(1)

    async def twice(_: Client, msg: Msg) -> None:
        await msg.respond(msg.data)
        if not next(numbers) % 50:
            await msg.respond(msg.data)

    assert (await seen(nats_bench, twice)).keys() == {"duplicates"}


async def test_an_answer_after_the_timeout_is_told_apart(nats_bench: NatsBench) -> None:
    waiting: list[Msg] = []

    async def late(_: Client, msg: Msg) -> None:
        if len(waiting) < 5:
            waiting.append(msg)
        else:
            await msg.respond(msg.data)

    async with nats_bench.responder(SUBJECT, late), nats_bench.running(load(timeout="200ms")) as context:
        await nats_bench.bench.until_counted(context, "timeout", 5)
        for msg in waiting:
            await msg.respond(msg.data)
        await nats_bench.bench.until_counted(context, "late_answers", 5)
    assert {name for name in QUIET if nats_bench.counts.get(name)} == {"indeterminate", "late_answers"}


async def test_anothers_answer_is_wrong(nats_bench: NatsBench) -> None:
    last = b""

    async def mixed_up(_: Client, msg: Msg) -> None:
        nonlocal last
        answer, last = (last if msg.data.split()[4].endswith(b"7") else msg.data), msg.data
        await msg.respond(answer)

    assert (await seen(nats_bench, mixed_up)).keys() == {"failed"}
    assert nats_bench.counts["wrong answer"] == nats_bench.counts["failed"]
    assert "was answered" in nats_bench.bench.samples[0].detail


async def test_nobody_listens(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(rate="100/s")) as context:
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("failed", 0) >= 10)
    assert nats_bench.counts["no responders"] == nats_bench.counts["failed"]


async def test_a_service_that_says_that_it_failed(nats_bench: NatsBench) -> None:
    async def fails(client: Client, msg: Msg) -> None:
        headers = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "no database"}
        await client.publish(msg.reply, b"", headers=headers)

    async with nats_bench.responder(SUBJECT, fails), nats_bench.running(load()) as context:
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("failed", 0) >= 10)
    assert nats_bench.counts["service error 500"] == nats_bench.counts["failed"]
    assert nats_bench.bench.samples[0].detail == "no database"


@pytest.mark.parametrize("client", ["default", "reconnect", "make_before_break"])
async def test_soakd_answers_itself(nats_bench: NatsBench, client: str) -> None:
    asked = load(responder="built_in", client=client, workers=10, rate=None)
    async with nats_bench.running(asked) as context:
        await nats_bench.until_ok(context, 500)
    assert {name for name in QUIET if nats_bench.counts.get(name)} == set()


async def test_a_frozen_server_shows_in_the_response_times(nats_bench: NatsBench) -> None:
    patient = {"in_flight": 10_000, "timeout": "40s"}
    async with nats_bench.running(load(responder="built_in", client="default", **patient)) as context:
        await nats_bench.until_ok(context, 100)
        async with nats_bench.frozen():
            await anyio.sleep(1)
        await nats_bench.until_ok(context, 1000)
    counts = nats_bench.counts
    assert nats_bench.latency(0.99) >= 0.9
    assert counts["ok"] == counts["scheduled"], "not one was left out"


async def test_operations_that_are_open_at_the_end_are_cut_off(
    nats_bench: NatsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.loads.executor.LAST", 0.2)

    async def never(_: Client, msg: Msg) -> None:
        pass

    asked = load(workers=7, rate=None, timeout="1m")
    async with nats_bench.responder(SUBJECT, never), nats_bench.running(asked) as context:
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("started") == 7)
    assert nats_bench.cut_off == 7
    assert nats_bench.counts == {"scheduled": 7, "started": 7, "indeterminate": 7, CUT_OFF: 7}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"rate": None}, "expected one of rate, ramp"),
        ({"workers": 3}, "found rate and workers"),
        ({"request": "orders.*"}, "without wildcards"),
        ({"expect": "any", "responder": "built_in"}, "always answers with an echo"),
        ({"rate": None, "burst": {"size": 50, "every": "1s"}, "in_flight": 20}, "raise it"),
        ({"rate": None, "between": ["2s", "1s"]}, "the shortest time and then the longest"),
    ],
)
def test_what_cannot_be(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        load(**entry)
