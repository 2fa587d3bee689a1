"""Looks at a cluster from all sides at once: who greets, what the monitoring ports and the system account say, what our account gets.

Each source is optional and has its deadline, so a look always ends, and what could not be seen says why.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal

import aiohttp
import anyio

from supervisor.broker.api import ApiError, NobodyError, call
from supervisor.broker.connection import BrokerError, Connections, Handle
from supervisor.broker.health import monitoring_port, reports, system_account
from supervisor.broker.health.facts import Api, Facts, Greeting, Link, Monitored, System
from supervisor.broker.health.greeting import greet
from supervisor.broker.options import DEFAULT

DEADLINE: Final = 2.0
"""Seconds for each source. One that is well answers within milliseconds."""
HEAD_START: Final = 0.05
"""Seconds by which greetings and canary are ahead of the rest, which would only be measured with them."""


async def examine(connections: Connections, http: aiohttp.ClientSession, deadline: float = DEADLINE) -> Facts:
    """Look once, within about `deadline` seconds; counting consumers, where there are many, takes up to as long again."""
    broker, at = connections.broker, time.time()
    tls_first = broker.tls is not None and broker.tls.handshake_first
    greetings: dict[str, Greeting] = {}
    monitored: dict[str, Monitored] = {}
    system: System | None = None
    link, api = Link(error=f"no server answered within {deadline:g}s"), Api(outcome="unasked")

    async def note_greeting(url: str) -> None:
        greetings[url] = await greet(url, deadline, tls_first=tls_first)

    async def note_monitored(unit: str, url: str) -> None:
        await anyio.sleep(HEAD_START)
        seen = await monitoring_port.look(http, unit, url, deadline)
        monitored[unit] = seen.model_copy(update={"called": broker.server_of(unit)})

    async def note_system() -> None:
        nonlocal system
        await anyio.sleep(HEAD_START)
        system = await system_account.look(connections, deadline)

    async def note_account() -> None:
        nonlocal link, api
        with anyio.move_on_after(2 * deadline):
            link, api = await _account(connections, deadline)

    async with anyio.create_task_group() as group:
        for url in broker.servers:
            group.start_soon(note_greeting, url)
        for unit, node in broker.nodes.items():
            if node.monitor is not None:
                group.start_soon(note_monitored, unit, node.monitor)
        if broker.system is not None:
            group.start_soon(note_system)
        group.start_soon(note_account)
    return Facts(
        at=at,
        greetings=tuple(greetings[url] for url in dict.fromkeys(broker.servers)),
        monitored=tuple(monitored[unit] for unit in broker.nodes if unit in monitored),
        system=system,
        link=link,
        api=api,
    )


async def _account(connections: Connections, deadline: float) -> tuple[Link, Api]:
    """Look through the default connection."""
    api = Api(outcome="unasked")
    try:
        handle = await connections.handle(DEFAULT)
        await handle.wait_connected(deadline / 2)
    except BrokerError as error:
        return Link(error=str(error)), api

    async def ask() -> None:
        nonlocal api
        api = await _api(handle, deadline)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        link = await _link(handle, deadline)
    return link, api


async def _link(handle: Handle, deadline: float) -> Link:
    round_trip, error, info = None, "", dict[str, Any]()
    try:
        round_trip = await handle.canary(deadline)
        info = handle.nc._server_info  # noqa: SLF001  # the one place where nats-py keeps that a server leaves
    except BrokerError as failure:
        error = str(failure)
    name, leaving = info.get("server_name", ""), info.get("ldm", False)
    return Link(server=name, round_trip=round_trip, error=error, lame_duck=leaving)


async def _api(handle: Handle, deadline: float) -> Api:
    began = time.monotonic()
    outcome: Literal["answered", "error", "nobody", "silent"] = "silent"
    code, detail = 0, ""
    try:
        info = await call(handle, "INFO", deadline=deadline)
        accounts = reports.accounts(info)
        return Api(outcome="answered", took=time.monotonic() - began, accounts=accounts)
    except ApiError as error:
        outcome, code, detail = "error", error.err_code, error.description
    except NobodyError as error:
        outcome, detail = "nobody", str(error)
    except (BrokerError, reports.NoReport) as error:
        detail = str(error)
    return Api(outcome=outcome, took=time.monotonic() - began, code=code, detail=detail)
