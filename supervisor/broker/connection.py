"""Connections to the broker by name: `open_connections` gives out handles and closes them all at its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from supervisor.broker.client import BrokerError, Client, RejectedError
from supervisor.broker.handle import Handle
from supervisor.broker.options import DEFAULT, Broker
from supervisor.broker.subscribed import Subscribed
from supervisor.journal.base import Emitter

__all__ = [
    "BrokerError",
    "Client",
    "Connections",
    "Handle",
    "RejectedError",
    "Subscribed",
    "open_connections",
]


class Connections:
    """The factory of handles: `handle` shares one for each name, `new` makes one of its owner's own."""

    def __init__(self, broker: Broker, journal: Emitter, group: TaskGroup) -> None:
        self.broker = broker
        self._journal, self._group = journal, group
        self._shared: dict[str, Handle] = {}

    async def handle(self, name: str = DEFAULT) -> Handle:
        """Return the shared handle of a named connection, once its first attempt to connect has ended one way or the other.

        It may not be connected: `wait_connected` says. BrokerError for a name that the broker section does not have.
        """
        if name not in self._shared:
            self._shared[name] = self._open(name, name, make_before_break=False)
        await self._shared[name].wait_tried()
        return self._shared[name]

    async def new(self, name: str, owner: str, *, make_before_break: bool = False) -> Handle:
        """Return a handle of `owner`'s own on a named connection, as `handle` does; close it with `aclose` or `async with`."""
        handle = self._open(name, owner, make_before_break=make_before_break)
        await handle.wait_tried()
        return handle

    def _open(self, name: str, owner: str, *, make_before_break: bool) -> Handle:
        try:
            options = self.broker.options(name)
        except KeyError:
            known = ", ".join(self.broker.names)
            raise BrokerError(f"there is no connection {name!r}: the broker section has {known}") from None
        handle = Handle(name, owner, options, self._journal, make_before_break=make_before_break)
        self._group.start_soon(handle.run, name=f"connection {handle.title}")
        return handle


@asynccontextmanager
async def open_connections(broker: Broker, journal: Emitter) -> AsyncGenerator[Connections]:
    """Give out connections for as long as the context lasts; close all of them at its end, each within about a second."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            yield Connections(broker, journal, group)
        except Exception as error:  # noqa: BLE001  # raised below as it is, not as part of a group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
