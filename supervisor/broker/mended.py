"""nats-py's client with what goes wrong in 2.16 put right, so that it can always be dropped, always be closed, and leaves nothing.

Each method says what it mends. Correctness does not hang on this: a client whose canary is not answered is thrown away by its handle,
whatever the cause.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import anyio
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from supervisor.broker.wire import Wire

Callback = Callable[[Msg], Awaitable[None] | None]
"""Takes a message: see `MendedClient.hear`."""

FEW: Final = 16
"""Discovered servers that are kept although no server names them any more."""


def text_of(error: Exception) -> str:
    """Return what an error says: one of the system in its words without a number, one of nats-py without its prefix and quotes."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error).removeprefix("nats: ").strip().strip("'") or repr(error)


async def _done(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait until tasks that were cancelled, or close something, are done."""
    if rest := tasks - {asyncio.current_task()}:
        await asyncio.wait(rest, timeout=1)


class _Straight:
    """What nats-py takes for the future of an answer: it gives it every message of a subscription inside its read loop."""

    def __init__(self, take: Callable[[Msg], object]) -> None:
        self.set_result = take

    def cancelled(self) -> bool:
        return False


class MendedClient(Client):
    """A client of nats-py that can be lost safely."""

    def __init__(self, known: Iterable[Srv] = ()) -> None:
        """`known`: servers to try besides the listed ones, which may be the ones that are away."""
        super().__init__()
        self.failure: Exception | None = None
        """What nats-py did not expect while it reconnected or closed; the client is of no more use."""
        self.trying = ""
        """host:port of the server that it connects to, or connected to last."""
        self.ending = False
        self._known = tuple(known)
        self._transport = self._wire = Wire()
        self._closers: set[asyncio.Task[Any]] = set()

    @property
    def discovered(self) -> tuple[Srv, ...]:
        """The servers it learnt of from other servers."""
        return tuple(server for server in self._server_pool if server.discovered)

    def on_lost(self, error: Exception) -> None:
        """Take note of why a connection ended; called in a task of nats-py."""

    def on_failure(self, error: Exception) -> None:
        """Take note of `failure`; called in a task of nats-py."""

    async def hear(self, subject: str, callback: Callback, queue: str = "") -> Subscription:
        """Subscribe with a coroutine function, called in a task of its own, or with a plain one, called inside the read loop.

        Both take one message after the other. The plain one must neither block nor raise; it saves the queue and the two turns of the
        event loop that nats-py spends on each message of the other.
        """
        if inspect.iscoroutinefunction(callback):
            return await self.subscribe(subject, queue=queue, cb=callback)
        return await self.subscribe(subject, queue=queue, future=_Straight(callback))  # type: ignore[arg-type]  # see there

    async def again(self) -> None:
        """Drop the connection and make a new one, whatever state the client's tasks are in."""
        self._wire.abort()
        await self.force_reconnect()

    async def end(self, grace: float) -> None:
        """Close, sending what is left within `grace` seconds. It always returns, and nothing of the client lives on."""
        self.ending = True
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

    def _setup_server_pool(self, connect_url: list[str]) -> None:
        super()._setup_server_pool(connect_url)
        listed = {server.uri.netloc for server in self._server_pool}
        self._server_pool += [
            Srv(server.uri, discovered=True, tls_name=server.tls_name)
            for server in self._known
            if server.uri.netloc not in listed
        ]

    async def _process_pong(self) -> None:
        """A flush that timed out leaves a cancelled future; setting its result would end the read loop, and nobody would know."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py keeps each address it ever discovered, and tries them all on a reconnect; here the vanished ones are forgotten.

        Not as long as there are few: a server that lost its cluster names no others, and they may be back before it is.
        That its server leaves nats-py only calls back, and forgets; here it stands in the server's description from then on.
        """
        if info.get("ldm"):
            self._server_info["ldm"] = True
        urls = info.get("connect_urls")
        if urls and len(self.discovered) > FEW:
            self._server_pool = [
                server
                for server in self._server_pool
                if not server.discovered or server is self._current_server or server.uri.netloc in urls
            ]
        await super()._process_info(info, initial_connection)

    async def _process_op_err(self, e: Exception) -> None:
        """nats-py does not say why a connection ended."""
        if self.is_connected:
            self.on_lost(e)
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Srv) -> None:
        """nats-py does not say which server an error is about."""
        self.trying = s.uri.netloc
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        """An error nats-py does not expect would stay in a task nobody looks at, the client reconnecting for ever."""
        try:
            await super()._attempt_reconnect()
        except Exception as error:  # noqa: BLE001  # told to the owner, who throws the client away
            self.failure = error
            self.on_failure(error)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """After an `-ERR` nats-py closes in a task of its own: what goes wrong there would be an exception nobody retrieves."""
        self._wire.leaving = True
        task = asyncio.current_task()
        if task is not None:
            self._closers.add(task)
        try:
            await super()._close(status, do_cbs)
        except Exception as error:  # noqa: BLE001  # told to the owner, who ends the client
            self.failure = error
            self.on_failure(error)
        finally:
            if task is not None:
                self._closers.discard(task)
