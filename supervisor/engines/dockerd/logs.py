"""Reading a container's log: both streams in the order they were written, bounded whatever is in it.

An engine splits long lines into records of 16 kB and counts records where it is asked for lines, so it is asked for more until
there are enough lines. Of what comes only the end is kept.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.container import Container

ANSWER: Final = 4_000_000
"""Bytes of a log that are kept at most, the last ones: as for a process."""
FIRST: Final = 2_000
"""Records asked for at first where no number of lines is given."""
MOST: Final = 50_000
_GROWTH: Final = 5
_HEADER: Final = struct.Struct(">BxxxL")
"""Stream (1 output, 2 errors) and length of a record."""
_WHOLE: Final = 16_384
"""Bytes at which an engine splits a line. A shorter record without an end of line is the last word of a life."""
_UNREADABLE: Final = "does not support reading"


class Records:
    """Takes an answer apart into records and keeps the end of it."""

    def __init__(self, *, plain: bool, lines: bool = True, limit: int = ANSWER) -> None:
        """`plain`: the answer of a container with a terminal, which has no records. `lines`: a record is a line, or part of a long one."""
        self.count = 0
        """Records, of a terminal its lines."""
        self._plain, self._lines, self._limit = plain, lines, limit
        self._rest = bytearray()
        self._missing = 0
        """Bytes of the present record that are still to come."""
        self._length = 0
        self._kept: deque[bytes] = deque()
        self._size = 0

    def take(self, data: bytes) -> bytes:
        """Take the next bytes of the answer; return those of them that the program wrote."""
        if self._plain:
            self.count += data.count(b"\n")
            self._keep(data)
            return data
        self._rest += data
        fresh = bytearray()
        while self._rest:
            if not self._missing:
                if len(self._rest) < _HEADER.size:
                    break
                _, self._missing = _HEADER.unpack_from(self._rest)
                self._length = self._missing
                del self._rest[: _HEADER.size]
                self.count += 1
            part = self._rest[: self._missing]
            del self._rest[: len(part)]
            self._missing -= len(part)
            fresh += part
            if self._lines and not self._missing and self._length < _WHOLE and not part.endswith(b"\n"):
                fresh += b"\n"
        self._keep(bytes(fresh))
        return bytes(fresh)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._size += len(data)
        while self._size - len(self._kept[0]) > self._limit:
            self._size -= len(self._kept.popleft())

    def text(self) -> bytes:
        """Return the end of what was written."""
        text = b"".join(self._kept)
        text = text[max(len(text) - self._limit, 0) :]
        return text.replace(b"\r\n", b"\n") if self._plain else text


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of a log: times in seconds since the epoch."""

    last: int | None = None
    since: float | None = None
    until: float | None = None
    settled: bool = False
    """Nothing was written after `until`."""

    def params(self, tail: int) -> dict[str, object]:
        """Return what the engine is asked for."""
        times = {"since": self.since, "until": self.until}
        stamps = {name: f"{value:.9f}" for name, value in times.items() if value is not None}
        return {"stdout": 1, "stderr": 1, "tail": tail, **stamps}


@dataclass(slots=True)
class _Progress:
    """What the requests before this one have brought."""

    records: int = -1
    text: bytes = field(default=b"", repr=False)


async def read(api: Api, container: Container, wanted: Wanted) -> bytes:
    """Return a part of a log, at most the last `ANSWER` bytes of it; EngineError if the log cannot be read."""
    if wanted.last == 0:
        return b""
    # One more than wanted: it shows where the first line begins.
    tail, before = (wanted.last + 1 if wanted.last else FIRST), _Progress()
    while True:
        records = Records(plain=container.tty)
        try:
            await _fetch(api, container, wanted.params(tail), records)
        except ApiError as error:
            raise _explain(container, error) from error
        text = records.text()
        if _is_all(wanted, tail, records, before) or len(text) >= ANSWER or tail >= MOST:
            return _last_lines(text, wanted.last)
        before = _Progress(records.count, text)
        tail = min(tail * _GROWTH, MOST)


def _is_all(wanted: Wanted, tail: int, records: Records, before: _Progress) -> bool:
    if wanted.last is not None and records.text().count(b"\n") > wanted.last:
        return True
    if wanted.until is None or wanted.settled:  # what is too old would have come first
        return records.count < tail
    return records.count == before.records  # what is too young came last, and is not counted


async def _fetch(api: Api, container: Container, params: dict[str, object], records: Records) -> None:
    async with api.answer("GET", f"containers/{container.id}/logs", params=params) as answer:
        async for chunk in answer.content.iter_any():
            records.take(chunk)


async def follow(api: Api, container: Container, since: float, take: Callable[[bytes], bool]) -> None:
    """Pass on what a container writes from a time on, until `take` has enough or the log ends. ApiError if the engine goes away."""
    params: dict[str, object] = {"stdout": 1, "stderr": 1, "follow": 1, "since": f"{since:.9f}"}
    records = Records(plain=container.tty, limit=0)
    async with api.stream(f"containers/{container.id}/logs", params) as answer:
        async for chunk in answer.content.iter_any():
            if take(records.take(chunk)):
                return


def _explain(container: Container, error: ApiError) -> EngineError:
    if _UNREADABLE in str(error):
        return EngineError(
            f"the log of {container.name} cannot be read: its logging driver {container.log_driver} keeps nothing to read; "
            "use json-file, local or journald"
        )
    return EngineError(f"cannot read the log of {container.name}: {error}")


def _last_lines(text: bytes, lines: int | None) -> bytes:
    if lines is None:
        return text
    cut = len(text) - text.endswith(b"\n")
    for _ in range(lines):
        cut = text.rfind(b"\n", 0, cut)
        if cut < 0:
            return text
    return text[cut + 1 :]
