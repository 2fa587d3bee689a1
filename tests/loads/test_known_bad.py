"""Known-bad systems are caught, each by the one threshold that should; their clean twins pass every time.

Every time is three times in a row here, and ten times with `scripts/prove_known_bad`. Real loads on a real nats-server; what is bad is a responder, relay or program of ours. The verdict is read from the journal on disk.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import nats
import pytest
from aiohttp import web
from false_jetstream import NO_MESSAGE, FalseJetStream, playing
from http_bench import service
from load_bench import Bench, until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench, honest
from test_claim import Dispatcher, GivesTwice, LosesJobs, Racy, TwoWinners, bots
from test_claim import load as claim
from test_event_store import (
    Now,
    careless,
    create_relayed_stream,
    forgetful,
    honest_store,
    refusing,
    repeating,
)
from test_event_store import load as event_store
from test_http import ORDER, Orders
from test_http import load as http
from test_kv import Refuses, Scrambles, ShowsOld, TellsNotAll
from test_kv import load as kv

from supervisor.journal.events import (
    EndReason,
    LoadStopped,
    Phase,
    PhaseEntered,
    Record,
    RunEnded,
    RunStarted,
)
from supervisor.journal.replay import replay
from supervisor.judge.verdict import Judgement, judge
from supervisor.loads.base import Load
from supervisor.loads.command import CommandLoad
from supervisor.loads.events import EventsLoad
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.request import RequestLoad

RARE = 1000
"""One in so many operations is spoiled."""
ENOUGH = 700
"""Operations of a run; the first to be spoiled is the two hundredth."""
LONG = 3.0
"""Seconds: longer than any latency that is wanted."""
TWINS = int(os.environ.get("SOAKD_TWINS", "3"))


@asynccontextmanager
async def judged(bench: Bench, load: Load, thresholds: Iterable[str]) -> AsyncIterator[list[Judgement]]:
    """Put what happens in the body on record as a run, and judge that."""
    began = RunStarted(
        run="r",
        soak="known",
        seed=1,
        soakd="0",
        host="here",
        pid=1,
        boot="b",
        duration=None,
        loads=("load",),
        thresholds=tuple(thresholds),
        counters={"load": load.counters},
        settled={"load": load.settled},
    )
    for event in (began, PhaseEntered(phase=Phase.SOAKING)):
        bench.journal.emit(event)
    result: list[Judgement] = []
    yield result
    await bench.journal.commit(RunEnded(reason=EndReason.SIGNAL))
    directory = bench.journal.run_dir
    result.append(await anyio.to_thread.run_sync(lambda: judge(filter(_ours, replay(directory)))))


def _ours(record: Record) -> bool:
    """The bench's own mark is no load."""
    return record.event != LoadStopped(load="settled")


def flagged(judgement: Judgement) -> dict[str, str]:
    """Return the thresholds that were not kept, and why."""
    return {one.text: f"{one.verdict}: {one.why}" for one in judgement.thresholds if one.verdict != "pass"}


def broken(judgement: Judgement) -> set[str]:
    """Return the thresholds that were broken; any other that was not kept is an error."""
    told = flagged(judgement)
    assert all(why.startswith("fail: ") for why in told.values()), told
    return set(told)


def now_and_then(bad: Answer, good: Answer) -> Answer:
    """Do what is bad once in a thousand times, the first time early."""
    numbers = itertools.count(RARE - 200)

    async def answer(client: Client, msg: Msg) -> None:
        await (good if next(numbers) % RARE else bad)(client, msg)

    return answer


def once(seconds: float, good: Answer) -> Answer:
    """Stand still once."""
    numbers = itertools.count(1)

    async def answer(client: Client, msg: Msg) -> None:
        if next(numbers) == 200:
            await anyio.sleep(seconds)
        await good(client, msg)

    return answer


# --- requests --------------------------------------------------------------------------------------------------------

REQUEST = ("failed == 0", "indeterminate == 0", "duplicates == 0", "unexpected == 0", "p99 < 2s")


async def nothing(_: Client, __: Msg) -> None:
    """Forget it."""


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

    pair = itertools.count(RARE - 200)

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
    "answers late": (lambda: slow(honest), "p99 < 2s"),
    "stalls": (lambda: once(LONG, honest), "p99 < 2s"),
}


