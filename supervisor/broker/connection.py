"""Connections to the broker: stable handles that heal inside, and the factory they come from."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread
import nats.errors
from anyio.abc import TaskGroup
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from supervisor.broker.credentials import CredentialsError, arguments
from supervisor.broker.options import DEFAULT, Broker, Options
from supervisor.journal.base import Journal

DIAL: Final = 2.0
CLOSE: Final = 2.0


class BrokerError(Exception):
    """The broker did not do what was asked within the time for it; the text says what and where."""


class Handle:
    """A connection that heals inside."""

    def __init__(self, name: str, owner: str, options: Options, journal: Journal) -> None:
        self.name, self.owner = name, owner
        self._options, self._journal = options, journal
        self._client: Client | None = None

    @property
    def nc(self) -> Client:
        """The present client; another one after some kinds of healing. BrokerError as long as there never was one."""
        if self._client is None:
            raise BrokerError(f"cannot use connection {self.name}: it was never made")
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the connection can be used, as far as is known."""
        return self._client is not None and self._client.is_connected

    async def canary(self, deadline: float = 1.0) -> float:
        """Send a message to ourselves through the server and return its round trip in seconds; BrokerError after `deadline`."""
        start = time.monotonic()
        subject = f"_SOAKD.canary.{time.monotonic_ns()}"
        try:
            await self.nc.request(subject, timeout=deadline)
        except nats.errors.NoRespondersError:
            pass
        except nats.errors.Error as error:
            raise BrokerError(f"connection {self.name}: the canary was not answered: {error}") from error
        return time.monotonic() - start

    async def request(self, subject: str, data: bytes = b"", timeout: float = 2.0) -> Msg:
        """Send a request and return its answer; nats.errors.TimeoutError, NoRespondersError and others as they come."""
        return await self.nc.request(subject, data, timeout=timeout)

    async def jetstream(self, timeout: float = 5.0) -> JetStreamContext:
        """Return a JetStream context on the present client, waiting up to `timeout` seconds for a connection."""
        await self.wait_connected(timeout)
        domain = self._options.domain
        return self.nc.jetstream(domain=domain) if domain else self.nc.jetstream()

    async def wait_connected(self, timeout: float) -> None:
        """Wait until the connection can be used; BrokerError, with the last reason, if that takes longer than `timeout`."""
        with anyio.move_on_after(timeout):
            while not self.connected:  # noqa: ASYNC110  # the client tells nobody
                await anyio.sleep(0.02)
            return
        raise BrokerError(
            f"cannot reach the broker at {', '.join(self._options.servers)} within {timeout:g}s"
        )

    async def aclose(self) -> None:
        """Close; always returns."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE):
            if self._client is not None:
                await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _dial(self) -> None:
        async def ignore(_: Exception) -> None:
            pass

        client = Client()
        try:
            given = await anyio.to_thread.run_sync(arguments, self._options)
            with anyio.fail_after(DIAL):
                await client.connect(
                    **given,
                    name=f"soakd {self.owner}",
                    error_cb=ignore,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=random.uniform(0.1, 0.3),  # type: ignore[arg-type]  # noqa: S311  # jitter
                    ping_interval=2,
                )
        except (TimeoutError, CredentialsError):
            return
        self._client = client


class Connections:
    """The factory of handles. `handle` shares one for each name, `new` makes one of its own."""

    def __init__(self, broker: Broker, journal: Journal, group: TaskGroup) -> None:
        self._broker, self._journal, self._group = broker, journal, group
        self._shared: dict[str, Handle] = {}
        self._handles: list[Handle] = []

    async def handle(self, name: str = DEFAULT) -> Handle:
        """Return the shared handle of a named connection; it may not be connected yet. BrokerError for an unknown name."""
        if name not in self._shared:
            self._shared[name] = await self.new(name, name)
        return self._shared[name]

    async def new(self, name: str, owner: str) -> Handle:
        """Return a handle of `owner`'s own on a named connection."""
        try:
            options = self._broker.options(name)
        except KeyError:
            raise BrokerError(
                f"there is no connection {name!r}: the broker section has {', '.join(self._broker.names)}"
            ) from None
        handle = Handle(name, owner, options, self._journal)
        self._handles.append(handle)
        await handle._dial()  # noqa: SLF001  # one module
        return handle

    async def aclose(self) -> None:
        """Close all handles."""
        for handle in self._handles:
            await handle.aclose()


@asynccontextmanager
async def open_connections(broker: Broker, journal: Journal) -> AsyncGenerator[Connections]:
    """Give out connections for as long as the context lasts, and close them all after it."""
    async with anyio.create_task_group() as group:
        connections = Connections(broker, journal, group)
        try:
            yield connections
        finally:
            await connections.aclose()
