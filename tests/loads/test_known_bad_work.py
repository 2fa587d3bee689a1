"""Programs that tell of failures, bad services over HTTP and bad queues of jobs: see `known_bad`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import anyio
import pytest
from aiohttp import web
from false_jetstream import FalseJetStream, playing
from http_bench import service
from known_bad import LONG, SLOW, broken, flagged, soaked, with_latency
from load_bench import Bench
from nats_bench import NatsBench
from test_claim import Dispatcher, Forgetful, GivesTwice, Jams, LosesJobs, Racy, TwoWinners, bots
from test_claim import load as claim
from test_http import ORDER, Orders
from test_http import load as http

from supervisor.judge.verdict import Judgement
from supervisor.loads.command import CommandLoad

# --- programs that tell their operations --------------------------------------------------------------------------------

LINES = (
    "failed == 0",
    "indeterminate == 0",
    "duplicates == 0",
    "malformed_lines == 0",
    "program_crashes == 0",
)
PROGRAM = """
import json, sys, time
time.sleep(LIVED)
def tell(**said): print(json.dumps({"op": "put"} | said), flush=n % 50 == 0)
for n in range(3000):
    tell(outcome="started", id=str(n))
    bad = n == 1234
    if bad: BAD
    else: tell(outcome="ok", ms=1, id=str(n))
sys.stdout.flush()
time.sleep(9)
"""
BAD_PROGRAMS = {
    'tell(outcome="failed", error="refused", ms=1, id=str(n))': "failed == 0",
    '[tell(outcome="ok", ms=1, id=str(n)) for _ in range(2)]': "duplicates == 0",
    'tell(outcome="indeterminate", ms=1, id=str(n))': "indeterminate == 0",
}


async def told(
    bench: Bench,
    bad: str,
    *,
    when: str = "n == 1234",
    thresholds: tuple[str, ...] = LINES,
    ok: int = 2999,
    lived: float = 0.0,
) -> Judgement:
    """`lived`: seconds of the program before its first operation; none can have taken longer than it lives."""
    program = PROGRAM.replace("BAD", bad).replace("n == 1234", when).replace("LIVED", str(lived))
    load = CommandLoad.model_validate({"command": [sys.executable, "-c", program], "operations": "stdout"})
    return await soaked(bench, load, thresholds, ok=ok)


@pytest.mark.parametrize("bad", BAD_PROGRAMS)
async def test_what_a_program_tells_is_flagged_by_its_threshold_alone(bench: Bench, bad: str) -> None:
    judgement = await told(bench, bad)

    assert broken(judgement) == {BAD_PROGRAMS[bad]}, flagged(judgement)


LATE = ("p99 < 300ms", "service p99 < 300ms")
LATE_PROGRAMS = {
    "begins late": ({"ms": 400, "service_ms": 1}, {"p99 < 300ms"}),
    "takes long": ({"ms": 400, "service_ms": 400}, {*LATE}),
}


@pytest.mark.parametrize("late", LATE_PROGRAMS)
async def test_waiting_and_being_served_are_told_apart(bench: Bench, late: str) -> None:
    """Who has to wait for others breaks what is wanted of responses alone; who is served slowly breaks both."""
    said, expected = LATE_PROGRAMS[late]
    bad = f'tell(outcome="ok", id=str(n), **{said})'
    judgement = await told(bench, bad, when="n % 20 == 0", thresholds=(*LINES, *LATE), ok=3000, lived=0.5)

    assert broken(judgement) == expected, flagged(judgement)


# --- services over HTTP -------------------------------------------------------------------------------------------------

SERVICE = ("failed == 0", "indeterminate == 0", "duplicates == 0")


class Spoils(Orders, ABC):
    """Does every fiftieth order in another way; not those that are sent again, of which no answer is expected."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        new = request.headers["Idempotency-Key"] not in self.made
        self.n += new
        return await (self.spoil(request) if new and self.n % 50 == 0 else super().__call__(request))

    @abstractmethod
    async def spoil(self, request: web.BaseRequest) -> web.Response:
        """Answer as one should not."""


class Refuses500(Spoils):
    async def spoil(self, _: web.BaseRequest) -> web.Response:
        return web.Response(status=500)


