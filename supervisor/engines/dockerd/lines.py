"""Lines of both streams of a container, each of them whole.

An engine keeps a line over 16 kB as several records, and those of the other stream come between them. Here a line stands where its
first record stands and has its time, as if it had been written at once: so times rise from line to line, and a line that took long
to write stands before shorter ones that were written meanwhile. Of a line that began before the first record that is known, and may
have lost its beginning, all records have an earlier time, as Docker keeps them: it stands first.
"""

from __future__ import annotations

from collections import deque


class Lines:
    """Puts records together and keeps the end of all lines, bounded also while one of them never ends."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes to give at most, the last ones; up to twice as many of one line are kept."""
        self._limit = limit
        self._kept: deque[bytearray] = deque()
        self._size = 0
        self._open: dict[int, bytearray] = {}
        """By stream, the line that has not ended; it is kept, too."""
        self._lost = set[int]()
        """Streams whose open line is no longer kept."""
        self._known = set[int]()
        """Streams of which a record has come."""
        self._since = b""
        """The time of the first record of all."""

    def begins(self, stream: int) -> bool:
        """Whether the next record of a stream begins a line."""
        return stream not in self._open and stream not in self._lost

    def add(self, stream: int, text: bytes | bytearray, *, ended: bool, at: bytes = b"") -> None:
        """Add a record of a stream, or a part of one; `ended`: it is the last of its line. `at`: its time, such that text compares as time."""
        if stream not in self._lost:
            if (line := self._open.get(stream)) is None:
                line = self._open[stream] = bytearray()
                if stream not in self._known and at < self._since:
                    self._kept.appendleft(line)
                else:
                    self._kept.append(line)
                self._since = self._since or at
                self._known.add(stream)
            line += text
            self._size += len(text)
            if (over := len(line) - self._limit) > self._limit:  # not at each record: what is left is moved
                del line[:over]
                self._size -= over
            self._drop()
        if ended:
            self._open.pop(stream, None)
            self._lost.discard(stream)

    def _drop(self) -> None:
        while len(self._kept) > 1 and self._size - len(self._kept[0]) >= self._limit:
            line = self._kept.popleft()
            self._size -= len(line)
            for stream in [stream for stream, other in self._open.items() if other is line]:
                del self._open[stream]
                self._lost.add(stream)

    def text(self) -> bytes:
        """Return the last bytes of all lines; of those that have not ended only the last one is without an end."""
        *others, last = self._kept or [bytearray()]
        text = b"".join([*(line if line.endswith(b"\n") else line + b"\n" for line in others), last])
        return text[max(len(text) - self._limit, 0) :]
