"""What the servers say through the system account, where one question reaches all of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import nats.errors
from nats.aio.msg import Msg

from supervisor.broker.connection import BrokerError, Connections, Handle
from supervisor.broker.health import reports
from supervisor.broker.health.facts import Server, System
from supervisor.broker.options import SYSTEM

QUIET: Final = 0.25
"""Seconds without a further answer after which no more are expected: nobody says how many servers there are."""
_QUESTIONS: Final[Mapping[str, tuple[str, Mapping[str, bool]]]] = {
    "varz": ("VARZ", {}),
    "jsz": ("JSZ", {}),
    "plain": ("HEALTHZ", {}),
    "js-enabled-only": ("HEALTHZ", {"js-enabled-only": True}),
    "js-server-only": ("HEALTHZ", {"js-server-only": True}),
}
_DETAILS: Final[Mapping[str, tuple[str, Mapping[str, bool]]]] = {
    "jsz": ("JSZ", {"accounts": True, "streams": True, "consumer": True, "config": True})
}


async def look(connections: Connections, deadline: float) -> System:
    """Ask all servers through the system connection, within about `deadline` seconds."""
    began = time.monotonic()
    error, servers = f"no answer within {deadline:g}s", tuple[Server, ...]()
    with anyio.move_on_after(2 * deadline):
        try:
            handle = await connections.handle(SYSTEM)
            await handle.wait_connected(deadline / 2)
            servers = await _servers(handle, deadline / 2)
        except (BrokerError, nats.errors.Error, OSError) as failure:
            error = str(failure)
    return System(took=time.monotonic() - began, servers=servers, error="" if servers else error)


async def _servers(handle: Handle, deadline: float) -> tuple[Server, ...]:
    found = []
    for said in (await ask_all(handle, _QUESTIONS, deadline)).values():
        if "varz" in said and "jsz" in said:
            with suppress(reports.NoReport):
                seen = reports.server(said["varz"], said["jsz"])
                checks = {name: reports.check(200, said[name]) for name in reports.CHECKS if name in said}
                found.append(seen.model_copy(update={"checks": checks}))
    if any(map(reports.worth_counting, found)):
        details = await ask_all(handle, _DETAILS, deadline)
        found = [
            reports.with_consumers(seen, details.get(seen.id, {}).get("jsz", {}))
            if reports.worth_counting(seen)
            else seen
            for seen in found
        ]
    return tuple(found)


async def ask_all(
    handle: Handle,
    questions: Mapping[str, tuple[str, Mapping[str, bool]]],
    deadline: float,
    *,
    named: bool = False,
) -> dict[str, dict[str, Any]]:
    """Ask every server, and return what each (by its id, or its name) said to each question, once no more answers come."""
    answers: dict[str, dict[str, Any]] = {}
    another = anyio.Event()

    async def take(msg: Msg) -> None:
        nonlocal another
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # whatever came, it was no answer
            said = json.loads(msg.data)
            if isinstance(said.get("data"), dict):
                who = said["server"]["name" if named else "id"]
                answers.setdefault(who, {})[msg.subject.rpartition(".")[2]] = said["data"]
        another.set()
        another = anyio.Event()

    inbox = handle.nc.new_inbox()
    async with _subscribed(handle, f"{inbox}.*", take):
        for name, (what, options) in questions.items():
            subject, body = f"$SYS.REQ.SERVER.PING.{what}", json.dumps(options).encode()
            await handle.nc.publish(subject, body, reply=f"{inbox}.{name}")
        with anyio.move_on_after(deadline):
            quiet = False
            while not quiet:
                with anyio.move_on_after(QUIET if answers else deadline) as patience:
                    await another.wait()
                quiet = patience.cancelled_caught
    return answers


@asynccontextmanager
async def _subscribed(
    handle: Handle, subject: str, take: Callable[[Msg], Awaitable[None]]
) -> AsyncGenerator[None]:
    subscribed = await handle.subscribe(subject, take)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):  # it has a deadline of its own
            await subscribed.unsubscribe()
