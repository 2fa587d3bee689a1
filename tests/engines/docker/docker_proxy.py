"""A proxy before an engine's socket that loses, holds and refuses calls: what networks and hanging engines do to one call of many."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import AnyByteStream, SocketListener, TaskGroup

REQUEST = re.compile(rb"^[A-Z]+ (\S+) HTTP/1\.1\r\n")


class Proxy:
    """Passes everything on, except what it is told not to."""

    def __init__(self, path: Path, engine: str, group: TaskGroup) -> None:
        self._path, self._engine, self._group = path, engine, group
        self._refused = self._held = ""
        self._open: dict[anyio.CancelScope, str] = {}
        self._listener: anyio.CancelScope | None = None
        self._go_on = anyio.Event()
        self.holds = anyio.Event()
        """Set once a call is held."""

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    async def appear(self) -> None:
        """Listen."""
        listener: SocketListener = await anyio.create_unix_listener(self._path)
        self._listener = anyio.CancelScope()
        self._group.start_soon(self._serve, listener, self._listener)

    def vanish(self) -> None:
        """Take the socket away, and all connections with it."""
        assert self._listener
        self._listener.cancel()
        self._path.unlink()
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
        self._held = path

    def go_on(self) -> None:
        """Pass everything on again."""
        self._refused = self._held = ""
        self._go_on.set()

    async def _serve(self, listener: SocketListener, scope: anyio.CancelScope) -> None:
        async with listener:
            with scope:
                await listener.serve(self._relay, self._group)

    async def _relay(self, client: AnyByteStream) -> None:
        with anyio.CancelScope() as scope:
            self._open[scope] = ""
            try:
                async with (
                    client,
                    await anyio.connect_unix(self._engine) as engine,
                    anyio.create_task_group() as group,
                ):
                    group.start_soon(self._answers, engine, client, group)
                    await self._requests(client, engine, scope)
                    group.cancel_scope.cancel()
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, BaseExceptionGroup):
                return
            finally:
                del self._open[scope]

    async def _answers(self, engine: AnyByteStream, client: AnyByteStream, group: TaskGroup) -> None:
        async for data in engine:
            await client.send(data)
        group.cancel_scope.cancel()

    async def _requests(self, client: AnyByteStream, engine: AnyByteStream, scope: anyio.CancelScope) -> None:
        async for data in client:
            if found := REQUEST.match(data):
                self._open[scope] = path = found[1].decode()
                if self._refused and self._refused in path:
                    return
                if self._held and self._held in path:
                    self._held = ""
                    self.holds.set()
                    await self._go_on.wait()
            await engine.send(data)


@asynccontextmanager
async def proxied(engine: str, folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy before an engine's socket."""
    async with anyio.create_task_group() as group:
        proxy = Proxy(folder / "proxy.sock", engine, group)
        await proxy.appear()
        yield proxy
        group.cancel_scope.cancel()
