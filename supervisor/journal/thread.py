"""The one thread of a run that writes: it owns every file descriptor of the run directory.

It takes all that has queued up, writes it with one `write`, syncs once if somebody waits for it (group commit) and hands the batch back
to the loop in order. Records that nobody waits for are synced a second later at the latest: the death of the process cannot take
what was written, only that of the machine can, and then a second of records is lost that no decision was built on.

While the disk takes nothing, records wait here for a better time, and commits fail at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from supervisor.journal.appender import Appender
from supervisor.journal.archive import Archiver
from supervisor.journal.base import JournalError
from supervisor.journal.events import Event, JournalTrouble, Record, TaskCrashed
from supervisor.journal.files import Logs, RotatedLog
from supervisor.journal.lines import encode, line_of
from supervisor.journal.replay import last_sequence
from supervisor.journal.segments import Disk, DiskError, Trouble, segments

BATCH: Final = 2_000
"""Records in one write at most."""
SYNC_EVERY: Final = 1.0
RETRY_EVERY: Final = 1.0
BACKLOG: Final = 20_000
"""Records that wait for the disk to take them again; more are lost and counted. At 1 kB each, 20 MB."""
QUIET: Final = 60.0
"""Seconds in which a kind of trouble that was overcome is not told again: a disk that fails often must not fill itself with that."""
TOLD: Final = 100
"""Troubles that are kept for whoever asks."""

Future = asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Item:
    """A record on its way. It gets its sequence when it is written."""

    wall: float
    mono: float
    event: Event
    data: bytes
    waiter: Future | None = None
    told: bool = False
    """The listeners have heard of it already, because it could not be written at once."""


@dataclass(slots=True, eq=False)
class Call:
    """Work for the thread in its turn among the records."""

    function: Callable[[], Any]
    future: Future


class Owner(Protocol):
    """The loop's side, as the thread sees it."""

    run_dir: Path

    def stamp(self) -> tuple[float, float]:
        """Return the wall and the monotonic clock."""

    def post(self, records: list[Record], settled: list[tuple[Future, Any]]) -> None:
        """Tell listeners of records, then settle futures, with an exception where the value is one; all of it on the loop."""


