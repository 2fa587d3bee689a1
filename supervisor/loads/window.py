"""One window of a load's operations while it is counted, in slices by the episodes that they overlap.

What is capped, and how it stays honest:

- Error classes: `ERROR_CLASSES` a window and `CUT_OFF`, the rest are counted under `other`. The sum over classes is always failed + indeterminate.
- Samples: the first `SAMPLES_PER_CLASS` of each error class, `SAMPLES` a window; and as many of those that no episode explains, which
  thousands that one explains must not crowd out.
- Slices: operations that overlap no episode always have their own, as have the first `SLICES` sets of episodes. Operations with
  further sets share one slice under the union of their sets: such an operation keeps every episode it overlapped and may seem to
  overlap others, but never counts as unexplained, and none that is unexplained is ever explained by it. The counter `folded` says
  how many operations that was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

from supervisor.histogram import Histogram
from supervisor.journal.events import CUT_OFF, LoadWindow, Sample, Slice

ERROR_CLASSES: Final = 16
SAMPLES: Final = 16
SAMPLES_PER_CLASS: Final = 2
SLICES: Final = 16
COUNTERS: Final = 64
OTHER: Final = "other"
"""What is counted under no name of its own."""
FOLDED: Final = "folded"
"""Operations whose set of episodes was widened to share a slice."""
ERROR_LENGTH: Final = 120
"""Characters of an error class."""
DETAIL_LENGTH: Final = 500
"""Characters of a sample's detail."""

Outcome = Literal["ok", "failed", "indeterminate"]

_STAGES: Final = {"direct": 0, "during": 1, "recovering": 2}


class Tally:
    """The operations of one slice."""

    __slots__ = (
        "dropped",
        "errors",
        "failed",
        "first_failure",
        "first_ok",
        "indeterminate",
        "ok",
        "response",
        "service",
        "slowest_error",
        "slowest_failure",
    )

    def __init__(self) -> None:
        self.ok = self.failed = self.indeterminate = self.dropped = 0
        self.errors: dict[str, int] = {}
        self.first_ok = self.first_failure = math.inf
        self.slowest_failure, self.slowest_error = 0.0, ""
        self.response = Histogram()
        self.service: Histogram | None = None
        """None as long as it equals `response`."""

    def count_ok(self, intended: float, start: float, end: float) -> None:
        """Count one that was ok; monotonic seconds."""
        self.ok += 1
        if end < self.first_ok:  # noqa: PLR1730  # as above
            self.first_ok = end
        if self.service is None and start != intended:
            self.service = Histogram()
            self.service.merge(self.response)
        self.response.record(end - intended)
        if self.service is not None:
            self.service.record(end - start)

    def count_failure(
        self, error: str, outcome: Literal["failed", "indeterminate"], intended: float, end: float
    ) -> None:
        """Count one that was not, under its class; monotonic seconds."""
        if outcome == "failed":
            self.failed += 1
        else:
            self.indeterminate += 1
        self.first_failure = min(self.first_failure, end)
        if end - intended > self.slowest_failure:
            self.slowest_failure, self.slowest_error = end - intended, error
        self.errors[error] = self.errors.get(error, 0) + 1

    def slice(self, episodes: tuple[str, ...]) -> Slice:
        """Return the counts as they go on record."""
        return Slice(
            episodes=episodes,
            ok=self.ok,
            failed=self.failed,
            indeterminate=self.indeterminate,
            dropped=self.dropped,
            errors=self.errors,
            first_ok=None if self.first_ok == math.inf else self.first_ok,
            first_failure=None if self.first_failure == math.inf else self.first_failure,
            slowest_failure=round(self.slowest_failure, 6),
            slowest_error=self.slowest_error,
            response=tuple(self.response.pack()) if self.ok else (),
            service=tuple(self.service.pack()) if self.service is not None else (),
        )


class Window:
    """What was counted since `start`."""

    __slots__ = (
        "classes",
        "counters",
        "dropped",
        "folded",
        "kept",
        "lag",
        "late",
        "rest",
        "samples",
        "scheduled",
        "start",
        "started",
        "tallies",
    )

    def __init__(self, start: float) -> None:
        self.start = start
        """The end of the last window, or the earliest end of an operation that was recorded afterwards."""
        self.scheduled = self.started = self.late = self.dropped = 0
        self.tallies: dict[tuple[str, ...], Tally] = {}
        self.rest = Tally()
        """What found no slice of its own."""
        self.folded: set[str] = set()
        """The union of the marks in `rest`."""
        self.classes: set[str] = set()
        """Error classes that are counted under their own names."""
        self.samples: list[Sample] = []
        self.kept: Counter[tuple[bool, str]] = Counter()
        """Of those how many there are, by whether an episode explains them and by error class; under an empty one of all classes."""
        self.lag = Histogram()
        self.counters: dict[str, float] = {}

    @property
    def empty(self) -> bool:
        """True: nothing happened in it."""
        counts = self.scheduled or self.started or self.late or self.dropped
        return not (counts or self.tallies or self.counters)

    @property
    def finished(self) -> int:
        """Operations that ended in it, whatever became of them."""
        tallies = (*self.tallies.values(), self.rest)
        return sum(tally.ok + tally.failed + tally.indeterminate for tally in tallies)

    def admit(self, marks: tuple[str, ...]) -> Tally:
        """Return the tally for a set of marks that has none yet."""
        if not marks or len(self.tallies) - (() in self.tallies) < SLICES:
            return self.tallies.setdefault(marks, Tally())
        self.folded.update(marks)
        self.count(FOLDED, 1)
        return self.rest

    def error_class(self, error: str) -> str:
        """Return the name to count an error under."""
        if error not in self.classes:
            if len(self.classes) >= ERROR_CLASSES and error != CUT_OFF:
                return OTHER
            self.classes.add(error)
        return error

    def has_room(self, error: str, *, explained: bool) -> bool:
        """Say whether one more sample of an error class fits, and take its place."""
        room = self.kept[explained, ""] < SAMPLES and self.kept[explained, error] < SAMPLES_PER_CLASS
        if room:
            self.kept.update([(explained, ""), (explained, error)])
        return room

    def count(self, name: str, amount: float) -> None:
        """Add to a counter of the load's own."""
        if name not in self.counters and len(self.counters) >= COUNTERS:
            name = OTHER
        self.counters[name] = self.counters.get(name, 0) + amount

    def event(self, load: str, end: float) -> LoadWindow:
        """Return what goes on record of it."""
        slices = [tally.slice(marks) for marks, tally in self.tallies.items()]
        if self.folded:
            slices.append(self.rest.slice(_union(self.folded)))
        return LoadWindow(
            load=load,
            start=self.start,
            end=end,
            scheduled=self.scheduled,
            started=self.started,
            late=self.late,
            dropped=self.dropped,
            slices=tuple(slices),
            samples=tuple(self.samples),
            lag=tuple(self.lag.pack()) if self.lag.count else (),
            counters=self.counters,
        )


def _union(marks: Iterable[str]) -> tuple[str, ...]:
    """Return each episode once, in the earliest stage it occurs in, as one operation over all of them would have it."""
    earliest: dict[str, str] = {}
    for mark in marks:
        episode, _, stage = mark.rpartition(":")
        if episode not in earliest or _STAGES.get(stage, 0) < _STAGES.get(earliest[episode], 0):
            earliest[episode] = stage
    return tuple(sorted(f"{episode}:{stage}" for episode, stage in earliest.items()))
