"""The journal as the rooms hold it: stamps and queues on the event loop, and tells what was written.

The thread behind it (`thread.py`) owns every file descriptor. Records reach listeners and commits return only after they are written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from supervisor.journal.appender import SEGMENT
from supervisor.journal.base import JournalError, Listener, Log
from supervisor.journal.events import Event, JournalTrouble, Record
from supervisor.journal.files import RotatedLog, make_durable, write_atomically
from supervisor.journal.lines import CLOCK_DIGITS, encode
from supervisor.journal.segments import Disk
from supervisor.journal.thread import Call, Item, WriterThread, crash

T = TypeVar("T")
Clock = Callable[[], float]

QUEUE: Final = 20_000
"""Records that may wait for the thread; more are dropped and counted."""
COMMIT_TIMEOUT: Final = 30.0
CLOSE_TIMEOUT: Final = 5.0
BUDGET: Final = 64_000_000
"""Bytes of all segments above which windows are folded into coarser ones."""


class JournalWriter:
    """The journal of one run. All methods belong to the event loop's thread, and only the awaited ones wait."""

    def __init__(
        self, run_dir: Path, *, disk: Disk, segment: int, budget: int, wall: Clock, mono: Clock
    ) -> None:
        self.run_dir = run_dir
        self._wall, self._mono = wall, mono
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._listeners: dict[object, Listener] = {}
        self._logs: dict[str, RotatedLog] = {}
        self._queued = 0
        self._thread = WriterThread(
            self, self._opened, self._ended, disk=disk, segment=segment, budget=budget
        )

    @property
    def trouble(self) -> tuple[JournalTrouble, ...]:
        """What went wrong with the journal so far (the first hundred), also what could not be written itself."""
        return tuple(self._thread.trouble)

    def emit(self, event: Event) -> None:
        """Queue an event; see `Journal.emit`. What comes after the close is dropped."""
        if self._closed:
            return
        if self._queued - self._thread.taken >= QUEUE:
            self._thread.dropped += 1
        else:
            self._put(event, None)

    async def commit(self, event: Event) -> Record:
        """Write an event durably; see `Journal.commit`.

        After a JournalError the event is not in the journal: emit it if it is true all the same. Only if the wait was cancelled
        or ran out (30 s) may it still come to stand there.
        """
        self._check_open(f"record {event.kind}")
        waiter: asyncio.Future[Record] = self._loop.create_future()
        self._put(event, waiter)
        with anyio.move_on_after(COMMIT_TIMEOUT):
            return await waiter
        raise JournalError(
            f"cannot record {event.kind}: the disk under {self.run_dir} has not answered for {COMMIT_TIMEOUT:.0f} s"
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Follow all records from now on; see `Journal.subscribe`.

        A listener that raises is taken off and journalled as a part of soakd that gave up, so the verdict is inconclusive.
        """
        token = object()
        self._listeners[token] = listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a short blocking function in the writer thread after all that is queued; what it raises is raised here."""
        self._check_open("do file work")
        future: asyncio.Future[T] = self._loop.create_future()
        self._thread.queue.put(Call(partial(function, *args), future))
        return await future

    async def write_file(self, name: str, data: bytes, *, sync: bool = True) -> Path:
        """Write a whole file; see `Journal.write_file`. `name` may lie in subfolders of the run directory."""
        path = self.run_dir / name
        self._check_open(f"write {path}")
        try:
            return await self.call(partial(write_atomically, path, data, sync=sync))
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error.strerror or error}") from error

    async def sync_file(self, name: str) -> None:
        """Make a file durable; see `Journal.sync_file`. Worker threads do it: a disk takes several syncs at once in the time of one."""
        path, failures = self.run_dir / name, list[OSError]()

        async def sync(part: Path) -> None:
            try:
                await anyio.to_thread.run_sync(make_durable, part, abandon_on_cancel=True)
            except OSError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(sync, path)
            group.start_soon(sync, path.parent)  # where its name is
        for error in failures:
            raise JournalError(f"cannot make {path} durable: {error.strerror or error}") from error

    def log(self, name: str, *, max_bytes: int = 10_000_000, keep: int = 3) -> Log:
        """Open a rotated log; see `Journal.log`. `name` may lie in subfolders of the run directory."""
        if name not in self._logs:
            self._logs[name] = RotatedLog(self.run_dir / name, max_bytes, keep, self._thread.queue.put)
        return self._logs[name]

    async def open(self) -> None:
        """Start the thread and look at what the directory holds; JournalError if it cannot be written."""
        self._thread.start()
        await self._opened

    async def close(self) -> None:
        """Write and sync what is queued, within 5 s, and end the thread."""
        self._closed = True
        self._thread.queue.put(None)
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT):
            await self._ended

    def _check_open(self, doing: str) -> None:
        if self._closed:
            raise JournalError(f"cannot {doing}: the journal in {self.run_dir} is closed")

    def _put(self, event: Event, waiter: asyncio.Future[Record] | None) -> None:
        self._queued += 1
        self._thread.queue.put(Item(*self.stamp(), event, encode(event), waiter))

    # --- called by the thread ------------------------------------------------------------------------------------------

    def stamp(self) -> tuple[float, float]:
        """Return the wall and the monotonic clock of this moment."""
        return round(self._wall(), CLOCK_DIGITS), round(self._mono(), CLOCK_DIGITS)

    def post(self, records: list[Record], settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
        """Tell listeners of records, then settle futures, on the loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            self._loop.call_soon_threadsafe(self._hear, records, settled)

    def _hear(self, records: list[Record], settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for record in records:
            for token, listener in tuple(self._listeners.items()):
                try:
                    listener(record)
                except Exception as error:  # noqa: BLE001  # not swallowed: the verdict becomes inconclusive
                    self._listeners.pop(token, None)
                    self.emit(crash(f"listener {getattr(listener, '__qualname__', listener)}", error))
        for future, outcome in settled:
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


@asynccontextmanager
async def open_journal(
    run_dir: Path,
    *,
    budget: int = BUDGET,
    segment: int = SEGMENT,
    disk: Disk | None = None,
    wall: Clock = time.time,
    mono: Clock = time.monotonic,
) -> AsyncIterator[JournalWriter]:
    """Open the journal of a run directory, a new one or one to go on with; JournalError if it cannot be written.

    On the way out everything queued is written and synced, within 5 s.
    """
    journal = JournalWriter(
        run_dir, disk=disk or Disk(), segment=segment, budget=budget, wall=wall, mono=mono
    )
    try:
        await journal.open()
        yield journal
    finally:
        await journal.close()
