from __future__ import annotations

import itertools
import json
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from aiohttp import web
from false_jetstream import FalseJetStream, playing
from http_bench import service
from load_bench import WHOLE, Bench, until
from nats_bench import NatsBench
from pydantic import ValidationError

from supervisor.broker import api
from supervisor.broker.connection import BrokerError
from supervisor.journal.events import InvariantViolated
from supervisor.loads.claim import ClaimLoad

WRONG = (
    "failed",
    "indeterminate",
    "double_claims",
    "orphans",
    "stuck",
    "late_claims",
    "unconfirmed",
    "undecided",
)


def load(claim: dict[str, Any], **entry: Any) -> ClaimLoad:
    return ClaimLoad.model_validate(
        {"claim": claim, "workers": 10, "patience": "15s", "timeout": "20s", **entry}
    )


def wrong(bench: Bench) -> set[str]:
    return {name for name in WRONG if bench.counts.get(name)}


# --- queues of soakd's own, on a real server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "client"), [("stream", "default"), ("bucket", "reconnect"), ("stream", "make_before_break")]
)
async def test_a_queue_that_is_right_passes(nats_bench: NatsBench, queue: str, client: str) -> None:
    stages = [{"workers": 3, "for": "300ms"}, {"workers": 20, "for": "1m"}]
    entry = {"abandon": "5%", "lease": "500ms", "work": "5ms", "timeout": "20s"}
    async with nats_bench.running(load({queue: "JOBS"}, workers=stages, client=client, **entry)) as context:
        await nats_bench.bench.until_counted(context, "taken_over", 5)
        await nats_bench.until_ok(context, 500)
    assert wrong(nats_bench.bench) == set()
    counts = nats_bench.counts
    assert counts["ok"] == counts["scheduled"]
    assert counts["claims"] + counts.get("empty", 0) == counts["ok"]
    assert counts["abandoned"] >= 5
    assert queue == "stream" or counts["contended"] > 0
    assert all({"double_claims", "orphans", "stuck"} <= nats_bench.windows[0].counters.keys() for _ in "1")
    assert nats_bench.bench.connections
    handle = await nats_bench.bench.connections.handle()
    assert await api.stream_names(handle) == set(), "it was made by the load, and nothing was wrong"


@pytest.mark.parametrize("queue", ["stream", "bucket"])
async def test_fifty_at_the_same_instant(nats_bench: NatsBench, queue: str) -> None:
    burst = {"size": 50, "every": "200ms"}
    entry = {"workers": None, "burst": burst, "jobs": 10, "timeout": "20s"}
    async with nats_bench.running(load({queue: "JOBS"}, **entry)) as context:
        await nats_bench.until_ok(context, 150)
    assert wrong(nats_bench.bench) == set(), nats_bench.counts
    assert nats_bench.counts["claims"] >= 10


async def test_what_was_there_before_is_left_alone(nats_bench: NatsBench) -> None:
    assert nats_bench.bench.connections
    handle = await nats_bench.bench.connections.handle()
    await api.call(handle, "STREAM.CREATE.JOBS", {"name": "JOBS", "subjects": ["theirs"]})
    with anyio.fail_after(WHOLE), pytest.raises(BrokerError, match="JOBS exists already"):
        await load({"stream": "JOBS"}).run(nats_bench.bench.context("load"))
    assert await api.stream_names(handle) == {"JOBS"}


@pytest.mark.parametrize("queue", ["stream", "bucket"])
async def test_a_server_that_stood_still_makes_nobody_guilty(nats_bench: NatsBench, queue: str) -> None:
    async with nats_bench.running(load({queue: "JOBS"}, lease="1s", timeout="500ms")) as context:
        await nats_bench.until_ok(context, 100)
        async with nats_bench.frozen():
            await nats_bench.bench.until_counted(context, "indeterminate", 1)
        before = nats_bench.counts["ok"]
        await nats_bench.until_ok(context, int(before) + 100)
    assert wrong(nats_bench.bench) <= {"failed", "indeterminate", "unconfirmed", "undecided"}, (
        "what nobody knows accuses nobody"
    )


# --- queues that are wrong ---------------------------------------------------------------------------------------------


class GivesTwice(FalseJetStream):
    """Gives every twentieth job to two workers."""

    def given(self) -> tuple[int, bytes] | None:
        if self.work and next(self.published) % 20 == 0:
            return self.work[0]
        return super().given()


class LosesJobs(FalseJetStream):
    """Loses every twentieth job that it was given."""

    async def stored(self, _: str, sequence: int, __: bytes) -> None:
        if sequence % 20 == 0:
            self.work.pop()


