"""nats-py's client, made safe to lose: it can always be aborted, always be closed, and leaves nothing behind.

`Wire` and the last section here reach into nats-py where 2.16 goes wrong; each place says how. Correctness does not hang on them: a
client whose canary is not answered is thrown away by its handle, whatever the cause.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import anyio
import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.client import Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from supervisor.broker.wire import LINGER, Wire

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
    """disconnected, reconnected, lame-duck, discovered, rejected, closed, failed (it gave up reconnecting) or complaint."""
    detail: str = ""


def _text(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip().strip("'") or repr(error)


async def _done(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until tasks that were cancelled, or close something, are done."""
    if rest := tasks - {asyncio.current_task()}:
        await asyncio.wait(rest, timeout=1)


class Client(NatsClient):
    """One client of nats-py for a handle; it reconnects by itself and tells what it notices."""

    def __init__(self, tell: Callable[[Signal], None], before: Client | None = None) -> None:
        """`tell` must neither block nor raise: it is called inside nats-py's read loop.

        Servers that the client `before` discovered are known to this one as well.
        """
        super().__init__()
        self._known = before.discovered if before else ()
        self.reason = "no server has answered yet"
        """Why it is not connected, as far as is known."""
        self.refusing: set[str] = set()
        """Servers that refused it since it was last connected."""
        self.stuck = False
        """Its reconnect ended with an error nats-py does not expect; it will never connect again."""
        self._tell = tell
        self._transport = self._wire = Wire()
        self._trying = ""
        self._dialling: anyio.CancelScope | None = None
        self._closers: set[asyncio.Task[Any]] = set()
        self._echo: Subscription | None = None
        self._canaries: dict[bytes, anyio.Event] = {}
        self._failing: set[str] = set()
        self._sent = 0
        self._muted = self._complaint = ""
        self._ending = False

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
            raise (RejectedError if self._all_in(self.refusing) else BrokerError)(self.reason)
        self.refusing.clear()

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

    async def end(self, grace: float) -> None:
        """Close, sending what is left within `grace` seconds. It always returns, and nothing of the client lives on."""
        self._ending = True
        with anyio.CancelScope(shield=True):
            tasks = self._tasks()
            timer = asyncio.get_running_loop().call_later(grace, self._wire.retire)
            if self._flush_queue is not None:  # else it never got as far as having anything to close
                await self.close()
            timer.cancel()
            self._wire.retire()
            await _done(self._closers)
            if self._flush_queue is not None:
                self._status = self.DISCONNECTED  # a close of nats-py's own may have ended half-way
                await self._close(self.CLOSED, do_cbs=False)
            await _done(tasks | self._tasks())

    def _tasks(self) -> set[asyncio.Task[Any]]:
        loops = (self._reading_task, self._ping_interval_task, self._flusher_task, self._reconnection_task)
        readers = (sub._wait_for_msgs_task for sub in self._subs.values())  # noqa: SLF001  # no public way
        return {task for task in (*loops, *readers) if task is not None}

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

    async def again(self) -> None:
        """Drop the connection and let the client make a new one, whatever state its tasks are in."""
        self._wire.abort()
        await self.force_reconnect()

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def hopeless(self) -> bool:
        """Whether it will not connect again by itself, or only to be refused again."""
        return self.is_closed or self.stuck or self._all_in(self.refusing)

    @property
    def discovered(self) -> tuple[Srv, ...]:
        """The servers it learnt of from other servers."""
        return tuple(server for server in self._server_pool if server.discovered)

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

        The subject lies in our own inbox, where every client that makes requests may subscribe. A server that forbids us to
        publish there says so, which is an answer as well.
        """
        start = time.monotonic()
        if not self.is_connected:
            raise BrokerError(f"not connected: {self.reason}")
        self._sent += 1
        token = b"%d" % self._sent
        answered = self._canaries[token] = anyio.Event()
        try:
            with anyio.move_on_after(deadline):
                if self._echo is None:
                    self._echo = await self.subscribe(self.new_inbox(), cb=self._on_echo)
                await self.publish(self._echo.subject, token)
                await answered.wait()
        except (nats.errors.Error, OSError) as error:
            raise BrokerError(f"the canary could not be sent to {self.server}: {error}") from error
        finally:
            del self._canaries[token]
        if self._muted:
            raise RejectedError(self._muted)
        if not answered.is_set():
            raise BrokerError(f"{self.server} did not answer the canary within {deadline:g}s")
        return time.monotonic() - start

    async def _on_echo(self, msg: Msg) -> None:
        if answered := self._canaries.get(msg.data):
            answered.set()

    def _all_in(self, servers: set[str]) -> bool:
        return all(server.uri.netloc in servers for server in self._server_pool)

    # --- nats-py's callbacks, inside its read loop ---------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        text = _text(error)
        if self._echo is not None and self._echo.subject.lower() in text.lower():
            if "subscription" in text.lower():
                self._muted = (
                    f"{text}: let this user subscribe to its inbox, or set inbox_prefix in the broker section"
                )
            for answered in self._canaries.values():
                answered.set()
        elif self.is_connected:  # a slow subscription, a missing permission: the connection itself is well
            if text != self._complaint and not isinstance(error, nats.errors.UnexpectedEOF):
                self._complaint = text
                self._tell(Signal(self, "complaint", text))
        else:
            if isinstance(error, TimeoutError | nats.errors.TimeoutError):
                text = f"no answer within {CONNECT:g}s"
            elif self.is_connecting and isinstance(error, ConnectionError):
                text += " in the handshake: wrong credentials or TLS settings can look like this"
            self.reason = f"{self._trying}: {text}"
            if isinstance(error, ssl.SSLError) or str(error).startswith("nats: '"):
                self.refusing.add(self._trying)
                self._tell(Signal(self, "rejected", self.reason))
            self._failing.add(self._trying)
            if self._dialling is not None and self._all_in(self._failing):
                self._dialling.cancel()  # all servers had their turn; when to try again is the handle's business

    async def _on_disconnected(self) -> None:
        self._tell(Signal(self, "disconnected"))

    async def _on_reconnected(self) -> None:
        self.refusing.clear()
        self._muted = ""
        self._tell(Signal(self, "reconnected"))

    async def _on_discovered(self) -> None:
        self._tell(Signal(self, "discovered", ", ".join(url.netloc for url in self.discovered_servers)))

    async def _on_lame_duck(self) -> None:
        self._tell(Signal(self, "lame-duck"))

    async def _on_closed(self) -> None:
        if self.last_error is not None and not self._ending:  # an -ERR: nats-py closes for good
            self.reason = f"{self.server}: {_text(self.last_error)}"
            self._tell(Signal(self, "rejected", self.reason))
        self._tell(Signal(self, "closed"))

    # --- where nats-py goes wrong --------------------------------------------------------------------------------------

    async def _process_pong(self) -> None:
        """Put right what a timed-out flush leaves: a cancelled future, whose result would end the read loop unnoticed."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Forget vanished servers: nats-py keeps each address it ever discovered, and tries them all on a reconnect."""
        if urls := info.get("connect_urls"):
            self._server_pool = [
                server
                for server in self._server_pool
                if not server.discovered or server is self._current_server or server.uri.netloc in urls
            ]
        await super()._process_info(info, initial_connection)

    def _setup_server_pool(self, connect_url: list[str]) -> None:
        """Begin with more than the listed servers: those may be the ones that are away."""
        super()._setup_server_pool(connect_url)
        listed = {server.uri.netloc for server in self._server_pool}
        self._server_pool += [
            Srv(server.uri, discovered=True, tls_name=server.tls_name)
            for server in self._known
            if server.uri.netloc not in listed
        ]

    async def _process_op_err(self, e: Exception) -> None:
        """Remember why a connection ended; nats-py does not say."""
        if self.is_connected:
            self.reason = f"{self.server}: {_text(e)}"
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Srv) -> None:
        """Remember whom an error is about; nats-py does not say."""
        self._trying = s.uri.netloc
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        """Catch what nats-py does not expect: it would stay in a task nobody looks at, the client reconnecting for ever."""
        try:
            await super()._attempt_reconnect()
        except Exception as error:  # noqa: BLE001  # told to the handle, which throws the client away
            self.stuck, self.reason = True, f"{type(error).__name__}: {error}"
            self._tell(Signal(self, "failed", self.reason))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Let unsent bytes be no error: after an `-ERR` nats-py closes in a task of its own, where nobody would see it."""
        self._wire.leaving = True
        task = asyncio.current_task()
        if task is not None:
            self._closers.add(task)
        try:
            await super()._close(status, do_cbs)
        except Exception as error:  # noqa: BLE001  # told to the handle, which ends the client
            self.reason = f"{self.server}: {_text(error)}"
            self._tell(Signal(self, "failed", self.reason))
        finally:
            if task is not None:
                self._closers.discard(task)
