"""Counts a load's operations into `load.window` events: exactly additive, bounded in memory, a few microseconds each.

A window ends at every multiple of `WINDOW` seconds of the monotonic clock, so that those of all loads lie beside each other, and
whenever the set of open episodes changes. Within it operations are divided by the set
of episodes that their interval overlaps, so that summing slices over windows (and over worker processes, whose windows go through
a pipe instead of straight into the journal) gives the same numbers as one count of the whole run.

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
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Literal

import anyio

from supervisor.histogram import Histogram
from supervisor.journal.events import CUT_OFF, LoadWindow, Sample, Slice
from supervisor.journal.timeline import Timeline
from supervisor.loads.base import Sink

WINDOW: Final = 10.0
"""Seconds."""
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


class Recorder:
    """One load's counts since its last window. Belongs to one event loop; nothing in it waits but `run`."""

    def __init__(
        self,
        load: str,
        sink: Sink,
        timeline: Timeline,
        clock: Callable[[], float] = time.monotonic,
        every: float = WINDOW,
    ) -> None:
        """`clock` gives the monotonic seconds that all times passed to `record` are on; `every` is the length of a window."""
        self._load, self._sink, self._timeline, self._clock, self._every = load, sink, timeline, clock, every
        self._marks = timeline.marks()
        self._since = clock()
        """The marks have been the same since then, so an operation that began later overlaps just these."""
        self._window = _Window(self._since)
        self._unsubscribe = timeline.subscribe(self._marks_changed)
        self._open = 0
        """Operations under way when the present window began."""
        self.next_due: float | None = None
        """Monotonic seconds from which on nothing was scheduled yet; None as long as there was no open loop."""
        self._others: list[Callable[[], None]] = []

    def record(
        self,
        *,
        intended: float,
        start: float,
        end: float,
        outcome: Outcome,
        error: str = "",
        detail: str = "",
        name: str = "",
    ) -> None:
        """Count one operation.

        `intended` is when it should have started, `start` when it did (the same in a closed loop), `end` when its outcome was
        known. `error` is its class, stable enough to group by; `detail` and `name` go into a sample and are cut to size.
        """
        marks = self._marks if intended >= self._since else self._timeline.overlapping(intended, end)
        window = self._window
        tally = window.tallies.get(marks) or window.admit(marks)
        if end < window.start:  # noqa: PLR1730  # min() would cost a tenth of the whole call
            window.start = end
        if outcome == "ok":
            tally.count_ok(intended, start, end)
            return
        error = window.error_class(error[:ERROR_LENGTH] or "unknown")
        tally.count_failure(error, outcome, intended, end)
        if window.has_room(error, explained=bool(marks)):
            window.samples.append(
                Sample(
                    at=intended,
                    name=name[:DETAIL_LENGTH],
                    outcome=outcome,
                    error=error,
                    detail=detail[:DETAIL_LENGTH],
                    took=end - start,
                    episodes=marks,
                )
            )

    def scheduled(self, n: int = 1) -> None:
        """Count operations that should have been started by now, dropped ones included."""
        self._window.scheduled += n

    def reached(self, next_due: float) -> None:
        """Note until when an open loop has scheduled: for who begins anew after it, and owes what was due meanwhile."""
        self.next_due = next_due

    def started(self, n: int = 1) -> None:
        """Count operations that were started."""
        self._window.started += n

    def late(self, n: int = 1) -> None:
        """Count operations started later than the executor tolerates."""
        self._window.late += n

    def dropped(self, n: int = 1) -> None:
        """Count operations that were never started, because no slot was free."""
        window, marks = self._window, self._marks
        if n:
            window.dropped += n
            (window.tallies.get(marks) or window.admit(marks)).dropped += n

    def lagged(self, seconds: float) -> None:
        """Note by how much an operation began after its intended time, by our own doing."""
        self._window.lag.record(seconds)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter of the load's own, such as `lost`, `duplicates` or `skipped`."""
        self._window.count(name, amount)

    @property
    def open(self) -> int:
        """How many operations were started and have no outcome."""
        window = self._window
        return self._open + window.started - window.finished

    def forsake(self, error: str, detail: str = "") -> None:
        """Count what is under way as indeterminate: nobody will see its end any more.

        Since when it was under way is not known here, so only the episodes of this moment explain it.
        """
        now = self._clock()
        for _ in range(self.open):
            self.record(intended=now, start=now, end=now, outcome="indeterminate", error=error, detail=detail)

    def flush(self) -> None:
        """Emit what was counted since the last window; nothing if nothing was."""
        now = self._clock()
        self._open = self.open
        if not self._window.empty:
            self._sink.emit(self._window.event(self._load, now))
        for other in tuple(self._others):
            other()
        self._window = _Window(now)

    def accompany(self, flush: Callable[[], None]) -> Callable[[], None]:
        """Call another at each flush, one that has windows of the same load to emit; the return value ends that."""
        self._others.append(flush)
        return lambda: self._others.remove(flush)

    async def run(self) -> None:
        """Emit a window at every multiple of its length, and the last one on the way out. A leaf task."""
        try:
            while True:
                await anyio.sleep(self._every - time.monotonic() % self._every)
                self.flush()
        finally:
            self.flush()

    def close(self) -> None:
        """Emit the last window and leave the timeline."""
        self._unsubscribe()
        self.flush()

    def _marks_changed(self) -> None:
        self.flush()
        self._marks = self._timeline.marks()
        self._since = self._clock()


class _Tally:
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
        if outcome == "failed":
            self.failed += 1
        else:
            self.indeterminate += 1
        self.first_failure = min(self.first_failure, end)
        if end - intended > self.slowest_failure:
            self.slowest_failure, self.slowest_error = end - intended, error
        self.errors[error] = self.errors.get(error, 0) + 1

    def slice(self, episodes: tuple[str, ...]) -> Slice:
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


class _Window:
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
        self.tallies: dict[tuple[str, ...], _Tally] = {}
        self.rest = _Tally()
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
        counts = self.scheduled or self.started or self.late or self.dropped
        return not (counts or self.tallies or self.counters)

    @property
    def finished(self) -> int:
        tallies = (*self.tallies.values(), self.rest)
        return sum(tally.ok + tally.failed + tally.indeterminate for tally in tallies)

    def admit(self, marks: tuple[str, ...]) -> _Tally:
        """Return the tally for a set of marks that has none yet."""
        if not marks or len(self.tallies) - (() in self.tallies) < SLICES:
            return self.tallies.setdefault(marks, _Tally())
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
        if name not in self.counters and len(self.counters) >= COUNTERS:
            name = OTHER
        self.counters[name] = self.counters.get(name, 0) + amount

    def event(self, load: str, end: float) -> LoadWindow:
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