def request(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate(
        {"request": "echo", "rate": "400/s", "expect": "echo", "timeout": "6s"} | entry
    )


async def asked(bench: NatsBench, answer: Answer, load: Load, count: int = ENOUGH) -> Judgement:
    async with (
        judged(bench.bench, load, REQUEST) as result,
        bench.responder("echo", answer),
        bench.running(load) as context,
    ):
        before = bench.counts.get("ok", 0)
        await bench.until_ok(context, int(before) + count)
    return result[0]


@pytest.mark.parametrize("bad", BAD_RESPONDERS)
async def test_a_bad_responder_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    answer, threshold = BAD_RESPONDERS[bad]

    judgement = await asked(nats_bench, answer(), request())

    assert broken(judgement) == {threshold}, flagged(judgement)
    assert judgement.verdict == "fail"


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
            await until(lambda: context.recorder.flush() or nats_bench.counts.get("timeout", 0) >= 50)
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 20)

    assert broken(result[0]) == {"failures == 0", "ok >= 99%"}, "timeouts are indeterminate, and no success"


async def test_a_server_that_stays_frozen_to_the_end_cannot_either(nats_bench: NatsBench) -> None:
    load = request(rate="200/s", timeout="30s", in_flight=100)
    async with (
        judged(nats_bench.bench, load, ("failures == 0", "failed == 0")) as result,
        nats_bench.responder("echo", honest),
        nats_bench.running(load) as context,
    ):
        await nats_bench.until_ok(context, 20)
        async with nats_bench.frozen():
            await until(
                lambda: context.recorder.flush() or sum(one.dropped for one in nats_bench.windows) >= 50
            )
            context.stop.set()
            await until(lambda: nats_bench.cut_off, 20)

    assert broken(result[0]) == {"failures == 0"}


# --- events ----------------------------------------------------------------------------------------------------------

EVENTS = ("lost == 0", "duplicates == 0", "reordered == 0", "unexpected == 0", "p99 < 2s")


async def on(client: Client, msg: Msg) -> None:
    await client.publish("out", msg.data)


async def on_twice(client: Client, msg: Msg) -> None:
    await on(client, msg)
    await on(client, msg)


def reordering() -> Answer:
    """Let one in a thousand be overtaken by the next."""
    numbers, kept = itertools.count(RARE - 200), list[Msg]()

    async def relay(client: Client, msg: Msg) -> None:
        if next(numbers) % RARE:
            await on(client, msg)
            while kept:
                await on(client, kept.pop())
        else:
            kept.append(msg)

    return relay


BAD_RELAYS: dict[str, tuple[Callable[[], Answer], str]] = {
    "drops": (lambda: now_and_then(nothing, on), "lost == 0"),
    "duplicates": (lambda: now_and_then(on_twice, on), "duplicates == 0"),
    "reorders": (reordering, "reordered == 0"),
    "stalls": (lambda: once(LONG, on), "p99 < 2s"),
}


def events(**entry: Any) -> EventsLoad:
    return EventsLoad.model_validate(
        {"events": "in", "receive": "out", "rate": "400/s", "settle": "4s", "timeout": "6s"} | entry
    )


async def relayed(bench: NatsBench, relay: Answer, load: Load, count: int = ENOUGH) -> Judgement:
    async with (
        judged(bench.bench, load, EVENTS) as result,
        bench.responder("in", relay),
        bench.running(load) as context,
    ):
        before = bench.counts.get("ok", 0)
        await bench.until_ok(context, int(before) + count)
    return result[0]


@pytest.mark.parametrize("bad", BAD_RELAYS)
async def test_a_bad_relay_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    relay, threshold = BAD_RELAYS[bad]

    judgement = await relayed(nats_bench, relay(), events())

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- streams ---------------------------------------------------------------------------------------------------------

STREAM = ("failures == 0", "lost == 0", "duplicates == 0", "unexpected == 0", "p99 < 2s")


async def store(client: Client, msg: Msg) -> None:
    answer = await client.request("real", msg.data, headers=msg.headers)
    await msg.respond(answer.data)


async def lie(client: Client, msg: Msg) -> None:
    """Acknowledge what was never stored."""
    await msg.respond(json.dumps({"stream": "REAL", "seq": 1_000_000}).encode())


async def store_twice(client: Client, msg: Msg) -> None:
    await store(client, msg)
    await client.request("real", msg.data)


