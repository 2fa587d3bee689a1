"""Counts a load's operations into `load.window` events: exactly additive, bounded in memory, a few microseconds each.

A window ends at every multiple of `WINDOW` seconds of the monotonic clock, so that those of all loads lie beside each other, and
whenever the set of open episodes changes. Within it operations are divided by the set
of episodes that their interval overlaps, so that summing slices over windows (and over worker processes, whose windows go through
a pipe instead of straight into the journal) gives the same numbers as one count of the whole run.

What of it is capped, and how that stays honest, is the business of `loads.window`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from typing import Final

import anyio

from supervisor.journal.events import Sample
from supervisor.journal.timeline import Timeline
from supervisor.loads.base import Sink
from supervisor.loads.window import DETAIL_LENGTH, ERROR_LENGTH, Outcome, Window

WINDOW: Final = 10.0
"""Seconds."""


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
        self._window = Window(self._since)
        self._unsubscribe = timeline.subscribe(self._marks_changed)
        self._open = 0
        """Operations under way when the present window began."""
        self._worked = False
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
        if outcome == "ok":
            self.ok(intended, start, end)
            return
        marks = self._marks if intended >= self._since else self._timeline.overlapping(intended, end)
        window = self._window
        tally = window.tallies.get(marks) or window.admit(marks)
        window.start = min(window.start, end)
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

    def ok(self, intended: float, start: float, end: float) -> None:
        """Count one that was ok, as nearly all are: the short way."""
        marks = self._marks if intended >= self._since else self._timeline.overlapping(intended, end)
        window = self._window
        if end < window.start:  # noqa: PLR1730  # min() would cost a tenth of the whole call
            window.start = end
        (window.tallies.get(marks) or window.admit(marks)).count_ok(intended, start, end)

    def begun(self) -> None:
        """Count an operation that is scheduled by being started, as in a closed loop."""
        window = self._window
        window.scheduled += 1
        window.started += 1

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
        """Add to a counter of the load's own, such as `lost`, `duplicates` or `skipped`; ValueError for what is no amount."""
        if not isfinite(amount):
            raise ValueError(
                f"counter {name}: expected a number, found {amount}: nothing can be held against that"
            )
        self._window.count(name, amount)

    @property
    def open(self) -> int:
        """How many operations were started and have no outcome."""
        window = self._window
        return self._open + window.started - window.finished

    @property
    def worked(self) -> bool:
        """Whether any operation has ever ended, in whatever way."""
        return self._worked or self._window.finished > 0

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
        self._open, self._worked = self.open, self.worked
        if not self._window.empty:
            self._sink.emit(self._window.event(self._load, now))
        for other in tuple(self._others):
            other()
        self._window = Window(now)

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
