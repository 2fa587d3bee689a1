"""How a connection heals: the task behind a handle.

Nobody but the canary decides whether the connection is well. While it is answered, the client's own word is enough; when it is not,
the socket is dropped and the client reconnects, and at the same time a new client is built: whichever answers a canary first is used
from then on, the other is ended. So there is no state of nats-py, known or not, that a handle cannot leave.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import Final

import anyio
import anyio.to_thread
import nats.errors
import structlog
from anyio.abc import TaskGroup

from supervisor.broker.client import BrokerError, Client, RejectedError, Signal
from supervisor.broker.credentials import CredentialsError, arguments
from supervisor.broker.options import Options
from supervisor.broker.report import Report
from supervisor.broker.subscribed import Subscribed
from supervisor.journal.base import Emitter

log = structlog.get_logger("soakd.broker")

EVERY: Final = 0.5
"""Seconds from one canary to the next."""
DEADLINE: Final = 0.8
"""Seconds a canary may take. A second one decides, so that a busy event loop of ours is not taken for a dead server."""
BUSY: Final = 8.0
"""Seconds in which a canary may come late as long as other messages come: it stands behind them in the server's queue for us, and a
hundred thousand entries told at once, on a busy machine, take their time. Dropping the connection then would begin it all anew.
"""
PATIENCE: Final = 0.7
"""Seconds a client has to reconnect by itself, which keeps its subscriptions and unsent messages, before a new one is built."""
BACKOFF: Final = 1.2
"""Longest pause in seconds between two attempts to build a client: with the attempt itself it stays below three."""
STABLE: Final = 5.0
"""Seconds a client must have lived for its successor to be built at once: a server that ends each new one is not hammered."""
OVERLAP: Final = 1.0
"""Seconds for which the old and the new connection stand side by side when a server is about to leave."""
DRAIN: Final = 5.0
"""Seconds the old connection has after that for what is on its way."""
GRACE: Final = 0.5
"""Seconds a closing connection has for unsent messages."""


class Healing:
    """Keeps one usable client at hand."""

    def __init__(self, title: str, options: Options, journal: Emitter, *, make_before_break: bool) -> None:
        """`make_before_break`: when its server announces lame-duck mode, move to another one before the server leaves."""
        self.title = title
        """The connection's name, with its owner's where that is another."""
        self._options, self._make_before_break = options, make_before_break
        self._report = Report(title, journal)
        self._noticed, self._signals = anyio.create_memory_object_stream[Signal](64)
        self._client: Client | None = None
        self._leaving: Client | None = None
        self._subscribed: list[Subscribed] = []
        self._used_since = 0.0
        self._bug: Exception | None = None
        self._scope = anyio.CancelScope()
        self._urgent, self._changed, self._tried, self._closed = (anyio.Event() for _ in range(4))

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
                    await self._client.end(GRACE if self._report.up else 0)
            self._report.close(self._client)
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
        client = self._client
        if client is None:
            raise BrokerError(self._report.reason)
        try:
            await client.canary(DEADLINE)
        except RejectedError:
            raise
        except BrokerError:
            await self._look_again(client)
        self._mark_up(client)

    async def _look_again(self, client: Client) -> None:
        """Decide with a second canary, and with further ones that have more time while messages arrive."""
        deadline, end = DEADLINE, time.monotonic() + BUSY
        while True:
            heard = client.stats["in_msgs"]
            try:
                await client.canary(deadline)
            except RejectedError:
                raise
            except BrokerError:
                if client.stats["in_msgs"] == heard or not client.is_connected or time.monotonic() > end:
                    raise
                deadline *= 2
            else:
                return

    async def _rest(self, seconds: float = EVERY) -> None:
        with anyio.move_on_after(seconds):
            await self._urgent.wait()
        if self._urgent.is_set():
            self._urgent = anyio.Event()

    async def _heal(self, group: TaskGroup, error: BrokerError) -> None:
        """Return with a connection whose canary was answered."""
        old = self._client
        if old is not None:
            self._report.mark_down(old, str(error))
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
                    self._mark_up(client)
                    race.cancel()
                    return
            await self._rest(0.1)
        await client.end(0)

    async def _rebuild(self, old: Client | None, race: anyio.CancelScope, group: TaskGroup) -> None:
        young = time.monotonic() - self._used_since < STABLE
        pause = PATIENCE if old is not None and (young or not old.hopeless) else 0.0
        while True:
            await anyio.sleep(pause)
            try:
                self._use(await self._dial())
            except BrokerError as error:
                self._report.reason = str(error)
                if isinstance(error, RejectedError):
                    self._report.refused(old, str(error))
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
            self._report.reason = str(error)
            return
        self._leaving = None
        self._use(new)
        self._report.tell(new, "reconnected", f"moved from {old.server}, which is about to leave")
        self._report.listener("moved")
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
        self._client, self._used_since = client, time.monotonic()
        self._mark_up(client)
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
            self._report.tick()

    def _heed(self, signal: Signal) -> None:
        client = signal.client
        match signal.what:
            case "disconnected" | "closed" | "failed":
                self._report.mark_down(client, client.reason)
            case "rejected":
                self._report.mark_down(client, signal.detail)
                self._report.refused(client, signal.detail)
            case "lame-duck":
                self._report.tell(client, "lame-duck", client.server_title)
                self._leaving = client if self._make_before_break else None
            case "discovered":
                self._report.tell(client, "discovered", signal.detail)
            case "complaint":
                log.warning("the broker complains", connection=self.title, error=signal.detail)
                return
        self._urgent.set()

    def _break(self, error: Exception) -> None:
        self._bug = error
        self._urgent.set()

    def _mark_up(self, client: Client) -> None:
        self._report.mark_up(client)
        self._changed.set()
        self._changed = anyio.Event()