BAD_STREAMS: dict[str, tuple[Callable[[], Answer], str]] = {
    "loses what it acknowledged": (lambda: now_and_then(lie, store), "lost == 0"),
    "stores twice": (lambda: now_and_then(store_twice, store), "duplicates == 0"),
    "stalls": (lambda: once(LONG, store), "p99 < 2s"),
}


async def stored(bench: NatsBench, relay: Answer, count: int = ENOUGH) -> Judgement:
    load = JetStreamLoad.model_validate(
        {
            "jetstream": "REAL",
            "subject": "in",
            "rate": "400/s",
            "settle": "5s",
            "timeout": "4s",
            "attempt": "4s",
        }
    )
    broker = bench.server.broker
    client = await nats.connect(broker["servers"][0], user=broker["user"], password=broker["password"])
    await client.jetstream().add_stream(name="REAL", subjects=["real"])
    async with (
        judged(bench.bench, load, STREAM) as result,
        bench.responder("in", relay),
        bench.running(load) as context,
    ):
        before = bench.counts.get("ok", 0)
        await bench.until_ok(context, int(before) + count)
    await client.close()
    return result[0]


@pytest.mark.parametrize("bad", BAD_STREAMS)
async def test_a_bad_stream_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    relay, threshold = BAD_STREAMS[bad]

    judgement = await stored(nats_bench, relay(), ENOUGH)

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- programs that tell their operations -----------------------------------------------------------------------------

LINES = (
    "failed == 0",
    "indeterminate == 0",
    "duplicates == 0",
    "malformed_lines == 0",
    "program_crashes == 0",
)
PROGRAM = """
import json, sys, time
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


async def told(bench: Bench, bad: str) -> Judgement:
    program = PROGRAM.replace("BAD", bad)
    load = CommandLoad.model_validate({"command": [sys.executable, "-c", program], "operations": "stdout"})
    context, before = bench.context("load"), bench.counts.get("ok", 0)
    async with judged(bench, load, LINES) as result:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(load.run, context)
                await until(
                    lambda: context.recorder.flush() or bench.counts.get("ok", 0) >= before + 2999, 20
                )
                context.stop.set()
        await bench.settle()
    return result[0]


@pytest.mark.parametrize("bad", BAD_PROGRAMS)
async def test_what_a_program_tells_is_flagged_by_its_threshold_alone(bench: Bench, bad: str) -> None:
    judgement = await told(bench, bad)

    assert broken(judgement) == {BAD_PROGRAMS[bad]}, flagged(judgement)


# --- services over HTTP ----------------------------------------------------------------------------------------------

SERVICE = ("failed == 0", "indeterminate == 0", "duplicates == 0", "p99 < 2s")


class Spoils(Orders):
    """Does every fiftieth order in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.n += 1
        return await (super().__call__(request) if self.n % 50 else self.spoil(request))

    async def spoil(self, request: web.BaseRequest) -> web.Response:
        raise NotImplementedError


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


BAD_SERVICES: dict[str, tuple[type[Orders], str]] = {
    "refuses": (Refuses500, "failed == 0"),
    "never answers": (CutsOff, "indeterminate == 0"),
    "makes an order twice": (MakesTwice, "duplicates == 0"),
}


async def ordered(bench: Bench, orders: Orders, count: int = 120) -> Judgement:
    async with service(orders) as url:
        load = http(url, timeout="6s", replay={"share": "20%", "same": "order.id"}, **ORDER)
        async with judged(bench, load, SERVICE) as result, bench.under(load) as context:
            before = int(bench.counts.get("ok", 0))
            await bench.until_counted(context, "ok", before + count)
    return result[0]


@pytest.mark.parametrize("bad", BAD_SERVICES)
async def test_a_bad_service_is_flagged_by_its_threshold_alone(bench: Bench, bad: str) -> None:
    kind, threshold = BAD_SERVICES[bad]

    judgement = await ordered(bench, kind())

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- jobs ------------------------------------------------------------------------------------------------------------

JOBS = ("failed == 0", "double_claims == 0", "orphans == 0", "stuck == 0")


async def claimed(bench: Bench, dispatcher: Dispatcher, claims: int, until_counted: str = "") -> Judgement:
    async with service(dispatcher) as url:
        load = bots(url, patience="20s", jobs=10)
        async with judged(bench, load, JOBS) as result, bench.under(load) as context:
            before = int(bench.counts.get("claims", 0))
            await bench.until_counted(context, "claims", before + claims)
            if until_counted:
                await bench.until_counted(context, until_counted, 2)
    return result[0]


