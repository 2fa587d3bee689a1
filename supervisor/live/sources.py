"""Where a viewer looks: at the endpoint of a run, or at the broker alone."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import aiohttp
import anyio
import pydantic

from supervisor.broker.connection import BrokerError, Connections, Handle, open_connections
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Diagnosis
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.options import SYSTEM, Broker
from supervisor.journal.events import Event
from supervisor.live.board import Board
from supervisor.live.picture import RunPicture, Scene, Wish

CALL: Final = 2.0
"""Seconds that an endpoint may take for an answer."""
FIRST: Final = 2.0
"""Seconds that a broker may take until it is shown as not connected."""
HEALTH: Final = 5.0
"""Seconds between two looks at the broker's health."""
BUCKETS: Final = 8
"""Buckets that are watched when none is named."""
AGAIN: Final = 0.5
"""Seconds between two looks for new ones."""
_BUCKET: Final = "KV_"


class CannotWatch(Exception):  # noqa: N818  # what is the matter is in the name
    """There is nothing to watch there; the text says why, and what to do."""


class Source(Protocol):
    """Something that can be watched."""

    async def look(self, wish: Wish) -> Scene:
        """Return what is known now, within two seconds."""

    @property
    def settled(self) -> bool:
        """Everything has been looked at once: worth being printed."""


class RunSource:
    """A run, by its endpoint."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url, self._http = url, http
        self._last: RunPicture | None = None
        self._heard = time.monotonic()

    @property
    def settled(self) -> bool:
        """A run has looked at everything long ago, unless it has only just begun."""
        last = self._last
        broker = last.broker if last else None
        return last is not None and (
            broker is None or (broker.seen is not None and broker.health is not None)
        )

    async def look(self, wish: Wish) -> Scene:
        """Ask the endpoint. CannotWatch if the first answer is not that of a run, or there is none."""
        trouble = ""
        try:
            self._last = await self._ask(wish)
            self._heard = time.monotonic()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if self._last is None:
                raise CannotWatch(
                    f"cannot watch {self._url}: {_reason(error)}; give the address that a run says in its first lines "
                    "(`endpoint`), or a soak file"
                ) from error
            silent = time.monotonic() - self._heard
            trouble = f"no answer for {silent:.0f}s, this is how it was before: the run is over, or cannot be reached"
        return Scene(
            title=self._url, run=self._last, broker=self._last.broker if self._last else None, trouble=trouble
        )

    async def _ask(self, wish: Wish) -> RunPicture:
        query = {key: str(value) for key, value in wish.model_dump().items()}
        async with self._http.get(f"{self._url}/status", params=query) as answer:
            if answer.status != 200:
                raise ValueError(f"/status answers {answer.status}")
            return RunPicture.model_validate_json(await answer.read())


class BrokerSource:
    """A broker, without any run."""

    def __init__(self, title: str, connections: Connections, http: aiohttp.ClientSession) -> None:
        self._title, self._connections, self._http = title, connections, http
        self._handle: Handle | None = None
        """None: the first attempt to connect is under way."""
        self._health: Diagnosis | None = None
        self._board: Board | None = None
        self._finds = False
        """Buckets are looked for, as none was named."""

    @property
    def settled(self) -> bool:
        """Names, numbers, entries and health were looked at once."""
        if self._board is None or self._health is None:
            return False
        picture = self._board.picture(Wish(rows=0))
        if self._finds and picture.unwatched and len(picture.buckets) < BUCKETS:
            return False
        return picture.seen is not None and not picture.why and not picture.unknown

    async def look(self, wish: Wish) -> Scene:
        """Return what the monitor knows; it does not wait for the broker."""
        trouble = ""
        if self._handle is not None and not self._handle.connected:
            try:
                await self._handle.wait_connected(0)
            except BrokerError as error:
                trouble = str(error).removesuffix("; waited 0s")
        return Scene(
            title=self._title, broker=self._board.picture(wish) if self._board else None, trouble=trouble
        )

    async def watch(self, broker: Broker) -> None:
        """Look at the broker until cancelled."""
        self._handle = handle = await self._connections.handle()
        async with anyio.create_task_group() as group:
            group.start_soon(self._examine)
            system = await self._connections.handle(SYSTEM) if broker.system else None
            monitor = Monitor(broker.monitor, handle, _Unheard(), system)
            self._board = Board(monitor.snapshot, lambda: self._health)
            self._finds = not broker.monitor.buckets
            if self._finds:
                group.start_soon(_follow_buckets, monitor)
            await monitor.run()

    async def _examine(self) -> None:
        while True:
            self._health = diagnose(await examine(self._connections, self._http))
            await anyio.sleep(HEALTH)


async def _follow_buckets(monitor: Monitor) -> None:
    """Follow the first `BUCKETS` buckets that there are, for ever: those that are followed go on as long as they are there."""
    followed = list[str]()
    while True:
        there = {name.removeprefix(_BUCKET) for name in monitor.streams if name.startswith(_BUCKET)}
        stay = [bucket for bucket in followed if bucket in there]
        wanted = (stay + sorted(there - set(stay)))[:BUCKETS]
        if wanted != followed:
            monitor.follow(followed := wanted)
        await anyio.sleep(AGAIN)


class _Unheard:
    """Where connections and monitor report to while there is no journal."""

    def emit(self, event: Event) -> None:
        """Forget an event."""


@asynccontextmanager
async def open_run(url: str) -> AsyncGenerator[RunSource]:
    """Attach to a run by the URL of its endpoint."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(CALL)) as http:
        yield RunSource(url, http)


@asynccontextmanager
async def open_broker(title: str, broker: Broker) -> AsyncGenerator[BrokerSource]:
    """Begin to connect to a broker; one that cannot be reached is watched for all that."""
    async with aiohttp.ClientSession() as http, open_connections(broker, _Unheard()) as connections:
        source = BrokerSource(title, connections, http)
        async with anyio.create_task_group() as group:
            group.start_soon(source.watch, broker)
            yield source
            group.cancel_scope.cancel()


def _reason(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        return "what answers there is no run of soakd"
    if isinstance(error, TimeoutError):
        return f"no answer within {CALL:g}s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
    return str(error) or type(error).__name__
