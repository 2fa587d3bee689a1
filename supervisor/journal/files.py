"""Files of the run directory beside the journal: whole ones that are there or not, and rotated logs that never grow without end.

The functions block: they run in the writer thread, or in a worker's; `RotatedLog.write` is the loop's side.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

PENDING: Final = 1_000_000
"""Bytes of one log that may wait for the writer thread."""
OPEN: Final = 64
"""Log files that are kept open; a soak may have hundreds of units, and most of them say nothing most of the time."""
_OVERHEAD: Final = 64
"""What a queued chunk weighs besides its bytes."""


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> Path:
    """Write a whole file: afterwards it is there completely, or as it was before. OSError if that is not possible.

    Without `sync` the death of the machine may still take it, until `make_durable` has returned for it and for its directory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        make_durable(path.parent)
    return path


def make_durable(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk; OSError if that failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RotatedLog:
    """One log: written on the loop, drained by the writer thread."""

    def __init__(self, path: Path, max_bytes: int, keep: int, wake: Callable[[RotatedLog], None]) -> None:
        self.path, self.max_bytes, self.keep, self._wake = path, max_bytes, keep, wake
        self._chunks: deque[bytes] = deque()
        self._queued = self._drained = 0
        self._scheduled = False
        self._dropped = 0
        self.lost = 0
        """Bytes that the disk did not take (writer thread)."""
        self.told = 0
        """Bytes of which a line in the log says that they are missing (writer thread)."""

    def write(self, data: bytes) -> None:
        """Queue bytes; never blocks. Above the bound they are dropped and counted."""
        if self._queued - self._drained + len(data) > PENDING:
            self._dropped += len(data)
            return
        self._queued += len(data) + _OVERHEAD
        self._chunks.append(data)
        if not self._scheduled:
            self._scheduled = True
            self._wake(self)

    def drain(self) -> bytes:
        """Take all that is queued (writer thread)."""
        self._scheduled = False  # before the chunks are taken: whoever writes from here on schedules again
        chunks = [self._chunks.popleft() for _ in range(len(self._chunks))]
        self._drained += sum(len(chunk) + _OVERHEAD for chunk in chunks)
        return b"".join(chunks)

    @property
    def missing(self) -> int:
        """Bytes that are missing and of which no line tells yet."""
        return self._dropped + self.lost - self.told


class Logs:
    """The open log files, the least recently written one closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[int, int]] = OrderedDict()
        """Descriptor and size."""

    def flush(self, log: RotatedLog) -> None:
        """Write what a log has queued; what the disk does not take is counted as dropped."""
        data, missing = log.drain(), log.missing
        line = b"soakd: dropped %d bytes\n" % missing if missing else b""
        if not data and not line:
            return
        taken = self._write(log, data + line)
        if taken == len(data) + len(line):
            log.told += missing
        else:
            log.lost += max(len(data) - taken, 0)

    def _write(self, log: RotatedLog, data: bytes) -> int:
        try:
            descriptor, size = self._descriptor(log.path)
            if size and size + len(data) > log.max_bytes:
                self._close(log.path)
                rotate(log.path, log.keep)
                descriptor, size = self._descriptor(log.path)
            taken = os.write(descriptor, data)
        except OSError:
            self._close(log.path)
            return 0
        self._open[log.path] = descriptor, size + taken
        return taken

    def _descriptor(self, path: Path) -> tuple[int, int]:
        if path not in self._open:
            while len(self._open) >= OPEN:
                self._close(next(iter(self._open)))
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._open[path] = descriptor, os.fstat(descriptor).st_size
        self._open.move_to_end(path)
        return self._open[path]

    def _close(self, path: Path) -> None:
        if opened := self._open.pop(path, None):
            os.close(opened[0])

    def close(self) -> None:
        """Close all of them."""
        for path in tuple(self._open):
            self._close(path)


def rotate(path: Path, keep: int) -> None:
    """Make `x.log` to `x.log.1`, that to `x.log.2` and so on; only `keep` old ones stay."""
    if not keep:
        path.unlink()
        return
    for generation in range(keep - 1, 0, -1):
        older = path.with_name(f"{path.name}.{generation}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{generation + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))