class TwoWinners(FalseJetStream):
    """Lets several create one key."""

    def accepts(self, _: str, expected: int, found: int) -> bool:
        return super().accepts(_, expected, found) or (expected == 0 and next(self.published) % 10 == 0)


async def test_a_stream_that_gives_a_job_twice_is_caught(bare_bench: NatsBench) -> None:
    async with playing(bare_bench.server, GivesTwice) as false:
        asked = load({"stream": "JOBS"}, work="20ms")
        async with bare_bench.running(asked) as context:
            await bare_bench.bench.until_counted(context, "double_claims", 3)
        assert wrong(bare_bench.bench) == {"double_claims"}
        assert "JOBS" in false.streams, "kept as evidence"
    violation = next(event for event in bare_bench.bench.events if isinstance(event, InvariantViolated))
    assert violation.invariant == "a job belongs to one worker"
    assert "double_claims: job-" in bare_bench.bench.log("load")


async def test_a_stream_that_loses_jobs_is_caught(bare_bench: NatsBench) -> None:
    async with playing(bare_bench.server, LosesJobs) as false:
        asked = load({"stream": "JOBS"}, lease="300ms", patience="2s", jobs=10)
        async with bare_bench.running(asked) as context:
            await bare_bench.bench.until_counted(context, "stuck", 3)
        assert wrong(bare_bench.bench) == {"stuck"}
        assert false.streams


async def test_a_bucket_with_two_winners_is_caught(bare_bench: NatsBench) -> None:
    async with (
        playing(bare_bench.server, TwoWinners),
        bare_bench.running(load({"bucket": "JOBS"})) as context,
    ):
        await bare_bench.bench.until_counted(context, "double_claims", 3)
    assert "double_claims" in wrong(bare_bench.bench)
    assert wrong(bare_bench.bench) <= {"double_claims", "unconfirmed"}


# --- an endpoint of the user's -----------------------------------------------------------------------------------------


