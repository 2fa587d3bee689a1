"""What the loads did, summed over the whole run or a part of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from supervisor.journal.events import CUT_OFF, LoadBroken, LoadStopped, LoadWindow, Sample, Slice
from supervisor.judge.counting import Some, add, unexplained
from supervisor.judge.curve import Curve
from supervisor.judge.damage import STAGES
from supervisor.judge.episode import split_mark
from supervisor.judge.latencies import Latencies, PackedSum

SAMPLES: Final = 10
"""Failed operations that are shown for a load: its first ones, and apart from them the first that no episode explains."""
EDGE: Final = 0.25
"""Seconds by which a window may end late and still tell of the time before."""
_COUNTS: Final = ("scheduled", "started", "late", "dropped", "ok", "failed", "indeterminate", "unexplained")


@dataclass(slots=True)
class Amounts:
    """Counts of operations. All of it can be added up, and but for the longest latency taken away again."""

    scheduled: int = 0
    started: int = 0
    late: int = 0
    dropped: int = 0
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    unexplained: int = 0
    """Failed and indeterminate operations that no episode overlapped, and that were not cut off by the end of the run."""
    latencies: Latencies = field(default_factory=Latencies)
    lag: PackedSum = field(default_factory=PackedSum)
    """By how much operations began after their intended time, by our own doing."""
    counters: dict[str, float] = field(default_factory=dict)
    unreadable: int = 0
    """Slices whose latencies could not be read: a load of somebody's own may write anything."""

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

    def whole(self, window: LoadWindow, *, timed: bool = True) -> None:
        """Add all that a load did between two instants; its latencies only if they are looked at, since they take most of the time."""
        self.scheduled += window.scheduled
        self.started += window.started
        self.late += window.late
        self.dropped += window.dropped
        for name, amount in window.counters.items():
            self.counters[name] = self.counters.get(name, 0.0) + amount
        if timed and window.lag:
            try:
                self.lag.add(window.lag)
            except ValueError:
                self.unreadable += 1
        for piece in window.slices:
            self.piece(piece, timed=timed)

    def ended(self, window: LoadWindow, *, timed: bool = True) -> None:
        """Add what ended between two instants; what was merely scheduled then ends elsewhere."""
        scheduled = self.scheduled
        self.whole(window, timed=timed)
        self.scheduled = scheduled

    def piece(self, piece: Slice, *, timed: bool = True) -> None:
        """Add operations that overlapped the same episodes."""
        self.ok += piece.ok
        self.failed += piece.failed
        self.indeterminate += piece.indeterminate
        if not piece.episodes:
            self.unexplained += unexplained(piece)
        if not timed:
            return
        try:
            self.latencies.add(piece.response, piece.service)
        except ValueError:
            self.unreadable += 1

    def merge(self, other: Amounts, sign: int = 1) -> None:
        """Add others, or with the sign -1 take away what was added before."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        self.unreadable += sign * other.unreadable
        self.latencies.merge(other.latencies, sign)
        self.lag.merge(other.lag, sign)
        for name, amount in other.counters.items():
            self.counters[name] = self.counters.get(name, 0.0) + sign * amount


@dataclass(slots=True)
class LoadTotals(Amounts):
    """One load over the whole run, or several together."""

    name: str = ""
    cut_off: int = 0
    """Operations that the end of the run cut off. They are indeterminate, and explained by that end."""
    stages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    """Failures that episodes overlapped, each once, in the earliest stage of any."""
    oks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    """Ok operations by stage, likewise."""
    errors: dict[str, int] = field(default_factory=dict)
    unexplained_errors: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    unexplained_samples: list[Sample] = field(default_factory=list)
    curve: Curve = field(default_factory=Curve)
    crashed: int = 0
    """How often the load, or a process of it, ended before it should: what it had not settled by then it never will."""
    loops: PackedSum = field(default_factory=PackedSum)
    """How late the event loops of its own processes were; empty if it runs in the daemon's."""
    broken: Some = field(default_factory=Some)
    """Those where it is the load that went wrong: it raised, or did not return in its time."""
    killed: Some = field(default_factory=Some)
    """Processes of it that ended without a word."""
    unworkable: Some = field(default_factory=Some)
    """That it cannot work by its own settings."""

    def window(self, window: LoadWindow) -> None:
        """Add what the load did between two instants."""
        self.whole(window)
        for sample in window.samples if len(self.unexplained_samples) < SAMPLES else ():
            if len(self.samples) < SAMPLES:
                self.samples.append(sample)
            stands_out = not sample.episodes and sample.error != CUT_OFF
            if stands_out and len(self.unexplained_samples) < SAMPLES:
                self.unexplained_samples.append(sample)
        if not window.slices:
            return
        step = self.curve.at(window.end - EDGE)
        for piece in window.slices:
            failures = piece.failed + piece.indeterminate
            step.ok += piece.ok
            step.failures += failures
            step.dropped += piece.dropped
            if piece.response and piece.response[1] > step.worst:
                step.worst = piece.response[1]
            if piece.episodes:
                stage = earliest(piece.episodes)
                self.oks[stage] += piece.ok
                self.stages[stage] += failures
            if failures:
                add(self.errors, piece.errors)
                self.cut_off += piece.errors.get(CUT_OFF, 0)
                if not piece.episodes:
                    add(self.unexplained_errors, {n: c for n, c in piece.errors.items() if n != CUT_OFF})

    @property
    def without_outcome(self) -> int:
        """Operations that were begun and of which nothing more was ever heard."""
        return max(self.started - self.finished, 0)

    def broke(self, event: LoadBroken) -> None:
        """Take that the load broke."""
        self.crashed += 1
        some = {"killed": self.killed, "unworkable": self.unworkable}.get(event.how, self.broken)
        some.add(": ".join(filter(None, (event.process, event.error))))

    def stopped(self, event: LoadStopped) -> None:
        """Count operations that were cut off and that no window told of, as a load of somebody's own may leave them."""
        self.cut_off += (cut := min(event.open, self.without_outcome))
        self.indeterminate += cut


@lru_cache(256)  # of the same episodes several windows tell, one after the other
def earliest(marks: tuple[str, ...]) -> str:
    """Return the earliest stage that any of the marks is in."""
    stages = {split_mark(mark)[1] for mark in marks}
    return next((stage for stage in STAGES if stage in stages), STAGES[0])
