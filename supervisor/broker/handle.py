"""A stable handle on the broker that heals inside.

Nobody but the canary decides whether the connection is well. While it is answered, the client's own word is enough; when it is not,
the handle drops the socket and lets the client reconnect, and at the same time tries to build a new client: whichever answers a
canary first is used from then on, the other is ended. So there is no state of nats-py, known or not, that a handle cannot leave.
"""

from __future__ import annotations

import contextlib
import random
import time
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import anyio.to_thread
import nats.errors
import structlog
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from supervisor.broker.changes import Changes
from supervisor.broker.client import BrokerError, Client, RejectedError, Signal
from supervisor.broker.credentials import CredentialsError, arguments
from supervisor.broker.options import Options
from supervisor.broker.subscribed import Callback, Subscribed
from supervisor.journal.base import Emitter
from supervisor.journal.events import BrokerChanged

log = structlog.get_logger("soakd.broker")

EVERY: Final = 0.5
"""Seconds from one canary to the next."""
DEADLINE: Final = 0.8
"""Seconds a canary may take. A second one decides, so that a busy event loop of ours is not taken for a dead server."""
PATIENCE: Final = 0.7
"""Seconds a client has to reconnect by itself, which keeps its subscriptions and unsent messages, before a new one is built."""
BACKOFF: Final = 1.2
"""Longest pause in seconds between two attempts to build a client: with the attempt itself it stays below three."""
OVERLAP: Final = 1.0
"""Seconds for which the old and the new connection stand side by side when a server is about to leave."""
DRAIN: Final = 5.0
"""Seconds the old connection has after that for what is on its way."""
GRACE: Final = 0.5
"""Seconds a closing connection has for unsent messages."""

State = Literal["connected", "disconnected", "reconnected", "lame-duck", "discovered", "rejected", "closed"]