async def test_a_queue_that_gives_a_job_twice_is_flagged_by_its_threshold_alone(bench: Bench) -> None:
    judgement = await claimed(bench, Racy(), 100, "double_claims")

    assert broken(judgement) == {"double_claims == 0"}, flagged(judgement)


JOB_QUEUES: dict[str, tuple[dict[str, Any], type[FalseJetStream], dict[str, Any], str]] = {
    "stream that gives a job twice": ({"stream": "JOBS"}, GivesTwice, {"work": "20ms"}, "double_claims"),
    "stream that loses jobs": (
        {"stream": "JOBS"},
        LosesJobs,
        {"lease": "300ms", "patience": "500ms", "jobs": 10},
        "stuck",
    ),
    "bucket with two winners": ({"bucket": "JOBS"}, TwoWinners, {}, "double_claims"),
}


async def queued(bench: NatsBench, load: Load, until_counted: str, count: int) -> Judgement:
    async with judged(bench.bench, load, JOBS) as result, bench.running(load) as context:
        before = int(bench.counts.get(until_counted, 0))
        await bench.bench.until_counted(context, until_counted, before + count)
    return result[0]


@pytest.mark.parametrize("bad", JOB_QUEUES)
async def test_a_bad_queue_of_jobs_is_flagged_by_its_threshold_alone(bare_bench: NatsBench, bad: str) -> None:
    queue, kind, entry, counter = JOB_QUEUES[bad]
    async with playing(bare_bench.server, kind):
        judgement = await queued(bare_bench, claim(queue, **entry), counter, 3)

    assert broken(judgement) == {f"{counter} == 0"}, flagged(judgement)


# --- registers -------------------------------------------------------------------------------------------------------

REGISTERS = (
    *("failed == 0", "indeterminate == 0", "forks == 0", "stale_writes == 0", "stale_reads == 0"),
    *("spurious_conflicts == 0", "lost_updates == 0", "unexpected == 0", "watch_gaps == 0"),
)


class Forks(FalseJetStream):
    """Accepts two writes on one revision, the second one before anybody can have heard of the first."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.replaced, self.answers, self.at = 0, 0, -1

    async def _say(self, msg: Msg, answer: dict[str, Any]) -> None:
        self.answers += 1
        await super()._say(msg, answer)

    def accepts(self, subject: str, expected: int, found: int) -> bool:
        unheard = self.at == self.answers - 1 and self.client.pending_data_size > 0
        fork = expected == self.replaced and unheard and next(self.published) % 5 == 0
        if expected == found:
            self.replaced, self.at = found, self.answers
        return super().accepts(subject, expected, found) or fork


class AcceptsLate(FalseJetStream):
    """Answers a read late, as it may, and accepts the write on what it showed although that was replaced long ago."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.late: set[asyncio.Task[None]] = set()
        self.owed: set[int] = set()

    async def _get(self, msg: Msg) -> None:
        if self.owed or self.late or next(self.published) % 50:
            await super()._get(msg)
            return
        found = self.last.get(json.loads(msg.data).get("last_by_subj", ""))
        task = asyncio.create_task(self._answer_late(msg, found))
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def _answer_late(self, msg: Msg, found: tuple[int, bytes] | None) -> None:
        await anyio.sleep(0.3)
        if found is None:
            await self._say(msg, NO_MESSAGE)
            return
        self.owed.add(found[0])
        message = {"seq": found[0], "data": base64.b64encode(found[1]).decode()}
        await self._say(msg, {"message": message})

    def accepts(self, subject: str, expected: int, found: int) -> bool:
        late = expected in self.owed
        self.owed.discard(expected)
        return late or super().accepts(subject, expected, found)


BAD_BUCKETS: dict[str, tuple[type[FalseJetStream], dict[str, Any], str]] = {
    "forks": (Forks, {"registers": 1, "reads": "0%"}, "forks"),
    "accepts stale writes": (AcceptsLate, {"registers": 1, "reads": "0%"}, "stale_writes"),
    "shows what was": (ShowsOld, {}, "stale_reads"),
    "refuses for no reason": (Refuses, {"workers": 1}, "spurious_conflicts"),
    "shows what nobody wrote": (Scrambles, {}, "unexpected"),
    "leaves changes out": (TellsNotAll, {"settle": "1s"}, "watch_gaps"),
}


