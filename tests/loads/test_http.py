from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import Counter
from dataclasses import replace
from typing import Any

import anyio
import pytest
from aiohttp import web
from http_bench import Answer, service
from load_bench import WHOLE, Bench, until
from pydantic import ValidationError

from supervisor.loads.http import HttpLoad

QUIET = ("failed", "indeterminate", "duplicates")


def load(url: str, *, timeout: str = "20s", attempt: str | None = None, **entry: Any) -> HttpLoad:
    pace = {key: entry.pop(key) for key in ("rate", "burst", "workers") if key in entry} or {"workers": 5}
    own = {"timeout": timeout, "attempt": attempt, **pace}
    return HttpLoad.model_validate({"http": {"url": url, **entry}, **own})


class Orders:
    """An honest service: an order is made once for each idempotency key."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []
        self.transports: set[int] = set()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        key, body = request.headers.get("Idempotency-Key", ""), await request.text()
        self.asked.append((key, body))
        self.transports.add(id(request.transport))
        return web.json_response(
            {"order": {"id": self.order(key), "state": "accepted"}, "more": 1}, status=201
        )

    def order(self, key: str) -> int:
        return self.made.setdefault(key, len(self.made))


ORDER: dict[str, Any] = {
    "method": "POST",
    "headers": {"Authorization": "Bearer t0ken"},
    "body": {"item": 1, "client_order_id": "{operation}"},
    "status": 201,
    "json": {"order.state": "accepted", "order.id": ">= 0"},
    "idempotency_key": "Idempotency-Key",
}


async def seen(
    bench: Bench, answer: Answer, name: str = "ok", count: int = 100, **entry: Any
) -> dict[str, float]:
    """Return what a load saw of a service, as far as it is not as it should be."""
    async with service(answer) as url, bench.under(load(url, **entry)) as context:
        await bench.until_counted(context, name, count)
    return {name: amount for name, amount in bench.counts.items() if name in QUIET}


@pytest.fixture
def slow_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connecting take all of an attempt's time: a busy machine may need most of a short one for it."""
    monkeypatch.setattr("supervisor.loads.web.CONNECTING", 100.0)


async def test_a_service_that_is_as_it_should_be_passes(bench: Bench) -> None:
    orders = Orders()
    assert await seen(bench, orders, replay={"share": "20%", "same": "order.id"}, **ORDER) == {}
    counts = bench.counts
    assert counts["ok"] == counts["scheduled"] == len(orders.made)
    assert counts["attempts"] == len(orders.asked)
    assert counts["attempts"] >= counts["ok"] + counts["replayed"]
    assert counts["replayed"] > 0
    assert {key for key, _ in orders.asked} == {
        json.loads(body)["client_order_id"] for _, body in orders.asked
    }
    assert any("duplicates" in window.counters for window in bench.windows)
    assert len(orders.transports) < len(orders.asked) / 2, "connections are used again"


async def test_an_order_that_is_made_twice_is_a_duplicate(bench: Bench) -> None:
    class Careless(Orders):
        def order(self, key: str) -> int:
            number = len(self.made)
            self.made[f"{key} {number}"] = number
            return number

    found = await seen(
        bench, Careless(), "duplicates", 5, replay={"share": "20%", "same": "order.id"}, **ORDER
    )
    assert found.keys() == {"duplicates"}


async def test_a_wrong_answer_fails(bench: Bench) -> None:
    numbers = itertools.count(1)

    async def rejects(_: web.BaseRequest) -> web.Response:
        state = "rejected" if not next(numbers) % 10 else "accepted"
        return web.json_response({"order": {"id": 1, "state": state}}, status=201)

    assert (await seen(bench, rejects, **ORDER)).keys() == {"failed"}
    assert bench.counts["wrong answer"] == bench.counts["failed"]
    assert bench.samples[0].detail == 'order.state is "rejected"'


@pytest.mark.parametrize(
    ("text", "detail"),
    [("<html>", "the answer is no JSON: <html>"), ("{}", "there is no order.state in the answer: {}")],
)
async def test_an_answer_that_says_nothing_is_wrong(bench: Bench, text: str, detail: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=text, status=201)

    await seen(bench, answer, "wrong answer", 3, **ORDER)
    assert bench.samples[0].detail == detail


async def test_a_status_is_an_error_class(bench: Bench) -> None:
    numbers = itertools.count(1)

    async def overloaded(_: web.BaseRequest) -> web.Response:
        return web.Response(status=503 if not next(numbers) % 10 else 204, text="" or None)

    assert (await seen(bench, overloaded)).keys() == {"failed"}
    assert bench.counts["status 503"] == bench.counts["failed"]


@pytest.mark.parametrize(
    ("method", "outcome"), [("GET", "failed"), ("POST", "indeterminate"), ("PUT", "indeterminate")]
)
async def test_what_is_not_answered_in_time_may_have_happened(
    bench: Bench, slow_to_connect: None, method: str, outcome: str
) -> None:
    gate = anyio.Event()

    async def hang(_: web.BaseRequest) -> web.Response:
        await gate.wait()
        return web.Response()

    async with (
        service(hang) as url,
        bench.under(load(url, timeout="500ms", method=method, rate="50/s")) as context,
    ):
        await bench.until_counted(context, "timeout", 5)
        gate.set()
    assert bench.counts["timeout"] == bench.counts[outcome]
    assert QUIET[outcome == "failed"] not in bench.counts


