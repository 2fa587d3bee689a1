"""One client for a handle: it connects in bounded time, answers for its health with a canary and tells what it notices."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import anyio
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from supervisor.broker.mended import MendedClient, text_of
from supervisor.broker.wire import LINGER

CONNECT: Final = 1.0
"""Seconds for each step of a handshake with one server; a paused server accepts and then says nothing."""
FLUSH: Final = 2.0
"""Seconds a publish may wait for room in the outbound buffer."""


class BrokerError(Exception):
    """The broker did not do what was asked within the time for it; the text says what, where and why."""


class RejectedError(BrokerError):
    """The servers answered and refused us; trying again at once is pointless."""


class Signal(NamedTuple):
    """Something a client noticed."""

    client: Client
    what: str
    """disconnected, reconnected, lame-duck, discovered, rejected, closed, failed (it is of no more use) or complaint."""
    detail: str = ""


class Client(MendedClient):
    """nats-py's client for a handle; while it can, it reconnects by itself."""

    def __init__(self, tell: Callable[[Signal], None], before: Client | None = None) -> None:
        """`tell` must neither block nor raise: it is called inside nats-py's read loop.

        Servers that the client `before` discovered are known to this one as well.
        """
        super().__init__(before.discovered if before else ())
        self.reason = "no server has answered yet"
        """Why it is not connected, as far as is known."""
        self._tell = tell
        self._dialling: anyio.CancelScope | None = None
        self._failing: set[str] = set()
        self._refusing: set[str] = set()
        self._echo: Subscription | None = None
        self._canaries: dict[bytes, anyio.Event] = {}
        self._sent = 0
        self._mute = False
        self._deaf = self._complaint = ""

    # --- life --------------------------------------------------------------------------------------------------------

    async def open(self, given: Mapping[str, Any]) -> None:
        """Connect and have the canary answered; each server has its turn once.

        BrokerError says why that could not be; it is a RejectedError if all servers refuse us. Then, and when it is cancelled,
        nothing of it is left.
        """
        opened = False
        deadline = CONNECT * (len(given["servers"]) + len(self._known) + 1)
        try:
            with anyio.move_on_after(deadline) as self._dialling:
                await self.connect(**given, **self._settings())
                await self.canary(CONNECT)
                opened = True
        except BrokerError:
            raise
        except Exception as error:
            raise BrokerError(f"{type(error).__name__}: {error}") from error
        finally:
            self._dialling = None
            if not opened:
                await self.end(0)
        if not opened:
            raise (RejectedError if self._all_in(self._refusing) else BrokerError)(self.reason)
        self._refusing.clear()

    def _settings(self) -> dict[str, Any]:
        return {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "discovered_server_cb": self._on_discovered,
            "lame_duck_mode_cb": self._on_lame_duck,
            "closed_cb": self._on_closed,
            "connect_timeout": CONNECT,
            "flush_timeout": FLUSH,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": random.uniform(0.1, 0.3),  # noqa: S311  # jitter
            "ping_interval": 2,
        }

    async def retire(self, overlap: float, deadline: float) -> None:
        """Finish what is under way, then close; the client that follows it is in use already.

        For `overlap` seconds both receive, until all servers know of the new subscriptions. Then up to `deadline` seconds for what is
        on its way to this one, and `overlap` more for answers that callbacks left to others.
        """
        self.options["allow_reconnect"] = False
        try:
            await anyio.sleep(overlap)
            with anyio.move_on_after(deadline):
                await self._run_dry(deadline)
                await anyio.sleep(overlap)
        finally:
            await self.end(LINGER)

    async def _run_dry(self, deadline: float) -> None:
        """Do what nats-py's `drain` does, whose flush would break the read loop if it timed out."""
        answers = (self._resp_sub_prefix or bytearray(b" ")).decode()
        dry = [s for s in self._subs.values() if s is not self._echo and not s.subject.startswith(answers)]
        for sub in dry:
            await self._send_unsubscribe(sub._id)  # noqa: SLF001  # `unsubscribe` would throw away what has arrived
        try:
            await self.canary(deadline)  # it comes after everything that was sent to us before
        except BrokerError:
            return
        for sub in dry:
            await sub._pending_queue.join()  # noqa: SLF001  # no public way
        while self._resp_map:  # noqa: ASYNC110  # nats-py tells nobody about answered requests
            await anyio.sleep(0.01)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def hopeless(self) -> bool:
        """Whether it will not connect again by itself, or only to be refused again."""
        return self.is_closed or self.failure is not None or bool(self._deaf) or self._all_in(self._refusing)

    @property
    def server(self) -> str:
        """host:port of the server it is connected to, or was last."""
        return self._current_server.uri.netloc if self._current_server else ""

    @property
    def server_id(self) -> str:
        """The server's own id, which a restart changes."""
        return str(self._server_info.get("server_id", ""))

    @property
    def server_title(self) -> str:
        """Name and version of the server."""
        return f"{self._server_info.get('server_name', '?')} {self._server_info.get('version', '?')}"

    async def canary(self, deadline: float) -> float:
        """Publish to a subject of our own and return the seconds until it came back; BrokerError after `deadline` seconds.

        The subject lies in our own inbox, where every client that makes requests may subscribe. A client that may not publish there
        (the server says so, which is an answer as well) sends protocol pings from then on.
        """
        start = time.monotonic()
        if not self.is_connected:
            raise BrokerError(f"not connected: {self.reason}")
        self._sent += 1
        token = b"%d" % self._sent
        answered = self._canaries[token] = anyio.Event()
        try:
            with anyio.move_on_after(deadline):
                await self._send_canary(token, answered)
                await answered.wait()
        except (nats.errors.Error, OSError) as error:
            raise BrokerError(f"the canary could not be sent to {self.server}: {error}") from error
        finally:
            del self._canaries[token]
        if self._deaf:
            raise RejectedError(self._deaf)
        if not answered.is_set():
            raise BrokerError(f"{self.server} did not answer the canary within {deadline:g}s")
        return time.monotonic() - start

    async def _send_canary(self, token: bytes, answered: anyio.Event) -> None:
        if self._mute:
            pong = asyncio.get_running_loop().create_future()
            pong.add_done_callback(
                lambda _: answered.set()
            )  # never awaited, so never cancelled: see `_process_pong`
            await self._send_ping(pong)
            return
        if self._echo is None:
            self._echo = await self.subscribe(self.new_inbox(), cb=self._on_echo)
        await self.publish(self._echo.subject, token)

    async def _on_echo(self, msg: Msg) -> None:
        if answered := self._canaries.get(msg.data):
            answered.set()

    def _on_forbidden(self, text: str) -> None:
        """Take the server's word that our own inbox is not ours."""
        if "subscription" in text:
            self._deaf = (
                f"{text}: let this user subscribe to its inbox, or set inbox_prefix in the broker section"
            )
        self._mute = True
        for answered in self._canaries.values():
            answered.set()

    def _all_in(self, servers: set[str]) -> bool:
        return all(server.uri.netloc in servers for server in self._server_pool)

    # --- nats-py's callbacks, inside its read loop ---------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        text = text_of(error)
        if self._echo is not None and self._echo.subject.lower() in text.lower():
            self._on_forbidden(text.lower())
        elif not self.is_connected:
            self._on_attempt_failed(error, text)
        elif text != self._complaint and not isinstance(error, OSError | nats.errors.UnexpectedEOF):
            self._complaint = text  # a slow subscription, a missing permission: the connection itself is well
            self._tell(Signal(self, "complaint", text))

    def _on_attempt_failed(self, error: Exception, text: str) -> None:
        if isinstance(error, TimeoutError | nats.errors.TimeoutError):
            text = f"no answer within {CONNECT:g}s"
        elif self.is_connecting and isinstance(error, ConnectionError):
            text += " in the handshake: wrong credentials or TLS settings can look like this"
        self.reason = f"{self.trying}: {text}"
        self._failing.add(self.trying)
        if isinstance(error, ssl.SSLError) or str(error).startswith("nats: '"):
            self._refusing.add(self.trying)
            self._tell(Signal(self, "rejected", self.reason))
        if self._dialling is not None and self._all_in(self._failing):
            self._dialling.cancel()  # all servers had their turn; when to try again is the handle's business

    def on_lost(self, error: Exception) -> None:
        """Remember why."""
        self.reason = f"{self.server}: {text_of(error)}"

    def on_failure(self, error: Exception) -> None:
        """Tell the handle."""
        self.reason = f"{self.trying}: {error!r}"
        self._tell(Signal(self, "failed"))

    async def _on_disconnected(self) -> None:
        self._tell(Signal(self, "disconnected"))

    async def _on_reconnected(self) -> None:
        self._refusing.clear()
        self._deaf = ""
        self._tell(Signal(self, "reconnected"))

    async def _on_discovered(self) -> None:
        self._tell(Signal(self, "discovered", ", ".join(url.netloc for url in self.discovered_servers)))

    async def _on_lame_duck(self) -> None:
        self._tell(Signal(self, "lame-duck"))

    async def _on_closed(self) -> None:
        if self.last_error is not None and not self.ending:  # an -ERR: nats-py closes for good
            self.reason = f"{self.server}: {text_of(self.last_error)}"
            self._tell(Signal(self, "rejected", self.reason))
        self._tell(Signal(self, "closed"))
