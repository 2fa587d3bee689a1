"""The connection of a load: how much its client does to survive what happens to the broker is the soak file's choice."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, Protocol

import anyio
import anyio.to_thread
import nats.errors
from nats.aio.client import Client

from supervisor.broker.connection import BrokerError
from supervisor.broker.credentials import CredentialsError, arguments
from supervisor.broker.mended import Callback, MendedClient
from supervisor.broker.options import Options
from supervisor.loads.base import LoadContext

Mode = Literal["default", "reconnect", "make_before_break"]

CONNECT: Final = 30.0
"""Seconds in which the broker must have been reached once for a load to begin."""
FULL: Final = 1_500_000
"""Unsent bytes at which a client counts as full: nats-py's buffer holds 2 MiB, and blocks or raises beyond."""
OVERLAP: Final = 10.0
"""Seconds after a client was replaced in which the old one may still receive, and so everything may come twice."""
SEEN: Final = {"lame-duck": "lame_ducks", "moved": "hot_swaps"}
"""What loads count of their clients: servers that announced their leaving, and moves to another one before they left."""
RESPONDER: Final = "responder"
"""The role of a client that stands for the system under test."""
GRACE: Final = 0.5
"""Seconds a closing client has for what is unsent."""


class NotSentError(Exception):
    """A message that was not sent, so that nothing can have come of it; the text is an error class."""


class Source(Protocol):
    """What gives the present client: a `Handle`, or `Plain`."""

    @property
    def nc(self) -> Client:
        """The client to use now."""

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> object:
        """Subscribe for as long as the source lives."""


class Plain:
    """nats-py's client as it comes, with its own defaults: what an application does that did not think about it.

    It gives up for good after 60 attempts to reconnect, 2 s apart, and notices a silent peer after minutes.
    """

    def __init__(self) -> None:
        self.nc = MendedClient()

    async def open(self, options: Options, title: str, listener: Callable[[str], None]) -> None:
        """Connect; BrokerError after `CONNECT` seconds, or if what a connection needs cannot be read."""
        try:
            given = await anyio.to_thread.run_sync(arguments, options, abandon_on_cancel=True)
            with anyio.fail_after(CONNECT):
                await self.nc.connect(
                    **given,
                    name=f"soakd {title}",
                    error_cb=_unheard,
                    lame_duck_mode_cb=partial(_pass_on, listener, "lame-duck"),
                )
        except (CredentialsError, nats.errors.Error, OSError) as error:
            servers = ", ".join(options.servers)
            raise BrokerError(f"cannot connect to {servers}: {type(error).__name__}: {error}") from error

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> object:
        """Subscribe; nats-py does so again after each reconnect."""
        return await self.nc.hear(subject, callback, queue)


async def _unheard(_: Exception) -> None:
    """An application that did not think about it does not listen either; operations tell what matters."""


async def _pass_on(listener: Callable[[str], None], state: str) -> None:
    listener(state)


class LoadClient:
    """What a load sends and subscribes with. Its callbacks must not raise."""

    def __init__(self, source: Source) -> None:
        self._source, self._last, self._replaced = source, source.nc, -OVERLAP

    @property
    def nc(self) -> Client:
        """The client to use now."""
        nc = self._source.nc
        if nc is not self._last:
            self._last, self._replaced = nc, time.monotonic()
        return nc

    @property
    def settled(self) -> bool:
        """False for a while after the client was replaced: what comes twice then may be our own doing."""
        _ = self.nc
        return time.monotonic() - self._replaced > OVERLAP

    @property
    def server(self) -> str:
        """host:port of the server that it is connected to; empty if it is not."""
        url = self.nc.connected_url
        return url.netloc if url else ""

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand a message to the client; NotSentError if it does not take it. Never waits for the network."""
        nc = self.nc
        if nc.pending_data_size > FULL:
            raise NotSentError("outbound buffer full")
        try:
            await nc.publish(subject, payload, reply, headers)
        except (nats.errors.Error, OSError) as error:
            raise NotSentError(str(error).removeprefix("nats: ") or type(error).__name__) from error

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> None:
        """Subscribe for as long as the load runs."""
        await self._source.subscribe(subject, callback, queue)


@asynccontextmanager
async def open_client(
    context: LoadContext, mode: Mode, connection: str, role: str = ""
) -> AsyncGenerator[LoadClient]:
    """Connect for a load, as the connection of that name; BrokerError if the broker cannot be reached in `CONNECT` seconds."""
    if context.connections is None:
        raise BrokerError(f"load {context.name} cannot connect: the soak file has no broker section")
    owner = f"load {context.name}{role and ' ' + role}"
    if context.processes > 1:
        owner += f" {context.process + 1}"

    def listen(state: str) -> None:
        if (
            name := SEEN.get(state)
        ) and role != RESPONDER:  # what our own other end goes through is not the load's
            context.recorder.count(name)

    if mode == "default":
        plain = Plain()
        try:
            await plain.open(_options(context, connection), owner, listen)
            yield LoadClient(plain)
        finally:
            await plain.nc.end(GRACE)
        return
    moves = mode == "make_before_break"
    async with await context.connections.new(connection, owner, make_before_break=moves) as handle:
        handle.listen(listen)
        await handle.wait_connected(CONNECT)
        yield LoadClient(handle)


def _options(context: LoadContext, connection: str) -> Options:
    assert context.connections is not None  # noqa: S101  # looked at by the only caller
    broker = context.connections.broker
    if connection not in broker.names:
        known = ", ".join(broker.names)
        raise BrokerError(f"there is no connection {connection!r}: the broker section has {known}")
    return broker.options(connection)
