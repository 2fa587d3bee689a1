"""What the loads did, summed over the whole run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from supervisor.journal.events import LoadStopped, LoadWindow, Sample, Slice
from supervisor.judge.counting import add
from supervisor.judge.episodes import STAGES, split_mark
from supervisor.judge.latencies import Latencies

SAMPLES: Final = 10
"""Failed operations that are shown for a load: its first ones."""


@dataclass(slots=True)
class LoadTotals:
    """One load over the whole run, or several together."""

    name: str
    scheduled: int = 0
    started: int = 0
    late: int = 0
    dropped: int = 0
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    cut_off: int = 0
    """Operations that were open when the load stopped. They are indeterminate, and explained by the end of the run."""
    unexplained: int = 0
    """Failed and indeterminate operations that no episode overlapped."""
    stages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    """Failures that episodes overlapped, each once, in the earliest stage of any."""
    errors: dict[str, int] = field(default_factory=dict)
    unexplained_errors: dict[str, int] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)
    unreadable: int = 0
    """Slices whose latencies could not be read: a load of somebody's own may write anything."""
    counters: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Operations whose outcome is known, timeouts included."""
        return self.ok + self.failed + self.indeterminate

    @property
    def attempts(self) -> int:
        """What shares are taken of: scheduled operations, drops included; more if the load scheduled less than it did."""
        return max(self.scheduled, self.finished + self.dropped)

    @property
    def failures(self) -> int:
        """Failed and indeterminate operations: a timeout is no success."""
        return self.failed + self.indeterminate

    def window(self, window: LoadWindow) -> None:
        """Add what the load did between two instants."""
        self.scheduled += window.scheduled
        self.started += window.started
        self.late += window.late
        self.dropped += window.dropped
        self.samples += window.samples[: max(SAMPLES - len(self.samples), 0)]
        for name, amount in window.counters.items():
            self.counters[name] = self.counters.get(name, 0.0) + amount
        for piece in window.slices:
            self._slice(piece)

    def stopped(self, event: LoadStopped) -> None:
        """Count the operations that were cut off, unless the load has reported them itself."""
        self.cut_off += (cut := min(event.open, max(self.started - self.finished, 0)))
        self.indeterminate += cut

    def merge(self, other: LoadTotals) -> None:
        """Add another load, for a threshold that is meant for all of them."""
        for name in (
            "scheduled",
            "started",
            "late",
            "dropped",
            "ok",
            "failed",
            "indeterminate",
            "unexplained",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latencies.merge(other.latencies)
        for name, amount in other.counters.items():
            self.counters[name] = self.counters.get(name, 0.0) + amount

    def _slice(self, piece: Slice) -> None:
        self.ok += piece.ok
        self.failed += piece.failed
        self.indeterminate += piece.indeterminate
        if failures := piece.failed + piece.indeterminate:
            add(self.errors, piece.errors)
            if piece.episodes:
                self.stages[earliest(piece.episodes)] += failures
            else:
                self.unexplained += failures
                add(self.unexplained_errors, piece.errors)
        try:
            self.latencies.add(piece.response, piece.service)
        except ValueError:
            self.unreadable += 1


def earliest(marks: Iterable[str]) -> str:
    """Return the earliest stage that any of the marks is in."""
    stages = {split_mark(mark)[1] for mark in marks}
    return next((stage for stage in STAGES if stage in stages), STAGES[0])
