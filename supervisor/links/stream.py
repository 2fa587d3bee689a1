"""One direction of a connection: what comes from one end goes to the other, through the shape of the moment.

Nothing that was read is dropped, duplicated or overtaken, whatever becomes of the shape meanwhile: it waits in one queue, bounded in
bytes, and its end (or its reset) waits there behind it. While the queue is full nothing is read, so the sender's own flow control works.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

import anyio

from supervisor.links.toxics import Shape, chance

ROOM: Final = 1024 * 1024
"""Bytes that a direction holds at most, and one `READ` more: what a connection can have on its way through a link with latency."""
READ: Final = 256 * 1024
_BUFFER: Final = memoryview(bytearray(READ))
"""Shared: it is filled and emptied without a pause in between."""


class End(Enum):
    """How the sender of a direction ended it."""

    FIN = "fin"
    RST = "rst"


@dataclass(slots=True)
class Lane:
    """One direction of a link, for all of its connections."""

    shape: Shape
    bytes: int = 0
    """Delivered so far."""

    def reshape(self, shape: Shape) -> None:
        """Replace the shape; whoever waits looks anew."""
        before, self.shape = self.shape, shape
        before.changed.set()


@dataclass(slots=True)
class _Held:
    """Something on its way: bytes, or the end."""

    what: memoryview | End
    came: float
    chance: float


class Stream:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, lane: Lane) -> None:
        self._source, self._sink, self._lane = source, sink, lane
        self._held: deque[_Held] = deque()
        self._bytes = 0
        self._news = anyio.Event()
        self._pause = anyio.Event()
        """Set once nothing more is read for the moment."""
        self._ended = False

    async def run(self) -> End:
        """Carry everything to its end; return how that was. ConnectionError if the receiver is gone."""
        failure: OSError | None = None
        end = End.RST
        async with anyio.create_task_group() as group:
            group.start_soon(self._read)
            try:
                end = await self._write()
            except OSError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise ConnectionError from failure
        return end

    # --- in ----------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read until the sender ends it, whenever there is room.

        The loop calls `_take` itself as long as there is something to read: a task that were woken for each answer to a request, and
        registered anew for the next one, would take as long as all the rest.
        """
        loop = asyncio.get_running_loop()
        while not self._ended:
            while self._bytes >= ROOM:
                await self._news.wait()
            self._pause = anyio.Event()
            loop.add_reader(self._source, self._take, loop)
            try:
                await self._pause.wait()
            finally:
                loop.remove_reader(self._source)

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read what is there. Bytes that nothing waits before, and nothing is done to, go on at once."""
        try:
            size = self._source.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            self._hold(End.RST)
            self._ended = True
        else:
            if size:
                self._pass_on(size)
            else:
                self._hold(End.FIN)
                self._ended = True
        if self._ended or self._bytes >= ROOM:
            loop.remove_reader(
                self._source
            )  # it would be called again before the task that waits has its turn
            self._pause.set()

    def _pass_on(self, size: int) -> None:
        """Send on, or hold, so many bytes of the buffer."""
        sent = self._send(_BUFFER[:size]) if not self._held and self._lane.shape.plain else 0
        if sent < size:
            self._bytes += size - sent
            self._hold(memoryview(bytes(_BUFFER[sent:size])))

    def _send(self, data: memoryview) -> int:
        """Send what can be sent now and return how much that is; the writer will see what is wrong with the receiver."""
        try:
            sent = self._sink.send(data)
        except OSError:
            return 0
        self._lane.bytes += sent
        return sent

    def _hold(self, what: memoryview | End) -> None:
        self._held.append(_Held(what, time.monotonic(), chance()))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # --- out ---------------------------------------------------------------------------------------------------------

    async def _write(self) -> End:
        """Deliver what is held, in order; return how it ended. OSError if the receiver is gone."""
        while True:
            while not self._held:
                await self._news.wait()
            first = self._held[0]
            if isinstance(first.what, End):
                await self._due(first)
                if first.what is End.FIN:
                    self._sink.shutdown(socket.SHUT_WR)
                return first.what
            await self._deliver(first, first.what)
            self._held.popleft()
            self._tell()

    async def _due(self, held: _Held) -> Shape:
        """Wait until something has travelled and is let through; return the shape that says so."""
        while True:
            shape = self._lane.shape
            if shape.blocked:
                await shape.changed.wait()
            elif await shape.until(held.came + shape.delay(held.chance)):
                return shape

    async def _deliver(self, held: _Held, data: memoryview) -> None:
        while data:
            shape = await self._due(held)
            size = min(len(data), shape.piece)
            if not await shape.booked(size, held.came + shape.delay(held.chance)):
                continue
            try:
                sent = self._sink.send(data[:size])
            except BlockingIOError:
                sent = 0
            self._lane.bytes += sent
            self._bytes -= sent
            data = data[sent:]
            if sent < size:
                shape.give_back(size - sent)
                await anyio.wait_writable(self._sink)
            elif shape.gap:
                await shape.until(time.monotonic() + shape.gap)
