"""What a threshold is measured by, and of which operations where that is a part of the run; `sliding` has windows along it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from supervisor.journal.events import LoadWindow
from supervisor.judge.latencies import PackedSum
from supervisor.judge.metrics import OK_RATE, Subject, Unit
from supervisor.judge.operations import Amounts
from supervisor.judge.thresholds import Threshold

OWN_SHARE: Final = 0.2
"""Of a latency's limit: above that our own lag may be what is seen."""
OWN_LEAST: Final = 0.001
"""Seconds of lag that any event loop has: its timers know milliseconds."""


def measure(threshold: Threshold, amounts: Amounts, seconds: float) -> float | None:
    """Return what a threshold compares, in its unit; None if there is nothing to see it from. `seconds` is what a rate is taken over."""
    metric = threshold.metric
    if metric.subject is Subject.UNIT:
        return amounts.counters.get(metric.name, 0.0)
    if metric.counter is not None:
        return amounts.counters.get(metric.counter, 0.0)
    if metric.name == OK_RATE:
        return amounts.ok / seconds if seconds > 0 else None
    if metric.quantile is not None:
        latencies = amounts.latencies
        histogram = latencies.service if metric.name.startswith("service") else latencies.response
        return histogram.quantile(metric.quantile)
    count = int(getattr(amounts, FIELDS.get(metric.name, metric.name)))
    if threshold.unit is Unit.COUNT:
        return count
    return count / amounts.attempts if amounts.attempts else None


FIELDS: Final = {"unexplained failures": "unexplained", "ok operations": "ok"}
"""Metrics that are not called as they are counted."""


def tolerated(limit: float) -> float:
    """Return the seconds of our own lag up to which a latency can be held against a limit."""
    return max(OWN_SHARE * limit, OWN_LEAST)


Loops = dict[str, PackedSum]
"""How late event loops were, by the load whose own they are; the daemon's under an empty name."""


def loops_of(load: str | None, loops: Loops) -> PackedSum:
    """Return how late the event loop was that a threshold's load runs in; of all loads, any of them."""
    if load is not None:
        return loops.get(load) or loops.get("") or PackedSum()
    total = PackedSum()
    for one in loops.values():
        total.merge(one)
    return total


@dataclass(slots=True)
class Part:
    """A part of a run, in totals: what a scope leaves, or what came after the baseline."""

    threshold: Threshold
    amounts: Amounts = field(default_factory=Amounts)
    loops: Loops = field(default_factory=dict)
    begun: float | None = None
    """Monotonic seconds from which on it is measured; None: not yet."""
    ended: float | None = None

    def begin(self, mono: float) -> None:
        """Measure from now on."""
        self.begun = mono if self.begun is None else self.begun

    def end(self, mono: float) -> None:
        """Hear that the soak is over; what was under way still counts."""
        self.ended = mono if self.ended is None else self.ended

    def window(self, window: LoadWindow) -> None:
        """Take what a load did."""
        if self.begun is not None and self.threshold.load in (None, window.load):
            take(self.threshold, window, self.amounts)

    def unit(self, what: str, unit: str, marks: Iterable[str], mono: float) -> None:  # noqa: ARG002  # a part has no times
        """Take something that happened to a unit."""
        if self.begun is not None and concerns(self.threshold, what, unit, tuple(marks)):
            self.amounts.counters[what] = self.amounts.counters.get(what, 0.0) + 1

    def loop(
        self, load: str, begin: float, end: float, lags: PackedSum, marks: Iterable[tuple[str, ...]]
    ) -> None:
        """Take how late an event loop was between two instants: the daemon's, or those of a load that has its own."""
        scope = self.threshold.scope
        if self.begun is None or end < self.begun or (self.ended is not None and begin > self.ended):
            return
        if scope is None or any(scope.takes(one) for one in marks):
            self.loops.setdefault(load, PackedSum()).merge(lags)

    def now(self, mono: float) -> None:
        """Hear what time it is: a part has no times."""

    def seconds(self, now: float) -> float:
        """How long it was measured."""
        return (now if self.ended is None else self.ended) - self.begun if self.begun is not None else 0.0


def take(threshold: Threshold, window: LoadWindow, amounts: Amounts) -> None:
    """Add what a window has of what a threshold is about."""
    timed = threshold.metric.quantile is not None
    if threshold.scope is None and threshold.span is None:
        amounts.whole(window, timed=timed)
    elif threshold.scope is None:
        amounts.ended(window, timed=timed)
    else:
        for piece in window.slices:
            if threshold.scope.takes(piece.episodes):
                amounts.piece(piece, timed=timed)
                amounts.dropped += piece.dropped


def concerns(threshold: Threshold, what: str, unit: str, marks: tuple[str, ...]) -> bool:
    """Say whether a threshold is about something that happened to a unit while these episodes were open."""
    if threshold.metric.name != what or threshold.of not in (None, unit):
        return False
    return threshold.scope is None or threshold.scope.takes(marks)
