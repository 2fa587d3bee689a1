"""One record as one line of a segment, and back.

    {"v":1,"seq":12,"t":1763668618.250112,"m":5021.418203,"kind":"unit.ready","data":{...},"crc":"9ae0daaf"}

`v` is the version of the kind, `t` the wall clock and `m` the monotonic clock in seconds, `crc` the CRC-32 of every byte of the line
before `,"crc"`. Values that equal their default are left out. A folded line also has `n` after `seq`: the number of records it
stands for; `seq` is the last of them.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from supervisor.journal.events import Event, OpenEvent, Record

_TAIL: Final = len(',"crc":"00000000"}\n')
_HEAD: Final = re.compile(
    rb'\{"v":(\d+),"seq":(\d+),(?:"n":(\d+),)?"t":(-?[\d.e+-]+),"m":(-?[\d.e+-]+),"kind":("[^"\\]*(?:\\.[^"\\]*)*"),"data":'
)
CLOCK_DIGITS: Final = 6
"""Clocks are kept to the microsecond, on disk and in memory, so that a replayed record equals the one that was delivered."""


class LineError(ValueError):
    """A line is not a whole record: torn, altered or no journal line at all."""


class Head(NamedTuple):
    """What a line says before its data."""

    version: int
    sequence: int
    covers: int
    """Records this line stands for: 1, or more if it was folded."""
    wall: float
    mono: float
    kind: str
    data: bytes


def encode(event: Event) -> bytes:
    """Return an event's data as JSON, defaults left out; a TypeError or pydantic's error if it holds what is not JSON."""
    if isinstance(event, OpenEvent):
        return json.dumps(event.data, separators=(",", ":"), allow_nan=False).encode()
    return event.__pydantic_serializer__.to_json(event, exclude_defaults=True)


def line_of(record: Record, data: bytes, covers: int = 1) -> bytes:
    """Return the line of a record whose event was encoded to `data`, newline included."""
    event = record.event
    kind = json.dumps(event.name if isinstance(event, OpenEvent) else event.kind)
    count = f'"n":{covers},' if covers > 1 else ""
    head = (
        f'{{"v":{event.version},"seq":{record.sequence},{count}"t":{record.wall!r},"m":{record.mono!r},'
        f'"kind":{kind},"data":'
    )
    body = head.encode() + data
    return body + b',"crc":"%08x"}\n' % crc32(body)


def parse(line: bytes) -> Head:
    """Check a line's checksum and read its head; LineError if it is not whole."""
    body = line[:-_TAIL]
    if line[-_TAIL:] != b',"crc":"%08x"}\n' % crc32(body) or not (match := _HEAD.match(body)):
        raise LineError("not a whole journal line")
    version, sequence, covers, wall, mono, kind = match.groups()
    return Head(
        int(version),
        int(sequence),
        int(covers or 1),
        float(wall),
        float(mono),
        _text(kind),
        body[match.end() :],
    )


@lru_cache(256)  # there are some forty kinds
def _text(literal: bytes) -> str:
    text: str = json.loads(literal)
    return text