class CutsOff(Spoils):
    async def spoil(self, request: web.BaseRequest) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()


class MakesTwice(Orders):
    def order(self, key: str) -> int:
        return self.made.setdefault(f"{key} {len(self.made)}", len(self.made))


class AnswersLate(Spoils):
    async def spoil(self, request: web.BaseRequest) -> web.Response:
        await anyio.sleep(LONG)
        return await Orders.__call__(self, request)


BAD_SERVICES: dict[str, tuple[type[Orders], str]] = {
    "refuses": (Refuses500, "failed == 0"),
    "never answers": (CutsOff, "indeterminate == 0"),
    "makes an order twice": (MakesTwice, "duplicates == 0"),
    "answers late": (AnswersLate, SLOW),
}


async def ordered(bench: Bench, orders: Orders, expected: str = "", count: int = 120) -> Judgement:
    async with service(orders) as url:
        load = http(url, replay={"share": "20%", "same": "order.id"}, **ORDER)
        return await soaked(bench, load, with_latency(SERVICE, expected), ok=count)


@pytest.mark.parametrize("bad", BAD_SERVICES)
async def test_a_bad_service_is_flagged_by_its_threshold_alone(bench: Bench, bad: str) -> None:
    kind, threshold = BAD_SERVICES[bad]

    judgement = await ordered(bench, kind(), threshold)

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- jobs ---------------------------------------------------------------------------------------------------------------

JOBS = ("failed == 0", "double_claims == 0", "orphans == 0", "stuck == 0")


async def claimed(
    bench: Bench, dispatcher: Dispatcher, expected: str = "", patience: str = "20s", **counts: int
) -> Judgement:
    async with service(dispatcher) as url:
        load, thresholds = bots(url, patience=patience, jobs=10), with_latency(JOBS, expected)
        return await soaked(bench, load, thresholds, **counts)


class Hesitates(Dispatcher):
    """Takes long to give every fiftieth job, and lets nobody wait for it."""

    async def claim(self, said: dict[str, str]) -> web.Response:
        if next(self.numbers) % 50 == 0:
            await anyio.sleep(LONG)
        return await super().claim(said)


BAD_DISPATCHERS: dict[str, tuple[type[Dispatcher], str, dict[str, Any]]] = {
    "gives a job twice": (Racy, "double_claims == 0", {"double_claims": 2}),
    "forgets who has a job": (Forgetful, "orphans == 0", {"orphans": 2, "patience": "3s"}),
    "never gives a job": (Jams, "stuck == 0", {"stuck": 2, "patience": "3s"}),
    "gives jobs late": (Hesitates, SLOW, {}),
}


@pytest.mark.parametrize("bad", BAD_DISPATCHERS)
async def test_a_bad_dispatcher_is_flagged_by_its_threshold_alone(bench: Bench, bad: str) -> None:
    kind, threshold, counts = BAD_DISPATCHERS[bad]

    judgement = await claimed(bench, kind(), threshold, claims=100, **counts)

    assert broken(judgement) == {threshold}, flagged(judgement)


JOB_QUEUES: dict[str, tuple[dict[str, Any], type[FalseJetStream], dict[str, Any], str]] = {
    "stream that gives a job twice": ({"stream": "JOBS"}, GivesTwice, {"work": "20ms"}, "double_claims"),
    "stream that gives a job to two processes": (
        {"stream": "JOBS"},
        GivesTwice,
        {"work": "20ms", "processes": 2},
        "double_claims",
    ),
    "stream that loses jobs": (
        {"stream": "JOBS"},
        LosesJobs,
        {"lease": "300ms", "patience": "2s", "jobs": 10},
        "stuck",
    ),
    "bucket with two winners": ({"bucket": "JOBS"}, TwoWinners, {}, "double_claims"),
}


@pytest.mark.parametrize("bad", JOB_QUEUES)
async def test_a_bad_queue_of_jobs_is_flagged_by_its_threshold_alone(bare_bench: NatsBench, bad: str) -> None:
    queue, kind, entry, counter = JOB_QUEUES[bad]
    async with playing(bare_bench.server, kind):
        judgement = await soaked(bare_bench.bench, claim(queue, **entry), JOBS, **{counter: 3})

    assert broken(judgement) == {f"{counter} == 0"}, flagged(judgement)
