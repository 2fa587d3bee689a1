from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anyio
import pytest
from aiohttp import web
from probe_bench import PATIENCE, Serve, look, probe
from pydantic import ValidationError

from supervisor.probes.base import View


def answering(text: str = "fine", status: int = 200) -> Any:
    async def answer(_: web.BaseRequest) -> web.Response:
        await anyio.lowlevel.checkpoint()
        return web.Response(text=text, status=status)

    return answer


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Hold a port that nobody listens on."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


# --- http ------------------------------------------------------------------------------------------------------------


async def test_http_is_ok_at_200(view: View, serve: Serve) -> None:
    url = await serve(answering())
    reading = await look(view, http=url)
    assert (reading.ok, reading.value, reading.detail) == (True, 200, "")
    assert reading.probe == f"http {url} == 200"


async def test_http_says_what_was_answered_instead(view: View, serve: Serve) -> None:
    url = await serve(answering("lock\n lost", 503))
    reading = await look(view, http={"url": url})
    assert (reading.ok, reading.value, reading.detail) == (False, 503, "it answered 503: lock lost")
    assert (await look(view, http={"url": url, "status": 503})).ok


async def test_http_says_that_nobody_answers(view: View, closed_port: int) -> None:
    reading = await look(view, http=f"http://127.0.0.1:{closed_port}/")
    assert (reading.ok, reading.value) == (False, None)
    assert reading.detail.startswith("no answer: ")


async def test_http_does_not_wait_longer_than_its_time(view: View, serve: Serve) -> None:
    over = anyio.Event()

    async def hang(_: web.BaseRequest) -> web.Response:
        await over.wait()
        return web.Response()

    with anyio.fail_after(PATIENCE):
        reading = await look(view, http={"url": await serve(hang), "timeout": "50ms"})
    over.set()
    assert (reading.ok, reading.detail) == (False, "no answer within 50ms")


async def test_http_sends_what_it_is_told(view: View, serve: Serve) -> None:
    heard: list[tuple[str, str | None, str]] = []

    async def listen(request: web.BaseRequest) -> web.Response:
        heard.append((request.method, request.headers.get("Authorization"), await request.text()))
        return web.Response(status=202)

    entry = {
        "method": "POST",
        "headers": {"Authorization": "Bearer s3cret"},
        "body": '{"a": 1}',
        "status": 202,
    }
    asked = probe(http={"url": await serve(listen), **entry})
    assert (await asked.look(view)).ok
    assert heard == [("POST", "Bearer s3cret", '{"a": 1}')]
    assert "s3cret" not in repr(asked)
    assert asked.title.startswith("http POST http://127.0.0.1:")


async def test_http_does_not_follow_redirects(view: View, serve: Serve) -> None:
    async def elsewhere(_: web.BaseRequest) -> web.Response:
        await anyio.lowlevel.checkpoint()
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    assert (await look(view, http={"url": await serve(elsewhere), "status": 302})).ok


async def test_http_each_look_is_a_connection_of_its_own(view: View, serve: Serve) -> None:
    """A service that cannot accept any more is not ready, whatever an old connection still says."""
    peers: list[Any] = []

    async def note(request: web.BaseRequest) -> web.Response:
        await anyio.lowlevel.checkpoint()
        peers.append(request.transport and request.transport.get_extra_info("peername"))
        return web.Response()

    url = await serve(note)
    for _ in range(3):
        await look(view, http=url)
    assert len(set(peers)) == 3


async def test_http_contains(view: View, serve: Serve) -> None:
    url = await serve(answering("state: running"))
    assert (await look(view, http={"url": url, "contains": "running"})).ok
    reading = await look(view, http={"url": url, "contains": "paused"})
    assert reading.detail == "the answer does not contain 'paused': state: running"


