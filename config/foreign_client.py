"""Stands for somebody else's client in `foreign-client.yaml`: it tells its operations in the line protocol of docs/soak-file.md.

A client in C++ or Go does the same with a printf. What soakd tells it of the broker is in its environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from contextlib import suppress
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

ROUTE, EVENTS = "connector.testhandler.echo", "events.client.test"


def tell(**said: Any) -> None:
    """Tell one operation."""
    print(json.dumps(said), flush=True)  # noqa: T201  # it is what the protocol is made of


def note(text: str) -> None:
    """Write a line of the log, which probes may look for."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # it is a program's log


async def connect() -> Client:
    """Connect as soakd says; the client reconnects at once and for ever."""

    async def lame() -> None:
        note("LAME DUCK MODE DETECTED")

    async def back() -> None:
        note("reconnected")

    servers = os.environ["SOAKD_NATS_URL"].split(",")
    who = {"user": os.environ.get("SOAKD_NATS_USER"), "password": os.environ.get("SOAKD_NATS_PASSWORD")}
    rest: dict[str, Any] = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1}
    return await nats.connect(servers, lame_duck_mode_cb=lame, reconnected_cb=back, **who, **rest)


async def serve() -> None:
    """Answer every request with itself, and pass events on."""
    client = await connect()

    async def echo(msg: Msg) -> None:
        await msg.respond(msg.data)

    await client.subscribe(ROUTE, cb=echo)
    await client.flush()
    note("server is ready")
    await asyncio.Event().wait()


async def call(client: Client, n: int) -> None:
    """Make one request."""
    began = time.monotonic()
    said: dict[str, Any] = {"outcome": "ok"}
    try:
        await client.request(ROUTE, b"%d" % n, timeout=5)
    except nats.errors.TimeoutError:
        said = {"outcome": "indeterminate", "error": "timeout"}
    except nats.errors.Error as error:
        said = {"outcome": "failed", "error": type(error).__name__, "detail": str(error)}
    tell(op="rpc", ms=(time.monotonic() - began) * 1000, **said)


async def run() -> None:
    """Request every 50 to 200 ms, and publish an event every 100 to 500 ms, which comes back to us."""
    client = await connect()

    async def arrived(msg: Msg) -> None:
        tell(op="event", id=msg.data.decode(), outcome="ok")

    await client.subscribe(EVENTS, cb=arrived)
    await client.flush()
    note("client is ready")

    async def requests() -> None:
        for n in range(sys.maxsize):
            await call(client, n)
            await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311  # a pause

    async def events() -> None:
        for n in range(sys.maxsize):
            tell(op="event", id=n, outcome="started")
            with suppress(nats.errors.Error):  # one that was not sent has no outcome, and is lost
                await client.publish(EVENTS, b"%d" % n)
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  # a pause

    await asyncio.gather(requests(), events())


if __name__ == "__main__":
    asyncio.run(serve() if "server" in sys.argv else run())