async def registered(bench: NatsBench, load: Load, until_counted: str, count: int) -> Judgement:
    async with judged(bench.bench, load, REGISTERS) as result, bench.running(load) as context:
        before = int(bench.counts.get(until_counted, 0))
        await bench.bench.until_counted(context, until_counted, before + count)
    return result[0]


@pytest.mark.parametrize("bad", BAD_BUCKETS)
async def test_a_bad_bucket_is_flagged_by_its_threshold_alone(bare_bench: NatsBench, bad: str) -> None:
    kind, entry, counter = BAD_BUCKETS[bad]
    async with playing(bare_bench.server, kind):
        judgement = await registered(bare_bench, kv(**entry), counter, 2)

    assert broken(judgement) == {f"{counter} == 0"}, flagged(judgement)


# --- event stores ----------------------------------------------------------------------------------------------------

EVENT_STORE = (
    *("lost == 0", "duplicates == 0", "forks == 0", "gaps == 0", "reordered == 0", "unexpected == 0"),
    *("spurious_conflicts == 0", "self_conflicts == 0", "indeterminate == 0"),
)
ONE_BY_ONE = {"workers": 1, "contention": "0%"}
BAD_STORES: dict[str, tuple[Callable[[Now], Answer], dict[str, Any], str]] = {
    "loses what it acknowledged": (forgetful, {}, "lost == 0"),
    "stores twice": (repeating, {"contention": "0%"}, "duplicates == 0"),
    "ignores the expected sequence": (careless, {"contention": "20%"}, "forks == 0"),
    "refuses for no reason": (refusing, ONE_BY_ONE, "spurious_conflicts == 0"),
}


async def appended(bench: NatsBench, relay: Answer, count: int, **entry: Any) -> Judgement:
    patient = {"timeout": "20s", "attempt": "10s", "rate": None, "workers": 5}
    load = event_store(subject="in", **(patient | entry))
    await create_relayed_stream(bench)
    async with (
        judged(bench.bench, load, EVENT_STORE) as result,
        bench.responder("in.>", relay),
        bench.running(load) as context,
    ):
        before = bench.counts.get("ok", 0)
        await bench.until_ok(context, int(before) + count)
    return result[0]


@pytest.mark.parametrize("bad", BAD_STORES)
async def test_a_bad_event_store_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    make, entry, threshold = BAD_STORES[bad]

    judgement = await appended(nats_bench, make(Now()), 150, **entry)

    assert broken(judgement) == {threshold}, flagged(judgement)


# --- a server that stands still --------------------------------------------------------------------------------------

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
            await until(lambda: context.recorder.flush() or failures() >= 10, 20)
        await nats_bench.until_ok(context, int(nats_bench.counts["ok"]) + 5)

    assert broken(result[0]) == {"failures == 0"}
    assert result[0].verdict == "fail"


# --- clean twins -----------------------------------------------------------------------------------------------------

Twin = Callable[[NatsBench], Awaitable[Judgement]]
CLEAN: dict[str, Twin] = {
    "responder": lambda bench: asked(bench, honest, request(), 300),
    "relay": lambda bench: relayed(bench, on, events(), 300),
    "stream": lambda bench: stored(bench, store, 150),
    "program": lambda bench: told(bench.bench, 'tell(outcome="ok", ms=1, id=str(n))'),
    "service": lambda bench: ordered(bench.bench, Orders()),
    "queue": lambda bench: claimed(bench.bench, Dispatcher(), 100),
    "stream of jobs": lambda bench: queued(bench, claim({"stream": "JOBS"}), "claims", 100),
    "bucket of jobs": lambda bench: queued(bench, claim({"bucket": "JOBS"}), "claims", 100),
    "registers": lambda bench: registered(bench, kv(), "ok", 200),
    "event store": lambda bench: appended(bench, honest_store, 100),
}


@pytest.mark.parametrize("twin", CLEAN)
async def test_the_clean_twin_passes_every_time(nats_bench: NatsBench, twin: str) -> None:
    for _ in range(TWINS):
        judgement = await CLEAN[twin](nats_bench)
        assert judgement.verdict == "pass", judgement.reasons