@pytest.mark.parametrize(("method", "outcome"), [("GET", "failed"), ("POST", "indeterminate")])
async def test_a_connection_that_is_cut_may_have_done_it(bench: Bench, method: str, outcome: str) -> None:
    async def cut(request: web.BaseRequest) -> web.Response:
        assert request.transport
        request.transport.abort()
        await asyncio.sleep(0)
        return web.Response()

    async with service(cut) as url, bench.under(load(url, method=method, rate="50/s")) as context:
        await bench.until_counted(context, "disconnected", 5)
    assert bench.counts["disconnected"] == bench.counts[outcome]


@pytest.mark.parametrize(
    ("headers", "detail"),
    [({"Content-Encoding": "gzip"}, "content-encoding: gzip"), ({"X": "x" * 9000}, "more than 8190 bytes")],
)
async def test_an_answer_that_cannot_be_read_is_an_answer(
    bench: Bench, headers: dict[str, str], detail: str
) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="plain", headers=headers)

    assert (await seen(bench, answer, "wrong answer", 5, method="POST")).keys() == {"failed"}
    assert bench.counts["wrong answer"] == bench.counts["failed"]
    assert detail in bench.samples[0].detail


async def test_where_nobody_listens_nothing_can_have_happened(bench: Bench) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nobody else gets the port either
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with bench.under(load(url, method="POST", rate="50/s")) as context:
            await bench.until_counted(context, "connect", 5)
    assert bench.counts["connect"] == bench.counts["failed"]


async def test_attempts_are_not_operations_and_carry_one_key(bench: Bench) -> None:
    orders, tried = Orders(), Counter[str]()

    async def flaky(request: web.BaseRequest) -> web.Response:
        answer = await orders(request)
        tried[key := request.headers["Idempotency-Key"]] += 1
        return web.Response(status=502) if tried[key] < 3 else answer

    assert await seen(bench, flaky, count=30, workers=10, retries=5, **ORDER) == {}
    assert bench.counts["attempts"] == len(orders.asked) == 3 * bench.counts["ok"]
    assert len(orders.made) == bench.counts["scheduled"]


async def test_one_that_went_unanswered_once_stays_indeterminate(bench: Bench, slow_to_connect: None) -> None:
    numbers, gate = itertools.count(1), anyio.Event()

    async def hangs_then_fails(request: web.BaseRequest) -> web.Response:
        if next(numbers) == 1:
            await gate.wait()
        return web.Response(status=500)

    entry = {**ORDER, "retries": 1, "attempt": "500ms", "workers": 1}
    async with service(hangs_then_fails) as url, bench.under(load(url, **entry)) as context:
        await bench.until_counted(context, "status 500", 1)
        gate.set()
    assert bench.counts["indeterminate"] == bench.counts["timeout"] == 1


async def test_a_burst_is_there_at_once(bench: Bench) -> None:
    together, here = anyio.Event(), 0

    async def meet(_: web.BaseRequest) -> web.Response:
        nonlocal here
        here += 1
        if here == 50:
            together.set()
        await together.wait()
        return web.Response()

    entry = {"burst": {"size": 50, "every": "1h"}}
    async with service(meet) as url, bench.under(load(url, timeout="20s", **entry)) as context:
        await bench.until_counted(context, "ok", 50)
    assert bench.counts == {"scheduled": 50, "started": 50, "ok": 50, "attempts": 50}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"url": "ftp://here"}, "expected a URL such as"),
        ({"url": "http://me:hunter2@here/"}, "use headers"),
        ({"method": "post"}, "pattern"),
        ({"method": "POST", "retries": 2}, "a POST that is sent again may happen twice"),
        ({"method": "PATCH", "replay": {"share": "1%", "same": "id"}}, "a PATCH that is sent again"),
        ({"json": {"lag": "< "}}, "comparison"),
        ({"idempotency_key": "a b"}, "pattern"),
    ],
)
def test_what_cannot_be(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as raised:
        load("http://127.0.0.1/", **entry) if "url" not in entry else load(**entry)
    assert "hunter2" not in str(raised.value)


def test_headers_are_secret() -> None:
    assert "t0ken" not in repr(load("http://127.0.0.1/", **ORDER))
    assert load("http://127.0.0.1/", method="PUT", retries=2).http.retries == 2
    assert HttpLoad.model_validate({"http": "http://127.0.0.1/", "rate": "1/s"}).http.method == "GET"


async def test_processes_have_keys_and_draws_of_their_own(bench: Bench) -> None:
    orders, n = Orders(), 40
    entry: dict[str, Any] = {**ORDER, "workers": 2, "replay": {"share": "50%", "same": "order.id"}}
    contexts = [replace(bench.context("load"), process=process, processes=2) for process in range(2)]
    async with service(orders) as url:
        load_ = load(url, **entry)
        with anyio.fail_after(WHOLE):
            async with anyio.create_task_group() as group:
                for context in contexts:
                    group.start_soon(load_.run, context)
                await until(lambda: all(len(asked(orders, process)) >= n for process in range(2)))
                for context in contexts:
                    context.stop.set()
    await bench.settle()
    assert bench.counts["ok"] == len(orders.made), "no key was of both"
    assert {name for name in QUIET if bench.counts.get(name)} == set()
    again = [{k for k, count in asked(orders, process).items() if count > 1 and k <= n} for process in (0, 1)]
    assert again[0] != again[1], "each draws by itself what it sends again"


def asked(orders: Orders, process: int) -> Counter[int]:
    """Return how often each operation of a process was asked for."""
    names = [key.split("-")[-2:] for key, _ in orders.asked]
    return Counter(int(n) for writer, n in names if int(writer) == process)
