"""What a unit writes: stamped line by line on its way into a rotated log, and read back from there.

Each line of the log begins with the wall time at which it was read, `2026-11-20T19:52:01.123Z `, as container engines do it: the
time stays with the line whatever the rotation does, costs no memory, and sorts as text, so that a time is found by bisection.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Self

import anyio

from supervisor.journal.base import Log

GENERATIONS: Final = 3
"""Old files kept beside the present one."""
MAX_BYTES: Final = 10_000_000
ANSWER: Final = 4_000_000
"""Bytes that are read back at most: the last ones of what was asked for."""
CARRY: Final = 65_536
"""Bytes of a line that was not ended yet and may still match; also the block in which files are read."""

_STAMP: Final = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
_STAMPED: Final = re.compile(rb"^" + _STAMP, re.MULTILINE)
_WIDTH: Final = len("2026-11-20T19:52:01.123Z ")


def stamp(wall: float) -> bytes:
    """Return the stamp of a time in seconds since the epoch."""
    seconds, millis = divmod(int(wall * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%03dZ " % millis


class Output:
    """Where the output of a unit goes, over all its lives."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._fresh = True
        """The next byte begins a line."""

    def take(self, data: bytes) -> None:
        """Log some output, which may end in the middle of a line."""
        if data:
            now = stamp(time.time())
            ended = data.endswith(b"\n")
            body = (data[:-1] if ended else data).replace(b"\n", b"\n" + now)
            self._log.write((now if self._fresh else b"") + body + (b"\n" if ended else b""))
            self._fresh = ended

    def end(self) -> None:
        """End the last line if the process that is gone did not: the next one's output begins on its own."""
        if not self._fresh:
            self._log.write(b"\n")
            self._fresh = True


class Awaited:
    """A pattern that is waited for in the output of one life."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern.encode(), re.MULTILINE)
        self._carries: dict[int, bytes] = {}
        self.seen = anyio.Event()

    def take(self, data: bytes, stream: int = 0) -> None:
        """Look for the pattern in the next bytes of a stream; a match lies within one line."""
        if not self.seen.is_set():
            text = self._carries.get(stream, b"") + data
            if self._pattern.search(text):
                self.seen.set()
                text = b""
            self._carries[stream] = text[text.rfind(b"\n") + 1 :][-CARRY:]


class Generations:
    """The files of a rotated log as one sequence of bytes, oldest first. Blocks: for worker threads."""

    def __init__(self, path: Path, limit: int = ANSWER) -> None:
        self._path, self._limit = path, limit
        self._stack = ExitStack()
        self._parts: list[tuple[int, int, BinaryIO]] = []
        """First offset, end and file of each."""
        self.size = 0

    def __enter__(self) -> Self:
        """Open from the newest to the oldest: a rotation meanwhile moves files our way, so one may come twice, none is missed."""
        names = [
            self._path,
            *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, GENERATIONS + 1)),
        ]
        files: dict[int, tuple[int, BinaryIO]] = {}
        for name in names:
            try:
                file: BinaryIO = self._stack.enter_context(name.open("rb"))
            except FileNotFoundError:
                continue
            status = os.fstat(file.fileno())
            files.setdefault(status.st_ino, (status.st_size, file))
        for size, file in reversed(files.values()):
            self._parts.append((self.size, self.size + size, file))
            self.size += size
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def last(self, lines: int, *, stamped: bool = False) -> bytes:
        """Return the last lines, reading backwards in blocks."""
        begin, found = self.size, 0
        while begin > 0 and found <= lines and self.size - begin < self._limit:
            end, begin = begin, max(begin - CARRY, 0)
            found += self._read(begin, end).count(b"\n")
        text = self._slice(begin, self.size)
        text = text if stamped else _plain(text)
        return last_lines(text, lines)

    def between(self, since: float | None, until: float | None, *, stamped: bool = False) -> bytes:
        """Return the lines between two wall times, to the millisecond. A clock that was set back meanwhile blurs this."""
        begin = self._find(stamp(since)) if since is not None else 0
        end = self._find(stamp(until) + b"\0") if until is not None else self.size
        text = self._slice(begin, end)
        return text if stamped else _plain(text)

    def _slice(self, begin: int, end: int) -> bytes:
        return self._read(max(begin, end - self._limit), end)

    def _read(self, begin: int, end: int) -> bytes:
        return b"".join(
            os.pread(file.fileno(), min(end, stop) - max(begin, start), max(begin, start) - start)
            for start, stop, file in self._parts
            if start < end and begin < stop
        )

    def _find(self, bound: bytes) -> int:
        """Return the offset of the first line whose stamp is not below the bound."""
        blocks = -(-self.size // CARRY)
        block = bisect_left(
            range(blocks), bound, key=lambda n: next(self._stamps(n * CARRY), (0, b"\xff"))[1]
        )
        stamps = self._stamps(max(block - 1, 0) * CARRY)
        return next((offset for offset, found in stamps if found >= bound), self.size)

    def _stamps(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """Yield offset and stamp of each line that begins at or after an offset."""
        for start in range(begin, self.size, CARRY):
            before = 1 if start else 0  # the byte before tells `^` whether a line begins here
            text = self._read(start - before, start + CARRY + _WIDTH)
            for match in _STAMPED.finditer(text, before):
                if match.start() - before < CARRY:
                    yield start - before + match.start(), match[0]


def last_lines(text: bytes, lines: int) -> bytes:
    """Return the last lines of a text, whose last one may have no end."""
    cut = len(text) - text.endswith(b"\n")
    for _ in range(lines):
        cut = text.rfind(b"\n", 0, cut)
        if cut < 0:
            return text
    return text[cut + 1 :] if lines else b""


def since(text: bytes, wall: float) -> bytes:
    """Return the end of some stamped lines from the first on that was written at or after a wall time."""
    bound = stamp(wall)
    return next((text[line.start() :] for line in _STAMPED.finditer(text) if line[0] >= bound), b"")


def _plain(text: bytes) -> bytes:
    return _STAMPED.sub(b"", text)