class Handle:
    """One connection to the broker, for as long as its owner wants it. It comes from `Connections`."""

    def __init__(
        self, name: str, owner: str, options: Options, journal: Emitter, *, make_before_break: bool = False
    ) -> None:
        """`make_before_break`: when its server announces lame-duck mode, move to another one before the server leaves.

        Then no request fails and no event is lost, but subscriptions get some events twice.
        """
        self.name, self.owner = name, owner
        self.title = name if owner == name else f"{name} ({owner})"
        self._options, self._make_before_break = options, make_before_break
        self._changes = Changes(journal.emit)
        self._noticed, self._signals = anyio.create_memory_object_stream[Signal](64)
        self._client: Client | None = None
        self._leaving: Client | None = None
        self._subscribed: list[Subscribed] = []
        self._up = self._ever = False
        self._down_since = time.monotonic()
        self._reason, self._refusal = "no server has answered yet", ""
        self._bug: Exception | None = None
        self._scope = anyio.CancelScope()
        self._urgent, self._changed, self._tried, self._closed = (anyio.Event() for _ in range(4))

    # --- for its owner -------------------------------------------------------------------------------------------------

    @property
    def nc(self) -> Client:
        """The present client: ask for it each time, healing may replace it. BrokerError as long as there never was one."""
        if self._client is None:
            raise BrokerError(self._unusable())
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the connection can be used, as far as is known: the last canary was answered, and nothing happened since."""
        return self._up and self._client is not None and self._client.is_connected

    async def canary(self, deadline: float = 1.0) -> float:
        """Send a message to ourselves through the server and return its round trip in seconds; BrokerError after `deadline`."""
        return await self.nc.canary(deadline)

    async def request(
        self, subject: str, data: bytes = b"", timeout: float = 2.0, headers: dict[str, str] | None = None
    ) -> Msg:
        """Send a request and return the answer.

        nats.errors.TimeoutError after `timeout` seconds, NoRespondersError if nobody listens, other nats.errors.Error as they come.
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

    # --- its task --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection usable until it is closed or cancelled."""
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen)
                    await self._tend(group)
        finally:
            with anyio.CancelScope(shield=True):
                if self._client is not None:
                    await self._client.end(GRACE if self._up else 0)
            if self._ever:
                self._report("closed")
            self._changes.flush()
            self._up = False
            self._noticed.close()
            self._signals.close()
            for event in (self._closed, self._changed, self._tried):
                event.set()

    async def _tend(self, group: TaskGroup) -> None:
        while True:
            try:
                await self._look()
            except BrokerError as error:
                await self._heal(group, error)
            await self._rest()
            if self._bug is not None:
                raise self._bug
            if self._leaving is not None:
                await self._move(group, self._leaving)

    async def _look(self) -> None:
        client = self.nc
        try:
            await client.canary(DEADLINE)
        except RejectedError:
            raise
        except BrokerError:
            await client.canary(DEADLINE)
        self._mark_up()

    async def _rest(self, seconds: float = EVERY) -> None:
        with anyio.move_on_after(seconds):
            await self._urgent.wait()
        if self._urgent.is_set():
            self._urgent = anyio.Event()

    # --- healing ---------------------------------------------------------------------------------------------------------

    async def _heal(self, group: TaskGroup, error: BrokerError) -> None:
        """Return with a connection whose canary was answered."""
        old = self._client
        if old is not None:
            self._mark_down(str(error))
            if old.is_connected:
                await old.again()
        async with anyio.create_task_group() as race:
            if old is not None:
                race.start_soon(self._comes_back, old, race.cancel_scope)
            race.start_soon(self._rebuild, old, race.cancel_scope, group)

    async def _comes_back(self, client: Client, race: anyio.CancelScope) -> None:
        while not client.hopeless:
            if client.is_connected:
                try:
                    await client.canary(DEADLINE)
                except BrokerError:
                    await client.again()
                else:
                    self._mark_up()
                    race.cancel()
                    return
            await self._rest(0.1)
        await client.end(0)

    async def _rebuild(self, old: Client | None, race: anyio.CancelScope, group: TaskGroup) -> None:
        pause = 0.0 if old is None or old.hopeless else PATIENCE
        while True:
            await anyio.sleep(pause)
            try:
                self._use(await self._dial())
            except BrokerError as error:
                self._reason = str(error)
                if isinstance(error, RejectedError):
                    self._refused(str(error))
                self._tried.set()
            else:
                if old is not None:
                    group.start_soon(old.end, 0)
                race.cancel()
                return
            pause = min(max(pause, 0.1) * 1.6, BACKOFF) * random.uniform(0.7, 1)  # noqa: S311  # jitter

    async def _move(self, group: TaskGroup, old: Client) -> None:
        """Make before break: a new connection to another server, then the old one runs dry."""
        if old is not self._client or not old.is_connected:
            self._leaving = None
            return
        try:
            new = await self._dial(avoid=old.server_id)
        except BrokerError as error:  # tried again after the next canary, as long as the old one lives
            self._reason = str(error)
            return
        self._leaving = None
        self._use(new)
        self._report("reconnected", f"moved from {old.server}, which is about to leave")
        group.start_soon(old.retire, OVERLAP, DRAIN)

    async def _dial(self, avoid: str = "") -> Client:
        """Return a new client whose canary was answered, with all subscriptions made on it."""
        try:
            given = await anyio.to_thread.run_sync(arguments, self._options, abandon_on_cancel=True)
        except CredentialsError as error:
            raise RejectedError(str(error)) from error
        client = Client(self._notice, self._client)
        await client.open(given | {"name": f"soakd {self.title}"})
        try:
            await self._fit(client, avoid)
        except BaseException:
            await client.end(0)
            raise
        return client

    async def _fit(self, client: Client, avoid: str) -> None:
        if client.server_id == avoid:
            raise BrokerError(f"{client.server} is the server that is about to leave")
        try:
            while missing := [sub for sub in self._subscribed if not sub.made(client)]:
                await missing[0].make(client)
        except nats.errors.Error as error:
            raise BrokerError(f"{client.server}: {error}") from error

    def _use(self, client: Client) -> None:
        self._client = client
        self._mark_up()
        self._tried.set()

    # --- what happened ---------------------------------------------------------------------------------------------------

    def _notice(self, signal: Signal) -> None:
        """Take a client's signal, in its read loop. One that finds no room is only missed: the canary notices all the same."""
        with contextlib.suppress(anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._noticed.send_nowait(signal)

    async def _listen(self) -> None:
        while True:
            with anyio.move_on_after(1):
                signal = await self._signals.receive()
                if signal.client is self._client:
                    self._heed(signal)
            self._changes.tick()

    def _heed(self, signal: Signal) -> None:
        match signal.what:
            case "disconnected" | "closed" | "failed":
                self._mark_down(signal.client.reason)
            case "rejected":
                self._mark_down(signal.detail)
                self._refused(signal.detail)
            case "lame-duck":
                self._report("lame-duck", signal.client.server_title)
                self._leaving = signal.client if self._make_before_break else None
            case "discovered":
                self._report("discovered", signal.detail)
            case "complaint":
                log.warning("the broker complains", connection=self.title, error=signal.detail)
                return
        self._urgent.set()

    def _break(self, error: Exception) -> None:
        self._bug = error
        self._urgent.set()

    def _mark_up(self) -> None:
        if self._up:
            return
        took = f", after {time.monotonic() - self._down_since:.1f}s" if self._ever else ""
        self._up, self._refusal = True, ""
        self._report("reconnected" if self._ever else "connected", f"{self.nc.server_title}{took}")
        self._ever = True
        self._changed.set()
        self._changed = anyio.Event()

    def _mark_down(self, reason: str) -> None:
        self._reason = reason
        if self._up:
            self._up, self._down_since = False, time.monotonic()
            self._report("disconnected", reason)

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            self._refusal = reason
            self._report("rejected", reason)

    def _report(self, state: State, detail: str = "") -> None:
        server = self._client.server if self._client is not None else ""
        self._changes.offer(BrokerChanged(connection=self.title, state=state, server=server, detail=detail))

    def _unusable(self) -> str:
        reason = "it is closed" if self._closed.is_set() else self._reason
        return (
            f"cannot use the broker at {', '.join(self._options.servers)} (connection {self.title}): {reason}"
        )
