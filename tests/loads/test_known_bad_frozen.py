"""A server that stands still does not pass for one without failures: see `known_bad`."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from aiohttp import web
from http_bench import service
from known_bad import broken, judged
from load_bench import Bench, until
from nats_bench import NatsBench, honest
from test_claim import load as claim
from test_event_store import load as event_store
from test_http import load as http
from test_known_bad_messages import events, request
from test_kv import load as kv

from supervisor.loads.base import Load
from supervisor.loads.jetstream import JetStreamLoad


async def test_a_frozen_server_cannot_pass_for_no_failures(nats_bench: NatsBench) -> None:
    load = request(rate="200/s", timeout="500ms")
    thresholds = ("failures == 0", "ok >= 99%", "failed == 0")
    async with (
        judged(nats_bench.bench, load, thresholds) as result,
        nats_bench.responder("echo", honest),
        nats_bench.running(load) as context,
    ):
        await nats_bench.until_ok(context, 20)
        async with nats_bench.frozen():
            await nats_bench.bench.until_counted(context, "timeout", 50)
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 20)

    assert broken(result[0]) == {"failures == 0", "ok >= 99%"}, "timeouts are indeterminate, and no success"


async def test_a_server_that_stays_frozen_to_the_end_cannot_either(nats_bench: NatsBench) -> None:
    load = request(rate="200/s", timeout="30s", in_flight=100)
    async with (
        judged(nats_bench.bench, load, NEVER) as result,
        nats_bench.responder("echo", honest),
        nats_bench.running(load) as context,
    ):
        await nats_bench.until_ok(context, 20)
        async with nats_bench.frozen():
            await until(
                lambda: context.recorder.flush() or sum(one.dropped for one in nats_bench.windows) >= 50
            )
            context.stop.set()
            await until(lambda: nats_bench.cut_off)

    assert broken(result[0]) == {"failures == 0"}, "the end explains them, and they are failures all the same"


NEVER = ("failures == 0", "failed == 0", "unexplained failures == 0")
BRIEF = {"timeout": "500ms"}
FROZEN: dict[str, Callable[[], Load]] = {
    "events": lambda: events(events="out", **BRIEF),
    "jetstream": lambda: JetStreamLoad.model_validate({"jetstream": "S", "rate": "100/s", **BRIEF}),
    "event_store": lambda: event_store(**BRIEF),
    "kv": lambda: kv(**BRIEF),
    "claim a message": lambda: claim({"stream": "JOBS"}, **BRIEF),
    "claim a key": lambda: claim({"bucket": "JOBS"}, **BRIEF),
}


@pytest.mark.parametrize("kind", FROZEN)
async def test_no_load_takes_a_frozen_server_for_one_without_failures(
    nats_bench: NatsBench, kind: str
) -> None:
    load = FROZEN[kind]()

    def failures() -> float:
        return nats_bench.counts.get("failed", 0) + nats_bench.counts.get("indeterminate", 0)

    async with (
        judged(nats_bench.bench, load, ("failures == 0",)) as result,
        nats_bench.running(load) as context,
    ):
        await nats_bench.until_ok(context, 20)
        async with nats_bench.frozen():
            await until(lambda: context.recorder.flush() or failures() >= 10)
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 5)

    assert broken(result[0]) == {"failures == 0"}
    assert result[0].verdict == "fail"


async def test_a_service_that_stands_still_cannot_pass_either(bench: Bench) -> None:
    """An order that is not answered may have been made."""
    moves = anyio.Event()
    moves.set()

    async def answer(_: web.BaseRequest) -> web.Response:
        await moves.wait()
        return web.Response()

    async with service(answer) as url:
        load = http(url, method="POST", rate="100/s", timeout="500ms")
        async with judged(bench, load, ("failures == 0",)) as result, bench.under(load) as context:
            await bench.until_counted(context, "ok", 20)
            moves = anyio.Event()
            await bench.until_counted(context, "indeterminate", 10)
            moves.set()
            await bench.until_counted(context, "ok", int(bench.counts["ok"]) + 5)

    assert broken(result[0]) == {"failures == 0"}
    assert result[0].verdict == "fail"