@pytest.mark.parametrize(
    ("wanted", "value", "wrong"),
    [
        ({"state": "running"}, "running", ""),
        ({"state": "paused"}, "running", 'state is "running"'),
        ({"state": "!= paused"}, "running", ""),
        ({"heartbeat.age": "< 5"}, 1.5, ""),
        ({"heartbeat.age": "< 1"}, 1.5, "heartbeat.age is 1.5"),
        ({"nodes.1.up": False}, "false", ""),
        ({"nodes.1.up": 0}, "false", "nodes.1.up is false"),
        ({"leader": None}, "null", ""),
        ({"nodes.0.up": True, "heartbeat.age": 1.5}, 200, ""),
    ],
)
async def test_http_json(view: View, serve: Serve, wanted: dict[str, Any], value: Any, wrong: str) -> None:
    state = {
        "state": "running",
        "heartbeat": {"age": 1.5},
        "nodes": [{"up": True}, {"up": False}],
        "leader": None,
    }
    reading = await look(view, http={"url": await serve(answering(json.dumps(state))), "json": wanted})
    assert (reading.ok, reading.value, reading.detail) == (not wrong, value, wrong)


async def test_http_json_that_is_not_there(view: View, serve: Serve) -> None:
    url = await serve(answering('{"nodes": []}'))
    reading = await look(view, http={"url": url, "json": {"nodes.0.up": True}})
    assert (reading.ok, reading.detail) == (False, 'there is no nodes.0.up in the answer: {"nodes": []}')
    url = await serve(answering("<html>"))
    assert (await look(view, http={"url": url, "json": {"a": 1}})).detail == "the answer is no JSON: <html>"


async def test_http_reads_no_more_than_it_must(view: View, serve: Serve) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            await response.write(b"x" * 100_000)
        return response

    reading = await look(view, http={"url": await serve(endless), "contains": "y"})
    assert not reading.ok
    assert len(reading.detail) < 300


def test_titles_tell_probes_of_one_url_apart() -> None:
    url = "http://127.0.0.1:1/"
    titles = {
        probe(http={"url": url, **more}).title
        for more in (
            {},
            {"status": 503},
            {"method": "HEAD"},
            {"contains": "a"},
            {"json": {"a": 1}},
            {"json": {"a": "< 1"}},
        )
    }
    assert titles == {
        "http http://127.0.0.1:1/ == 200",
        "http http://127.0.0.1:1/ == 503",
        "http HEAD http://127.0.0.1:1/ == 200",
        "http http://127.0.0.1:1/ == 200, contains 'a'",
        "http http://127.0.0.1:1/ == 200, a == 1",
        "http http://127.0.0.1:1/ == 200, a < 1",
    }


# --- tcp -------------------------------------------------------------------------------------------------------------


async def test_tcp(view: View, serve: Serve, closed_port: int) -> None:
    port = int((await serve(answering())).rsplit(":", 1)[1].partition("/")[0])
    assert (await look(view, tcp=f"127.0.0.1:{port}")).ok
    reading = await look(view, tcp={"host": "127.0.0.1", "port": closed_port})
    assert reading.probe == f"tcp 127.0.0.1:{closed_port} accepts"
    assert (reading.ok, "refused" in reading.detail.lower()) == (False, True)


def test_tcp_addresses() -> None:
    assert probe(tcp="[::1]:4222").title == "tcp [::1]:4222 accepts"
    assert probe(tcp="localhost:4222").title == "tcp localhost:4222 accepts"


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "where", "what"),
    [
        ({"http": "127.0.0.1:8000"}, "http.url", "expected a URL such as http://127.0.0.1:8000/ready"),
        ({"http": "ftp://a/b"}, "http.url", "expected a URL"),
        ({"http": "http://user:pw@a/"}, "http.url", "leave user and password out of the URL"),
        ({"http": {"url": "http://a/", "json": {"lag": "< much"}}}, "http.json.lag", "expected a comparison"),
        ({"http": {"url": "http://a/", "timeout": "5m"}}, "http.timeout", "at most 1m"),
        ({"http": {"url": "http://a/", "statsu": 200}}, "http.statsu", "Extra inputs"),
        ({"http": {"url": "http://a/", "status": 20}}, "http.status", "greater than or equal to 100"),
        ({"http": {}}, "http.url", "Field required"),
        ({"tcp": "127.0.0.1"}, "tcp", "expected host:port"),
        ({"tcp": "127.0.0.1:99999"}, "tcp.port", "less than or equal to 65535"),
        ({"tcp": 4222}, "tcp", "valid dictionary"),
    ],
)
def test_bad_entries(entry: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        probe(**entry)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert what in error["msg"]
