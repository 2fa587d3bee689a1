"""A stable handle on the broker, as its owner sees it; `healing` is the task behind it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from supervisor.broker.client import BrokerError, Client
from supervisor.broker.healing import Healing
from supervisor.broker.mended import Callback
from supervisor.broker.options import Options
from supervisor.broker.subscribed import Subscribed
from supervisor.journal.base import Emitter

log = structlog.get_logger("soakd.broker")


class Handle(Healing):
    """One connection to the broker, for as long as its owner wants it. It comes from `Connections`."""

    def __init__(
        self, name: str, owner: str, options: Options, journal: Emitter, *, make_before_break: bool = False
    ) -> None:
        """`make_before_break`: move to another server before one that announced lame-duck mode leaves.

        Then no request fails and no event is lost, but subscriptions get some events twice.
        """
        title = name if owner == name else f"{name} ({owner})"
        super().__init__(title, options, journal, make_before_break=make_before_break)
        self.name, self.owner = name, owner

    def listen(self, listener: Callable[[str], None]) -> None:
        """Hear of each change of state as it happens, and `moved` of a move before a break; replaces who listened before."""
        self._report.listener = listener

    @property
    def nc(self) -> Client:
        """The present client: ask for it each time, healing may replace it. BrokerError as long as there never was one."""
        if self._client is None:
            raise BrokerError(self._unusable())
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the connection can be used, as far as is known: the last canary was answered, and nothing happened since."""
        return self._report.up and self._client is not None and self._client.is_connected

    async def canary(self, deadline: float = 1.0) -> float:
        """Send a message to ourselves through the server and return its round trip in seconds; BrokerError after `deadline`."""
        return await self.nc.canary(deadline)

    async def request(
        self, subject: str, data: bytes = b"", timeout: float = 2.0, headers: dict[str, str] | None = None
    ) -> Msg:
        """Send a request and return the answer.

        nats.errors.TimeoutError after `timeout` seconds, NoRespondersError if nobody listens, other nats.errors.Error as they come;
        BrokerError as long as there never was a connection.
        """
        return await self.nc.request(subject, data, timeout=timeout, headers=headers)

    async def jetstream(self, timeout: float = 5.0) -> JetStreamContext:
        """Return a JetStream context (of the domain, if there is one) on the present client.

        Waits up to `timeout` seconds for a connection, then BrokerError. Like `nc` it is for now, not to be kept.
        """
        await self.wait_connected(timeout)
        domain = self._options.domain
        return self.nc.jetstream(domain=domain) if domain else self.nc.jetstream()

    @property
    def api_prefix(self) -> str:
        """Where the JetStream API is, seen from this connection."""
        return f"$JS.{self._options.domain}.API" if self._options.domain else "$JS.API"

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> Subscribed:
        """Subscribe until `unsubscribe()` of what is returned, also on clients to come.

        `callback` must not raise: an exception of it ends the handle's task, so that it does not go unseen. BrokerError if the handle
        is closed; a connection that is away at the moment is no error.
        """
        if self._closed.is_set():
            raise BrokerError(self._unusable())
        sub = Subscribed(subject, queue, callback, self._subscribed.remove, self._break)
        self._subscribed.append(sub)
        if self._client is not None:
            try:
                await sub.make(self._client)
            except nats.errors.BadSubjectError:
                self._subscribed.remove(sub)
                raise
            except nats.errors.Error as error:
                log.debug("subscribed later, on the next client", subject=subject, error=str(error))
        return sub

    async def wait_connected(self, timeout: float) -> None:
        """Wait until the connection can be used; BrokerError, saying why it cannot, after `timeout` seconds."""
        with anyio.move_on_after(timeout):
            while not self.connected and not self._closed.is_set():
                await self._changed.wait()
        if not self.connected:
            raise BrokerError(f"{self._unusable()}; waited {timeout:g}s")

    async def wait_tried(self) -> None:
        """Wait until the first attempt to connect has succeeded or failed."""
        await self._tried.wait()

    async def aclose(self) -> None:
        """Close; what is unsent has half a second. Always returns, and leaves nothing behind."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _unusable(self) -> str:
        reason = "it is closed" if self._closed.is_set() else self._report.reason
        return (
            f"cannot use the broker at {', '.join(self._options.servers)} (connection {self.title}): {reason}"
        )