class Dispatcher:
    """An honest job server: bots claim jobs, and say when they are done."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        self.owner: dict[str, str] = {}
        self.lock = anyio.Lock()
        self.numbers = itertools.count(1)

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        said = json.loads(await request.text() or "{}")
        what, *job = map(unquote, request.rel_url.raw_parts[1:])
        assert job in ([], [said.get("job")]), "the name in the URL is that in the body"
        return await getattr(self, what)(said)  # type: ignore[no-any-return]

    async def submit(self, said: dict[str, str]) -> web.Response:
        self.pending.append(said["name"])
        return web.json_response({"job": {"id": said["name"]}}, status=201)

    async def claim(self, said: dict[str, str]) -> web.Response:
        async with self.lock:
            if not self.pending:
                return web.Response(status=204)
            job = self.pending[0]
            await anyio.sleep(0.001)  # the database is asked
            self.pending.remove(job)
            self.owner[job] = said["bot"]
        return web.json_response({"job": {"id": job}})

    async def finish(self, said: dict[str, str]) -> web.Response:
        if self.owner.get(said["job"]) != said["bot"]:
            return web.json_response({"error": "not yours"}, status=409)
        del self.owner[said["job"]]
        return web.json_response({})


class OddNames(Dispatcher):
    """Names its jobs as neither a URL nor JSON takes them as they are."""

    async def submit(self, said: dict[str, str]) -> web.Response:
        return await super().submit({"name": f'{said["name"]} "a/b"?c#%20'})


class Racy(Dispatcher):
    """Looks which job is next, and takes it a moment later."""

    async def claim(self, said: dict[str, str]) -> web.Response:
        job = self.pending[0] if self.pending else None
        await anyio.sleep(0.002)
        if job is None:
            return web.Response(status=204)
        if job in self.pending:
            self.pending.remove(job)
        self.owner[job] = said["bot"]
        return web.json_response({"job": {"id": job}})


class Forgetful(Dispatcher):
    """Forgets now and then who has a job, so that nobody can finish it."""

    async def claim(self, said: dict[str, str]) -> web.Response:
        answer = await super().claim(said)
        if answer.status == 200 and next(self.numbers) % 20 == 0:
            self.owner.clear()
        return answer


class Jams(Dispatcher):
    """Now and then a job is never handed out."""

    async def submit(self, said: dict[str, str]) -> web.Response:
        answer = await super().submit(said)
        if next(self.numbers) % 20 == 0:
            self.pending.remove(said["name"])
        return answer


def bots(url: str, **entry: Any) -> ClaimLoad:
    post = {"method": "POST"}
    http = {
        "url": f"{url}/claim",
        **post,
        "body": {"bot": "{worker}"},
        "job": "job.id",
        "submit": {"url": f"{url}/submit", **post, "body": {"name": "{job}"}},
        "submitted": "job.id",
        "finish": {"url": f"{url}/finish/{{job}}", **post, "body": {"job": "{job}", "bot": "{worker}"}},
    }
    return load({"http": http}, **entry)


@pytest.mark.parametrize(
    ("kind", "caught", "also"),
    [
        (OddNames, set(), set()),
        (Racy, {"double_claims"}, {"unconfirmed", "undecided"}),
    ],
)
async def test_an_endpoint_of_the_users(
    bench: Bench, kind: type[Dispatcher], caught: set[str], also: set[str]
) -> None:
    dispatcher = kind()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(service(dispatcher))
        context = await stack.enter_async_context(bench.under(bots(url, patience="20s", jobs=10)))
        await bench.until_counted(context, "claims", 150)
        for name in caught:
            await bench.until_counted(context, name, 2)
    assert caught <= wrong(bench) <= caught | also
    assert caught or bench.counts["ok"] == bench.counts["scheduled"]


class Watched(Dispatcher):
    """Sees how many jobs are worked on."""

    most = 0

    async def claim(self, said: dict[str, str]) -> web.Response:
        answer = await super().claim(said)
        self.most = max(self.most, len(self.owner))
        return answer


async def test_a_worker_has_one_job_at_a_time(bench: Bench) -> None:
    dispatcher = Watched()
    async with service(dispatcher) as url:
        async with bench.under(bots(url, work="60ms", jobs=10, workers=3)) as context:
            await bench.until_counted(context, "claims", 12)
            await until(lambda: dispatcher.most >= 3)
        assert dispatcher.most == 3
        async with bench.under(bots(url, work="60ms", jobs=10, workers=None, rate="200/s")):
            await until(lambda: dispatcher.most > 3)  # workers of an open loop come as they are needed
    assert wrong(bench) == set()


async def test_a_queue_that_never_gives_anything_does_not_pass(bench: Bench) -> None:
    async def nothing(_: web.BaseRequest) -> web.Response:
        return web.Response(status=204)

    http = {"url": "{url}", "method": "POST"}
    async with service(nothing) as url, bench.under(load({"http": {**http, "url": url}})) as context:
        await bench.until_counted(context, "empty", 5)
    assert bench.counts["nothing was ever claimed"] == bench.counts["failed"] == 1


async def test_a_name_that_cannot_be_said_again_is_no_job(bench: Bench) -> None:
    """Nobody could ever finish it: a header is one line, and no text has half a character, though JSON can name both."""
    given = itertools.cycle(["two\\nlines", "\\ud800", "ein Stück"])
    numbers, finished = itertools.count(), list[str]()

    async def answer(request: web.BaseRequest) -> web.Response:
        if name := request.headers.get("X-Job"):
            finished.append(name)
            return web.Response()
        return web.Response(text=f'{{"id": "{next(given)} {next(numbers)}"}}')

    async with service(answer) as url:
        post = {"url": url, "method": "POST"}
        asked = load({"http": {**post, "finish": {**post, "headers": {"X-Job": "{job}"}}}}, workers=1)
        async with bench.under(asked) as context:
            await bench.until_counted(context, "claims", 3)
    assert [name.rpartition(" ")[0] for name in finished] == ["ein Stück"] * len(finished)
    assert bench.counts["claims"] == bench.counts["ok"] == len(finished)
    assert bench.counts["wrong answer"] == bench.counts["failed"] >= 6
    assert {sample.detail for sample in bench.samples} >= {
        "id is no name that finish could send: no header can carry 'two\\nlines 0'",
        'id has half a character, which no text can have: {"id": "\\ud800 1"}',
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"claim": {}}, "expected one of stream, bucket or http, found none"),
        ({"claim": {"stream": "A", "bucket": "B"}}, "found stream and bucket"),
        ({"claim": {"stream": "a b"}}, "pattern"),
        ({"work": "20s"}, "work: expected less than lease"),
        ({"patience": "5s"}, "patience: expected more than lease"),
        ({"claim": {"http": {"url": "http://127.0.0.1/"}}, "abandon": "1%"}, "abandon: say by lease"),
        ({"claim": {"http": {"url": "http://127.0.0.1/{job}"}}}, "expected it in submit or finish"),
        (
            {"claim": {"http": {"url": "http://h/", "submit": {"url": "http://h/", "body": ["{worker}"]}}}},
            "submit: {worker} is not known before",
        ),
    ],
)
def test_what_cannot_be(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        load(**{"claim": {"stream": "JOBS"}, **entry})
