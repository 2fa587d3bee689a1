"""The end of a container's log, read from the file that the engine keeps it in.

From the exit of a container on, an engine answers no question about it before it has cleaned up after it, its log included: that
takes tens of milliseconds, in which a crash waits for its evidence. The file is complete by then. Where soakd may read it, on the
same machine and as root, it does; a file that cannot tell everything is left to the engine. Blocks: for worker threads.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from supervisor.engines.dockerd.lines import Lines
from supervisor.engines.output import last_lines

ANSWER: Final = 4_000_000
"""Bytes of a log that are kept at most, the last ones: as for a process."""
WHOLE: Final = 16_384
"""Bytes at which an engine splits a line. A shorter record without an end of line is the last word of a life."""
_LINE: Final = 256
"""Bytes that a line of some words takes there, with its time: so much is read at first for each that is wanted."""
_GROWTH: Final = 4
_STREAMS: Final = {"stdout": 1, "stderr": 2}
_NANO: Final = 1_000_000_000
_SECONDS: Final = len("2026-11-20T19:52:01")
_MILLIS: Final = len("2026-11-20T19:52:01.123")


def read_end(path: str, lines: int, until: float | None, stamped: bool, tty: bool) -> bytes | None:
    """Return the last lines of a `json-file` log, up to a time in seconds since the epoch; None if this file alone cannot say.

    The path carries the container's id, so a file that is there is that container's. `tty`: lines end as a terminal ends them.
    """
    bound = "~" if until is None else _written(int(until * _NANO))
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = lines + 1  # one more shows where the first line begins
            while True:
                begin = max(size - _LINE * wanted, 0)
                block = os.pread(file.fileno(), size - begin, begin).removesuffix(b"\n")
                # No more than that is taken apart at first, however short the lines are: a unit is down meanwhile.
                entries = block.rsplit(b"\n", wanted)
                whole = begin == 0 and len(entries) <= wanted
                text = _text(entries if whole else entries[1:], bound, stamped=stamped)
                full = len(text) >= ANSWER
                if tty:
                    text = text.replace(b"\r\n", b"\n")
                if text.count(b"\n") > lines or full:
                    return last_lines(text, lines)
                if whole:
                    return None if _is_rotated(path) else text
                wanted *= _GROWTH
    except (OSError, ValueError, LookupError):  # not ours to read, or not as we know it
        return None


def _text(entries: Iterable[bytes], until: str, *, stamped: bool) -> bytes:
    lines = Lines(ANSWER)
    for found in json.loads(b"[" + b",".join(entries) + b"]"):  # read one by one they take five times as long
        if (at := _padded(found["time"])) > until:
            break
        stream, words = _STREAMS[found["stream"]], found["log"].encode(errors="replace")
        ended = len(words) < WHOLE or words.endswith(b"\n")
        if ended and not words.endswith(b"\n"):
            words += b"\n"
        if stamped and lines.begins(stream):
            words = at[:_MILLIS].encode() + b"Z " + words
        lines.add(stream, words, ended=ended, at=at.encode())
    return lines.text()


def _padded(text: str) -> str:
    """Return a time such that text compares as time; ValueError if it is not as the driver writes it."""
    seconds, _, rest = text.removesuffix("Z").partition(".")
    if not text.endswith("Z") or len(seconds) != _SECONDS:
        raise ValueError(text)
    return f"{seconds}.{rest:0<9}"


def _written(at: int) -> str:
    seconds, nanos = divmod(at, _NANO)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}"


def _is_rotated(path: str) -> bool:
    return any(Path(f"{path}.1{end}").exists() for end in ("", ".gz"))
