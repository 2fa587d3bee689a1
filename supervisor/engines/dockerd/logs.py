"""Reading a container's log: the lines of both streams in the order of their beginnings, bounded whatever is in it.

An engine splits long lines into records of 16 kB and counts records where it is asked for lines, so it is asked for more until
there are enough lines. Of what comes only the end is kept. The end of a life that is over is read from the engine's own file where
that may be (see `files.py`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from anyio import to_thread

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.container import SHORT, Container, nanoseconds
from supervisor.engines.dockerd.files import ANSWER, WHOLE, read_end
from supervisor.engines.dockerd.lines import Lines
from supervisor.engines.output import last_lines, stamp

FIRST: Final = 2_000
"""Records asked for at first where no number of lines is given."""
MOST: Final = 50_000
_GROWTH: Final = 5
_HEADER: Final = struct.Struct(">BxxxL")
"""Stream (1 output, 2 errors) and length of a record."""
_TERMINAL: Final = 0
"""The only stream of what has no records."""
_STAMP: Final = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) ", re.MULTILINE)
"""What an engine puts before each record when it is asked for times."""
_MILLIS: Final = len("2026-11-20T19:52:01.123")
_UNREADABLE: Final = "does not support reading"
_NOT_FOUND: Final = 404


class Records:
    """Takes an answer apart into records and keeps the end of it, as lines."""

    def __init__(
        self,
        *,
        plain: bool,
        lines: bool = True,
        stamped: bool = False,
        shown: bool = True,
        limit: int = ANSWER,
    ) -> None:
        """`plain`: the answer of a container with a terminal, which has no records. `lines`: a record is a line, or part of a long one.

        `stamped`: the engine was asked for times; then records come whole, and if they are `shown` each line begins with its time.
        """
        self.count = 0
        """Records, of a terminal its lines."""
        self._plain, self._lines, self._stamped, self._shown = plain, lines, stamped, shown
        self._rest = bytearray()
        self._missing = 0
        """Bytes of the present record that are still to come."""
        self._length = self._stream = 0
        self._kept = Lines(limit)

    def take(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes of the answer; return those of them that the program wrote, in pieces, each with its stream."""
        if self._plain:
            self.count += data.count(b"\n")
            self._kept.add(_TERMINAL, data, ended=False)
            return [(_TERMINAL, data)]
        self._rest += data
        taken = list[tuple[int, bytes]]()
        while self._rest:
            if not self._missing:
                if len(self._rest) < _HEADER.size:
                    break
                self._stream, self._missing = _HEADER.unpack_from(self._rest)
                self._length = self._missing
                del self._rest[: _HEADER.size]
                self.count += 1
            if self._stamped and len(self._rest) < self._missing:
                break
            taken.append((self._stream, self._piece()))
        return taken

    def _piece(self) -> bytes:
        """Take what has come of the present record."""
        part = self._rest[: self._missing]
        del self._rest[: len(part)]
        self._missing -= len(part)
        if not self._lines:  # it was written as it came
            self._kept.add(_TERMINAL, part, ended=False)
            return bytes(part)
        at = b""
        if self._stamped and (found := _STAMP.match(part)):
            at = found[1]
            self._length -= found.end()
            begins = self._shown and self._kept.begins(self._stream)
            part[: found.end()] = _our_stamp(found) if begins else b""
        if not self._missing and self._length < WHOLE and not part.endswith(b"\n"):
            part += b"\n"
        self._kept.add(self._stream, part, ended=not self._missing and part.endswith(b"\n"), at=at)
        return bytes(part)

    def text(self) -> bytes:
        """Return the end of what was written."""
        text = self._kept.text()
        if not self._plain:
            return text
        text = text.replace(b"\r\n", b"\n")
        return _STAMP.sub(_our_stamp, text) if self._stamped else text


def _our_stamp(found: re.Match[bytes]) -> bytes:
    """Write a time of the engine's as all engines do here."""
    if found[1].endswith(b"Z"):
        return found[1][:_MILLIS] + b"Z "
    return stamp(nanoseconds(found[1].decode()) / 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of a log: times in seconds since the epoch."""

    last: int | None = None
    since: float | None = None
    until: float | None = None
    stamped: bool = False
    """Each line with its time."""
    settled: bool = False
    """Nothing was written after `until`."""

    def params(self, tail: int, *, timed: bool) -> dict[str, object]:
        """Return what the engine is asked for; `timed`: records with their times."""
        times = {"since": self.since, "until": self.until}
        stamps = {name: f"{value:.9f}" for name, value in times.items() if value is not None}
        return {"stdout": 1, "stderr": 1, "tail": tail, "timestamps": int(timed), **stamps}


@dataclass(slots=True)
class _Progress:
    """What the requests before this one have brought."""

    records: int = -1
    text: bytes = field(default=b"", repr=False)


async def read(api: Api, container: Container, wanted: Wanted) -> bytes:
    """Return a part of a log, at most the last `ANSWER` bytes of it; EngineError if the log cannot be read."""
    if wanted.last == 0:
        return b""
    if wanted.last and wanted.settled and container.log_path:
        found = await to_thread.run_sync(
            read_end, container.log_path, wanted.last, wanted.until, wanted.stamped, container.tty
        )
        if found is not None:
            return found
    # One more than wanted: it shows where the first line begins.
    tail, before = (wanted.last + 1 if wanted.last else FIRST), _Progress()
    while True:
        timed = wanted.stamped or not container.tty  # it shows which lines have lost their beginning
        records = Records(plain=container.tty, stamped=timed, shown=wanted.stamped)
        try:
            await _fetch(api, container, wanted.params(tail, timed=timed), records)
        except ApiError as error:
            raise _explain(container, error) from error
        text = records.text()
        if _is_all(wanted, tail, records, before) or len(text) >= ANSWER or tail >= MOST:
            return text if wanted.last is None else last_lines(text, wanted.last)
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


async def follow(api: Api, container: Container, since: float, take: Callable[[int, bytes], bool]) -> None:
    """Pass on what a container writes from a time on, until `take` has enough or the log ends. ApiError if the engine goes away.

    `take` gets a stream and the next bytes of it, as soon as they come: those of a line may have some of the other stream between them.
    """
    params: dict[str, object] = {"stdout": 1, "stderr": 1, "follow": 1, "since": f"{since:.9f}"}
    records = Records(plain=container.tty, limit=0)
    async with api.stream(f"containers/{container.id}/logs", params) as answer:
        async for chunk in answer.content.iter_any():
            for stream, text in records.take(chunk):
                if take(stream, text):
                    return


def _explain(container: Container, error: ApiError) -> EngineError:
    if _UNREADABLE in str(error):
        return EngineError(
            f"the log of {container.name} cannot be read: its logging driver {container.log_driver} keeps nothing to read; "
            "use json-file, local or journald"
        )
    if error.status == _NOT_FOUND:
        error_text = f"its container {container.id[:SHORT]} was removed, and its log with it"
        return EngineError(f"cannot read the log of {container.name}: {error_text}")
    return EngineError(f"cannot read the log of {container.name}: {error}")
