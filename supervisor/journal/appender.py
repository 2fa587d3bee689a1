"""Puts lines on the disk in such a way that an error loses as little as possible and nothing silently.

After any error the segment is abandoned, and everything not known to be durable is written once more, to a new segment: a failed
fsync says nothing about which pages were lost, and a second one on the same file may report success for pages that are gone. Replay
takes the later copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from supervisor.journal.segments import Disk, DiskError, Segment

SEGMENT: Final = 4_000_000
"""Bytes after which a segment is closed: about an hour of five loads, and quick to compress in one piece."""
UNSYNCED: Final = 1_000_000
"""Bytes after which a sync is made early, because they are kept in memory until then."""


class Appender:
    """The present segment and what of it is not durable yet."""

    def __init__(
        self, run_dir: Path, number: int, disk: Disk, closed: Callable[[int], None], limit: int = SEGMENT
    ) -> None:
        """`number` is that of the first segment to write; `closed` is told the number of each that is full."""
        self._run_dir, self._number, self._disk, self._closed, self._limit = (
            run_dir,
            number,
            disk,
            closed,
            limit,
        )
        self._segment: Segment | None = None
        self._unsynced = bytearray()
        self.unsynced_since: float | None = None
        """Monotonic time of the first append that is not durable yet."""

    def append(self, lines: bytes, *, sync: bool) -> list[DiskError]:
        """Write lines; return the errors that were overcome. The last DiskError is raised if a new segment did not help."""
        overcome: list[DiskError] = []
        sync = sync or len(self._unsynced) + len(lines) > UNSYNCED
        try:
            self._attempt(lines, sync)
        except DiskError as error:
            self._abandon()
            overcome.append(error)
            try:
                self._attempt(lines, sync)
            except DiskError as second:
                self._abandon()
                raise second from error
        return overcome

    def _attempt(self, lines: bytes, sync: bool) -> None:
        if lines and self._segment is not None and self._segment.size >= self._limit:
            self._segment.append(b"", sync=True)
            self._synced()
            self._segment.close()
            self._closed(self._segment.number)
            self._segment = None
        if self._segment is None:
            number, self._number = self._number, self._number + 1
            self._segment = Segment(self._run_dir, number, self._disk)
            lines_and_before = bytes(self._unsynced) + lines
        else:
            lines_and_before = lines
        self._segment.append(lines_and_before, sync=sync)
        if sync:
            self._synced()
        elif lines:
            self._unsynced += lines
            self.unsynced_since = self.unsynced_since or time.monotonic()

    def _synced(self) -> None:
        self._unsynced.clear()
        self.unsynced_since = None

    def _abandon(self) -> None:
        if self._segment is not None:
            self._segment.abandon()
            if not self._segment.size:
                self._number = self._segment.number  # its file is gone again
            self._segment = None

    def close(self) -> None:
        """Close the present segment, unsynced: whoever wants a sync appends nothing with one first."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
