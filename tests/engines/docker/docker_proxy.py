"""A proxy before an engine's socket that loses, holds and fails calls: what networks and broken engines do to one call of many."""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from docker_client import reached

REQUEST = re.compile(rb"^[A-Z]+ (\S+) HTTP/1\.1\r\n")
BLOCK = 65_536
FAILED = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    b'{"message":"broken"}'
)


class Proxy:
    """Passes everything on, except what it is told not to."""

    def __init__(self, path: Path, engine: str, group: TaskGroup) -> None:
        self._path, self._engine, self._group = path, engine, group
        self._refused = self._held = self._failing = ""
        self._open: dict[anyio.CancelScope, str] = {}
        self._server: asyncio.Server | None = None
        self._go_on = anyio.Event()
        self.holds = anyio.Event()
        """Set once a call is held."""
        self.failures = 0
        """Calls that were failed."""

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    async def appear(self) -> None:
        """Listen. By asyncio itself: uvloop fails where anyio is cancelled while it accepts."""

        def connected(reader: StreamReader, writer: StreamWriter) -> None:
            self._group.start_soon(self._relay, reader, writer)

        self._server = await asyncio.start_unix_server(connected, self._path)

    def vanish(self) -> None:
        """Take the socket away, and all connections with it."""
        if self._server:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for scope in self._open:
            scope.cancel()

    def refuse(self, path: str) -> None:
        """Break off calls with this in their path, from now on and those that are open."""
        self._refused = path
        for scope, called in self._open.items():
            if path in called:
                scope.cancel()

    def hold(self, path: str) -> None:
        """Keep the next call with this in its path from the engine until `go_on`; it is lost if nobody waits for it any more."""
        self._held, self.holds, self._go_on = path, anyio.Event(), anyio.Event()

    def fail(self, path: str) -> None:
        """Answer calls with this in their path as an engine does that has an error of its own."""
        self._failing = path

    def go_on(self) -> None:
        """Pass everything on again."""
        self._refused = self._held = self._failing = ""
        self._go_on.set()

    async def _relay(self, asked: StreamReader, answering: StreamWriter) -> None:
        with anyio.CancelScope() as scope:
            self._open[scope] = ""
            with suppress(OSError):
                place = reached(self._engine)
                opened = (
                    asyncio.open_connection(*place)
                    if isinstance(place, tuple)
                    else asyncio.open_unix_connection(place)
                )
                answers, asking = await opened
                try:
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._pass_answers, answers, answering, group.cancel_scope)
                        await self._pass_requests(asked, asking, answering, scope)
                        group.cancel_scope.cancel()
                finally:
                    await _closed(asking)
        await _closed(answering)
        del self._open[scope]

    async def _pass_answers(
        self, reader: StreamReader, writer: StreamWriter, relay: anyio.CancelScope
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(BLOCK):
                writer.write(data)
                await writer.drain()
        relay.cancel()

    async def _pass_requests(
        self, reader: StreamReader, writer: StreamWriter, answering: StreamWriter, scope: anyio.CancelScope
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(BLOCK):
                if found := REQUEST.match(data):
                    self._open[scope] = path = found[1].decode()
                    if self._refused and self._refused in path:
                        return
                    if self._failing and self._failing in path:
                        self.failures += 1
                        answering.write(FAILED)
                        await answering.drain()
                        continue
                    if self._held and self._held in path:
                        self._held = ""
                        self.holds.set()
                        await self._go_on.wait()
                writer.write(data)
                await writer.drain()


async def _closed(writer: StreamWriter) -> None:
    writer.transport.abort()
    with anyio.CancelScope(shield=True), anyio.move_on_after(5), suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def proxied(engine: str, folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy before an engine, which is where this URL says."""
    async with anyio.create_task_group() as group:
        proxy = Proxy(folder / "proxy.sock", engine, group)
        await proxy.appear()
        try:
            yield proxy
        finally:
            proxy.vanish()
    await anyio.sleep(0.01)  # the server's own handle closes with the next turns of the loop
