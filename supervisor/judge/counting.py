"""Small counters that stay small however long a run was: the judge keeps totals, never records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from supervisor.journal.events import CUT_OFF, Record, Slice

CASES: Final = 5
"""Cases of one kind that a sentence names before it says how many more there are."""
LENGTH: Final = 300
"""Characters of somebody else's text in a sentence of ours."""
CLASSES: Final = 50
"""Error classes and crash signatures that are counted each on its own."""
NAMES: Final = 1000
"""Units, loads, probes: a soak names far fewer; whatever else a journal contains, memory stays bounded."""
YEAR: Final = 366 * 86400.0
LAST: Final = 253402300799.0
"""Seconds since the epoch of the end of the year 9999, the last that a date can say."""
OTHER: Final = "other"
"""Where what exceeds a cap is counted."""


class Moment(NamedTuple):
    """A point in time on both clocks of the journal."""

    wall: float
    mono: float

    @classmethod
    def of(cls, record: Record) -> Moment:
        """Return when a record was written."""
        return cls(record.wall, record.mono)

    def since(self, earlier: Moment) -> float:
        """Return the seconds since an earlier moment; by wall clock where a reboot lies between the two."""
        span = self.mono - earlier.mono
        return span if span >= 0 else max(self.wall - earlier.wall, 0.0)

    def at(self, mono: float) -> Moment:
        """Return the moment of a monotonic time near this one; what cannot be near it (a load's own clock) is this one."""
        if not abs(mono - self.mono) < YEAR:
            return self
        return Moment(self.wall - (self.mono - mono), mono)

    @property
    def utc(self) -> datetime:
        """The wall clock's date and time."""
        return datetime.fromtimestamp(min(max(0.0, self.wall), LAST), UTC)


@dataclass(slots=True)
class Some:
    """How often something happened, and the first few cases of it."""

    count: int = 0
    cases: list[str] = field(default_factory=list)

    def add(self, case: str) -> None:
        """Count one; a case that is already named is not named twice."""
        self.count += 1
        case = brief(case)
        if case and len(self.cases) < CASES and case not in self.cases:
            self.cases.append(case)

    def plus(self, other: Some) -> Some:
        """Return both together."""
        return Some(self.count + other.count, [*dict.fromkeys((*self.cases, *other.cases))][:CASES])

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        rest = self.count - len(self.cases)
        named = ", ".join(self.cases)
        return f"{named} and {rest} more" if named and rest > 0 else named


def brief(text: str) -> str:
    """Return a text that may be anything (an error, an exit's detail) on one line of at most `LENGTH` characters."""
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else line[: LENGTH - 1] + "…"


def slot(counts: Mapping[str, object], name: str, cap: int = CLASSES) -> str:
    """Return the key under which a name is counted: its own while there is room, then `other`."""
    return name if name in counts or len(counts) < cap else OTHER


def add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by name, at most `CLASSES` names and `other`."""
    for name, count in more.items():
        key = slot(counts, name)
        counts[key] = counts.get(key, 0) + count


def unexplained(piece: Slice) -> int:
    """Return the failures of a slice that neither an episode explains nor the end of the run, which cut operations off."""
    failures = piece.failed + piece.indeterminate
    if piece.episodes or not failures:
        return 0
    return failures - min(piece.errors.get(CUT_OFF, 0), failures)


def times(count: int) -> str:
    """Write `once`, `2 times`."""
    return "once" if count == 1 else f"{count:,} times"


def plural(count: int, noun: str) -> str:
    """Write `1 crash`, `2 crashes`, `1,200 operations`."""
    if count != 1:
        noun = (
            noun[:-1] + "ies" if noun.endswith("ry") else noun + ("es" if noun.endswith(("sh", "s")) else "s")
        )
    return f"{count:,} {noun}"