class WriterThread(threading.Thread):
    """Writes what is put into `queue`; None ends it."""

    def __init__(
        self, owner: Owner, opened: Future, ended: Future, *, disk: Disk, segment: int, budget: int
    ) -> None:
        # A daemon thread: a disk that hangs must not keep the process alive.
        super().__init__(name="soakd-journal", daemon=True)
        self.queue: queue.SimpleQueue[Item | Call | RotatedLog | None] = queue.SimpleQueue()
        self.taken = 0
        """Records taken from the queue so far (written by this thread only)."""
        self.dropped = 0
        """Records that found the queue full (written by the loop only)."""
        self.trouble: list[JournalTrouble] = []
        self._owner, self._run_dir, self._disk = owner, owner.run_dir, disk
        self._opened, self._ended = opened, ended
        self._segment, self._budget = segment, budget
        self._logs = Logs()
        self._appender: Appender
        self._archiver: Archiver
        self._directory = -1
        self._sequence = 0
        self._in_hand: list[Future] = []
        """Who waits for what is being done at the moment."""
        self._backlog: list[Item] = []
        self._outage: list[Trouble] = []
        """The troubles of the present outage; empty while the disk takes records."""
        self._retry_at = 0.0
        self._quiet: dict[str, float] = {}
        self._lost = 0
        self._dropped_told = 0

    def run(self) -> None:
        """Open the journal, work until None comes, close it."""
        try:
            self._open()
        except (OSError, JournalError) as error:
            why = f"cannot keep a journal in {self._run_dir}: {error}; choose another run directory"
            self._owner.post([], [(self._opened, JournalError(why)), (self._ended, None)])
            return
        self._owner.post([], [(self._opened, None)])
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  # told to the loop, and everything asked from here on is refused
            self._tell(JournalTrouble(what="write-failed", detail=f"the journal's thread died: {error!r}"))
            self._refuse(error)
        finally:
            self._archiver.stop()
            self._appender.close()
            self._logs.close()
            self._archiver.join()
            os.close(self._directory)
            self._owner.post([], [(self._ended, None)])

    def _work(self) -> None:
        going = True
        while going:
            items, logs, call, going = self._collect()
            self._in_hand = [item.waiter for item in items if item.waiter]
            self._in_hand += [call.future] if call else []
            self._write(items, waited_for=not going)
            for log in logs:
                self._logs.flush(log)
            if call:
                self._run_call(call)
        self._write([], waited_for=True)  # what the last write had to say about itself

    def _refuse(self, error: Exception) -> None:
        """Answer whoever asks that there is no journal any more."""
        refusal = f"cannot write: the journal's thread died: {error!r}"
        self._owner.post([], [(future, JournalError(refusal)) for future in self._in_hand])
        while (entry := self.queue.get()) is not None:
            future = entry.waiter if isinstance(entry, Item) else getattr(entry, "future", None)
            if future:
                self._owner.post([], [(future, JournalError(refusal))])

    def _open(self) -> None:
        """Lock the directory and see where its journal ends."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._directory = self._disk.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._directory)
            raise JournalError("another soakd writes to it") from None
        found = segments(self._run_dir)
        self._sequence = last_sequence(found)
        number = max(found, default=0) + 1
        self._archiver = Archiver(self._run_dir, self._budget, self._archiver_crashed)
        self._archiver.start()
        self._archiver.closed(number - 1)
        self._appender = Appender(self._run_dir, number, self._disk, self._archiver.closed, self._segment)

    def _collect(self) -> tuple[list[Item], list[RotatedLog], Call | None, bool]:
        """Wait for work; take all there is, up to the next call."""
        items: list[Item] = []
        logs: list[RotatedLog] = []
        with suppress(queue.Empty):
            entry = self.queue.get(timeout=self._patience())
            while True:
                if isinstance(entry, Item):
                    self.taken += 1
                    items.append(entry)
                elif isinstance(entry, RotatedLog):
                    logs.append(entry)
                else:
                    return items, logs, entry, entry is not None
                if len(items) == BATCH:
                    break
                entry = self.queue.get_nowait()
        return items, logs, None, True

    def _patience(self) -> float | None:
        """Seconds until there is something to do without being asked, None for never."""
        since = self._appender.unsynced_since
        if self._outage:
            due = self._retry_at
        elif self._backlog:
            return 0.0
        elif since is not None:
            due = since + SYNC_EVERY
        else:
            return None
        return max(due - time.monotonic(), 0.0)

    def _write(self, items: list[Item], *, waited_for: bool) -> None:
        """Write a batch after what had to wait before it, and tell the loop; or keep it for a better time."""
        now = time.monotonic()
        if self.dropped > self._dropped_told:
            items = [*items, self._count_dropped()]
        waited_for = waited_for or any(item.waiter for item in items)
        if self._outage and not waited_for and now < self._retry_at:
            self._keep(items)
            return
        items, self._backlog = self._backlog + items, []
        since = self._appender.unsynced_since
        overdue = since is not None and now >= since + SYNC_EVERY
        sync = waited_for or overdue or any(item.event.durable for item in items)
        if not items and not (sync and since is not None):
            return
        records = [
            Record(number, item.wall, item.mono, item.event)
            for number, item in enumerate(items, self._sequence + 1)
        ]
        lines = b"".join(map(line_of, records, [item.data for item in items]))
        try:
            overcome = self._appender.append(lines, sync=sync)
        except DiskError as error:
            self._fail(items, error)
        else:
            self._sequence += len(records)
            self._succeed(list(zip(items, records, strict=True)), overcome)

    def _succeed(self, written: list[tuple[Item, Record]], overcome: list[DiskError]) -> None:
        """Hand a batch back to the loop, and put on record what had to be overcome for it."""
        self._owner.post(
            [record for item, record in written if not item.told],
            [(item.waiter, record) for item, record in written if item.waiter],
        )
        if self._outage:
            lost, self._lost = self._lost, 0
            detail = f"the disk takes records again; {lost} were lost"
            self._backlog.append(self._tell(JournalTrouble(what=self._outage[0], detail=detail, lost=lost)))
            self._outage = []
        now = time.monotonic()
        for error in overcome:
            if now >= self._quiet.get(error.what, now):
                self._quiet[error.what] = now + QUIET
                self._backlog.append(self._tell(JournalTrouble(what=error.what, detail=error.detail)))

    def _fail(self, items: list[Item], error: DiskError) -> None:
        """Refuse those who wait, keep the rest, and say so at once even though it cannot be written."""
        waiters = [item.waiter for item in items if item.waiter]
        self._lost += len(waiters)
        self._keep([item for item in items if not item.waiter])
        if error.what not in self._outage:
            self._outage.append(error.what)
            self._backlog.append(self._tell(JournalTrouble(what=error.what, detail=error.detail)))
        self._retry_at = time.monotonic() + RETRY_EVERY
        refusal = f"cannot make a record durable: {error.detail}; free some space or mend the disk"
        self._owner.post([], [(waiter, JournalError(refusal)) for waiter in waiters])

    def _keep(self, items: list[Item]) -> None:
        """Keep the oldest for which there is room, and what was said of the outage itself: one trouble of each sort."""
        room = max(BACKLOG - len(self._backlog), 0)
        said = [item for item in items[room:] if self._is_of_the_outage(item.event)]
        self._backlog += items[:room] + said
        self._lost += len(items[room:]) - len(said)

    def _is_of_the_outage(self, event: Event) -> bool:
        return isinstance(event, JournalTrouble) and event.what in self._outage

    def _count_dropped(self) -> Item:
        dropped = self.dropped
        lost, self._dropped_told = dropped - self._dropped_told, dropped
        return self._tell(
            JournalTrouble(what="dropped", detail="records came faster than the disk took them", lost=lost)
        )

    def _tell(self, trouble: JournalTrouble) -> Item:
        """Tell the listeners of a trouble now, with the number of the last record written; return it to be written."""
        if len(self.trouble) < TOLD:
            self.trouble.append(trouble)
        wall, mono = self._owner.stamp()
        self._owner.post([Record(self._sequence, wall, mono, trouble)], [])
        return Item(wall, mono, trouble, encode(trouble), told=True)

    def _archiver_crashed(self, error: Exception) -> None:
        """Put it on record (from the archiver): a journal that nobody keeps small will fill the disk."""
        event = crash("journal archiver", error)
        self.queue.put(Item(*self._owner.stamp(), event, encode(event)))

    def _run_call(self, call: Call) -> None:
        if call.future.cancelled():
            return
        outcome: Any
        try:
            outcome = call.function()
        except BaseException as error:  # noqa: BLE001  # it is raised where the call was made
            outcome = error
        self._owner.post([], [(call.future, outcome)])


def crash(part: str, error: Exception) -> TaskCrashed:
    """Return the record of a part of the journal that raised and is gone for good, so that the verdict cannot be a pass."""
    text = "".join(traceback.format_exception(error))[-4000:]
    return TaskCrashed(task=part, error=f"{type(error).__name__}: {error}", traceback=text, gave_up=True)
