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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

ROUTE, EVENTS = "connector.testhandler.echo", "events.client.test"
OVERLAP = 1.0
"""Seconds for which both connections are used when one takes over."""


def tell(**said: Any) -> None:
    """Tell one operation."""
    print(json.dumps(said), flush=True)  # noqa: T201  # it is what the protocol is made of


def note(text: str) -> None:
    """Write a line of the log, which probes may look for."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # it is a program's log


Callback = Callable[[Msg], Awaitable[None]]


class Link:
    """A connection that is elsewhere before its server leaves: a new one takes over, and the old one is drained a little later."""

    client: Client

    def __init__(self, subject: str, callback: Callback, queue: str = "") -> None:
        self._subject, self._callback, self._queue = subject, callback, queue
        self._swaps: set[asyncio.Task[None]] = set()

    async def open(self, leaving: str = "") -> None:
        """Connect as soakd says, but not to a server that is leaving, and subscribe."""

        async def lame() -> None:  # it must not wait: it is called where messages are read
            note("LAME DUCK MODE DETECTED")
            if self.client is client:
                swap = asyncio.create_task(self._swap(client))
                self._swaps.add(swap)
                swap.add_done_callback(self._swaps.discard)

        everywhere = os.environ["SOAKD_NATS_URL"].split(",")
        servers = [url for url in everywhere if not leaving or leaving not in url]
        who = {"user": os.environ.get("SOAKD_NATS_USER"), "password": os.environ.get("SOAKD_NATS_PASSWORD")}
        rest: dict[str, Any] = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1}
        client = await nats.connect(servers, lame_duck_mode_cb=lame, **who, **rest)
        await client.subscribe(self._subject, cb=self._callback, queue=self._queue)
        await client.flush()
        self.client = client

    async def _swap(self, old: Client) -> None:
        await self.open(old.connected_url.netloc.rpartition("@")[2] if old.connected_url else "")
        note("HOT SWAP")
        if "server" not in sys.argv:
            tell(count={"hot_swaps": 1})
        await asyncio.sleep(
            OVERLAP
        )  # the other servers learn of our subscription, and answers still come to the old one
        with suppress(nats.errors.Error, OSError, TimeoutError):
            await old.drain()


async def serve() -> None:
    """Answer every request with itself."""

    async def echo(msg: Msg) -> None:
        await msg.respond(msg.data)

    await Link(ROUTE, echo, queue="servers").open()
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
    under_way = set[int]()

    async def arrived(msg: Msg) -> None:
        if (n := int(msg.data)) in under_way:  # while two connections receive, it comes twice
            under_way.discard(n)
            tell(op="event", id=n, outcome="ok")

    link = Link(EVENTS, arrived)
    await link.open()
    note("client is ready")

    async def requests() -> None:
        for n in range(sys.maxsize):
            await call(link.client, n)
            await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311  # a pause

    async def events() -> None:
        for n in range(sys.maxsize):
            tell(op="event", id=n, outcome="started")
            under_way.add(n)
            with suppress(nats.errors.Error):  # one that was not sent has no outcome, and is lost
                await link.client.publish(EVENTS, b"%d" % n)
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  # a pause

    await asyncio.gather(requests(), events())


if __name__ == "__main__":
    asyncio.run(serve() if "server" in sys.argv else run())
