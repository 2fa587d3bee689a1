"""The evidence of a crash: its file and its record, both on disk before the unit is restarted, or the truth that they are not."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from supervisor.engines.base import EngineError
from supervisor.engines.fleet import Departure, Fleet
from supervisor.engines.output import last_lines, since
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import JournalTrouble, UnitCrashed
from supervisor.journal.timeline import Timeline
from supervisor.values import format_duration
from supervisor.watch.crashes import file_name, header, how_it_ended, signature

READING: Final = 2.0
"""Seconds for the log; a crash file without it still says how and when."""
WRITING: Final = 4.0
"""Seconds for the log and the crash file."""
RECORDING: Final = 5.0
"""Seconds for everything; then the unit is restarted all the same, and the verdict is inconclusive."""
TAIL_BYTES: Final = 1_000_000
"""Bytes of a log in a crash file at most, however long its lines are."""
LOOKED: Final = 1_000
"""Lines in which the cause is looked for, at least."""
LAST_LIFE: Final = 30.0
"""Seconds before the exit in which the cause is looked for: an error that was survived longer is none."""
BORN: Final = 0.1
"""Seconds by which a life's first words may be older than its beginning where the engine tells the time of both: it notes that once a
start has returned. What we stamp ourselves is never older than that, and the last words of the life before may be as young."""
FIRST_KEPT: Final = 20
LAST_KEPT: Final = 20
"""Crash files of each unit that stay: these first and these last ones."""


@dataclass(slots=True)
class CrashFiles:
    """Which crash files of a unit there are."""

    first: int = 0
    """How many of the first ones, which stay."""
    last: deque[Path] = field(default_factory=deque)


class Evidence:
    """Keeps the evidence of one unit's crashes."""

    def __init__(self, unit: str, lines: int, fleet: Fleet, journal: Journal, timeline: Timeline) -> None:
        self._unit, self.lines = unit, lines
        self._fleet, self._journal, self._timeline = fleet, journal, timeline
        self._crashed = 0.0
        """When it last crashed, in wall time."""

    async def keep(self, gone: Departure, consecutive: int, files: CrashFiles) -> UnitCrashed:
        """Write the crash file and commit the record within `RECORDING` seconds, also while the run is being stopped."""
        wall = time.time() - (time.monotonic() - gone.mono) if gone.wall is None else gone.wall
        crash = UnitCrashed(
            unit=self._unit,
            incarnation=gone.incarnation,
            code=gone.code,
            signal=gone.signal,
            oom=gone.oom,
            uptime=gone.uptime,
            captured=False,
            signature=how_it_ended(gone.code, gone.signal, oom=gone.oom),
            consecutive=consecutive,
            episodes=self._timeline.overlapping(gone.mono, gone.mono),
            facts=dict(gone.facts),
        )
        begun = anyio.current_time()
        with anyio.CancelScope(deadline=begun + WRITING, shield=True):
            crash = await self._write_file(crash, wall, gone.wall, files)
        with anyio.CancelScope(deadline=begun + RECORDING, shield=True) as recording:
            async with anyio.create_task_group() as group:
                if crash.file:
                    group.start_soon(self._make_durable, crash.file)
                await self._record(crash)
        if recording.cancelled_caught:  # it will be there when the disk answers; until then it is not safe
            late = f"a crash of {self._unit} was not on disk in time; it is restarted all the same"
            self._journal.emit(JournalTrouble(what="write-failed", detail=late))
        return crash

    async def _record(self, crash: UnitCrashed) -> None:
        try:
            await self._journal.commit(crash)
        except JournalError:  # it is not in the journal, and it is true
            self._journal.emit(crash.model_copy(update={"captured": False}))

    async def _make_durable(self, file: str) -> None:
        """Have the crash file fsynced while its record is: one after the other they would keep the unit down for twice as long."""
        try:
            await self._journal.sync_file(file)
        except JournalError as error:  # by now its record may say that it is there
            self._journal.emit(JournalTrouble(what="fsync-failed", detail=str(error)))

    async def _write_file(
        self, crash: UnitCrashed, wall: float, until: float | None, files: CrashFiles
    ) -> UnitCrashed:
        """Write the crash file; return the crash with its file and root cause. Without the log's lines it is not captured.

        `until` is where the log of this life ends, if there may be another life's after it.
        """
        tail, life, note = await self._read(crash, wall, until)
        self._crashed = wall
        if crash.signal != "SIGKILL" and (cause := signature(life)):  # killed outright, it had no say
            crash = crash.model_copy(update={"signature": cause})
        if len(tail) > TAIL_BYTES:
            tail = tail[-TAIL_BYTES:].partition(b"\n")[2]
        name = file_name(self._unit, wall)
        lines = tail.count(b"\n") + (tail[-1:] not in (b"", b"\n"))
        try:
            data = header(crash, wall, lines, note) + tail
            path = await self._journal.write_file(name, data, sync=False)
        except JournalError:  # a full disk, of which the journal itself has more to say
            return crash
        files.last.append(path)
        return crash.model_copy(update={"file": name, "captured": not note})

    async def _read(self, crash: UnitCrashed, wall: float, until: float | None) -> tuple[bytes, bytes, str]:
        """Return the log's tail, what this life said last, both with times, and what kept us from reading them."""
        note = ""
        with anyio.move_on_after(READING) as reading:
            try:
                lines = self.lines if crash.signal == "SIGKILL" else max(self.lines, LOOKED)
                text = await self._fleet.logs(
                    self._unit, last=lines, until=until, stamped=True, incarnation=crash.incarnation
                )
                return (
                    last_lines(text, self.lines),
                    since(text, self._last_life(wall, crash.uptime, until)),
                    "",
                )
            except (EngineError, JournalError, OSError) as error:
                note = f"cannot read the log: {error}"
        if reading.cancelled_caught:
            note = f"cannot read the log within {READING:g} s"
        return b"", b"", note

    def _last_life(self, wall: float, uptime: float | None, until: float | None) -> float:
        """Return the wall time from which on the log is this life's, and recent: an earlier life's last words are none of it."""
        born = 0.0 if until is None else BORN
        begun = wall - min(LAST_LIFE, LAST_LIFE if uptime is None else uptime + born)
        return max(begun, self._crashed)

    async def forget_middle(self, files: CrashFiles) -> None:
        """Delete crash files but the first and the last ones, so that a crash loop does not fill the disk."""
        while files.first < FIRST_KEPT and files.last:
            files.last.popleft()
            files.first += 1
        while len(files.last) > LAST_KEPT:
            delete = partial(files.last.popleft().unlink, missing_ok=True)
            with anyio.move_on_after(WRITING), suppress(JournalError, OSError):  # one too many does no harm
                await self._journal.call(delete)


def describe(gone: Departure) -> str:
    """Say how a unit ended, and after what time."""
    after = "" if gone.uptime is None else f" after {format_duration(gone.uptime)}"
    return how_it_ended(gone.code, gone.signal, oom=gone.oom) + after
