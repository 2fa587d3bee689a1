"""Each look by itself, against what one may meet at its address; nothing is left behind, and nothing takes too long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from anyio.abc import SocketAttribute, SocketStream
from health_states import ACCOUNTS, Unheard, solo
from nats.aio.msg import Msg
from nats_servers import NatsServer, Start, port_of, reserve

from supervisor.broker.api import call
from supervisor.broker.connection import open_connections
from supervisor.broker.health import monitoring_port, reports
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Health
from supervisor.broker.health.greeting import greet
from supervisor.broker.options import Broker

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SHORT = 0.3
LONG = 20.0
"""Seconds for what answers, on a busy machine."""


@asynccontextmanager
async def listening(answer: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Answer connections in some way; the address is returned."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        yield f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610  # anyio's, not Django's
        group.cancel_scope.cancel()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


# --- greetings -------------------------------------------------------------------------------------------------------


async def test_a_server_greets(server: NatsServer) -> None:
    greeting = await greet(f"nats://{server.address}", LONG)
    assert (greeting.outcome, greeting.name, greeting.jetstream, greeting.cluster) == (
        "greets",
        "solo",
        True,
        "",
    )
    assert greeting.address == server.address
    assert greeting.version.startswith("2.")
    assert 0 < greeting.took < LONG


async def test_a_paused_server_is_mute(server: NatsServer) -> None:
    server.pause()
    greeting = await greet(f"nats://{server.address}", SHORT)
    assert (greeting.outcome, greeting.detail) == ("mute", "accepts, then says nothing for 0.3s")
    server.resume()


async def test_nobody_there() -> None:
    with reserve() as holder:
        greeting = await greet(f"nats://127.0.0.1:{port_of(holder)}", LONG)
    assert (greeting.outcome, greeting.detail) == ("refuses", "refuses connections")


async def test_an_address_that_does_not_exist() -> None:
    greeting = await greet("nats://no.such.host.invalid:4222", LONG)
    assert (greeting.outcome, bool(greeting.detail)) == ("unreachable", True)


@pytest.mark.parametrize(
    ("said", "outcome", "detail"),
    [
        (b"", "mute", "hangs up without a word"),
        (b"HTTP/1.1 400 Bad Request\r\n", "unreachable", "is no nats-server"),
        (b"INFO []\r\n", "unreachable", "is no nats-server"),
        (b"INFO {broken\r\n", "unreachable", "is no nats-server"),
        (b"x" * 100_000, "unreachable", "is no nats-server"),
    ],
)
async def test_somebody_else_there(said: bytes, outcome: str, detail: str) -> None:
    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                await stream.send(said)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # we had heard enough

    async with listening(answer) as url:
        greeting = await greet(url, LONG)
    assert (greeting.outcome, greeting.detail) == (outcome, detail)


async def test_a_server_that_wants_tls_first_is_only_knocked_at() -> None:
    async def wait(stream: SocketStream) -> None:
        async with stream:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()

    async with listening(wait) as url:
        assert (await greet(url, LONG, tls_first=True)).outcome == "tls"


async def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert (await greet("nats://[::1]:1", LONG)).address == "[::1]:1"


# --- monitoring ports ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]  # a request is a request
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}/"
    await runner.cleanup()


async def test_somebody_else_at_the_monitoring_port(http: aiohttp.ClientSession) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"hello": "world"})

    async with serving(answer) as url:
        seen = await monitoring_port.look(http, "n1", url, LONG)
    assert (seen.server, "not that of a nats-server" in seen.error) == (None, True)


async def test_a_monitoring_port_without_json(http: aiohttp.ClientSession) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    async with serving(answer) as url:
        seen = await monitoring_port.look(http, "n1", url, LONG)
    assert seen.server is None
    assert seen.error


async def test_a_monitoring_port_that_answers_for_ever(http: aiohttp.ClientSession) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 1_000_000)
        except (ConnectionError, aiohttp.ClientError):
            return response

    async with serving(answer) as url:
        seen = await monitoring_port.look(http, "n1", url, LONG)
    assert seen.server is None
    assert "bytes" in seen.error


async def test_a_monitoring_port_that_is_refused_or_silent(http: aiohttp.ClientSession, start: Start) -> None:
    with reserve() as holder:
        refused = await monitoring_port.look(http, "n1", f"http://127.0.0.1:{port_of(holder)}", LONG)
    assert refused.error == "connection refused"
    with reserve() as holder:
        url = f"http://127.0.0.1:{port_of(holder)}"
        server = await start(f'http: "127.0.0.1:{port_of(holder)}"')
        assert (await monitoring_port.look(http, "n1", url, LONG)).server is not None
        server.pause()
        silent = await monitoring_port.look(http, "n1", url, SHORT)
        assert silent.error == "no answer within 0.3s"
        server.resume()


# --- all of it -------------------------------------------------------------------------------------------------------


async def test_a_look_ends_and_leaves_nothing_while_everything_is_silent(tmp_path: Path) -> None:
    async with solo(tmp_path, ACCOUNTS) as cluster:
        await cluster.well()
        cluster.servers[0].pause()
        for _ in range(3):
            with anyio.fail_after(LONG):
                facts = await examine(cluster.connections, cluster.http, 1)
        assert diagnose(facts).health is Health.UNHEALTHY
        cluster.servers[0].resume()
        await cluster.well()


async def test_refused_credentials_are_told_as_such(tmp_path: Path) -> None:
    async with solo(tmp_path, ACCOUNTS) as cluster:
        for wrong in (
            {"user": "soak", "password": "wrong"},
            {"system": {"user": "sys", "password": "wrong"}},
        ):
            section: dict[str, Any] = {
                "servers": cluster.servers[0].address,
                "user": "soak",
                "password": "soak",
            }
            broker = Broker.model_validate(section | wrong)
            code, said = ("refused", "") if "password" in wrong else ("system-account", "`system`")
            async with open_connections(broker, Unheard()) as connections:
                with anyio.fail_after(LONG):
                    while (
                        True
                    ):  # who hangs up may do so before its reason was read; then the next attempt tells
                        found = {
                            f.code: f for f in diagnose(await examine(connections, cluster.http)).findings
                        }
                        if code in found and said in found[code].do:
                            break
            assert ("refused" in found) == ("password" in wrong)


async def test_consumers_in_use_are_not_stale(tmp_path: Path) -> None:
    """Durable ones, those that somebody listens to, and young ones: none of them was left behind."""
    async with solo(tmp_path, ACCOUNTS) as cluster:
        handle = await cluster.connections.handle()

        async def make(subject: str, config: dict[str, Any]) -> None:
            await call(handle, f"CONSUMER.{subject}", {"stream_name": "USED", "config": config})

        async def hear(_: Msg) -> None:
            pass

        await call(handle, "STREAM.CREATE.USED", {"name": "USED", "subjects": ["used"]})
        for n in range(reports.PILE):
            await make(f"DURABLE.CREATE.USED.d{n}", {"durable_name": f"d{n}", "ack_policy": "none"})
        await handle.subscribe("heard", hear)
        await make("CREATE.USED", {"deliver_subject": "heard", "ack_policy": "none"})
        facts = await cluster.until(
            lambda facts: facts.monitored[0].server and facts.monitored[0].server.counted
        )
        assert facts.system is not None
        for server in (facts.monitored[0].server, facts.system.servers[0]):
            assert server is not None
            assert server.counted is not None
            assert (server.counted.ephemeral, server.counted.stale) == (1, 0)
