"""What is shown of one unit, episode, fault or load: the parts of `Status`."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from supervisor.histogram import Histogram
from supervisor.journal.events import LoadWindow

RECENT_WINDOWS: Final = 6
"""Windows of a load from which the present rate and latency are shown: about a minute."""


@dataclass(slots=True)
class UnitPicture:
    """One unit."""

    up: bool = False
    ready: bool = False
    incarnation: str = ""
    since: float = 0.0
    """Monotonic seconds of the last change."""
    crashes: int = 0
    restarts: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    """Exits by cause."""
    given_up: bool = False
    downtime: Histogram = field(default_factory=Histogram)
    """Seconds from a crash to running again."""
    signature: str = ""
    """Root cause of the last crash."""

    @property
    def state(self) -> str:
        """The state in one word."""
        if self.given_up:
            return "given up"
        if not self.up:
            return "down"
        return "up" if self.ready else "starting"


@dataclass(slots=True)
class EpisodePicture:
    """One episode."""

    episode: str
    fault: str
    targets: tuple[str, ...]
    since: float
    stage: str = "inject"
    """inject, hold, recover, closed."""
    recovered: bool | None = None
    recovery: float | None = None


@dataclass(slots=True)
class FaultPicture:
    """All episodes of one fault."""

    episodes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Closed episodes by outcome: recovered, not_recovered, unknown."""
    undo_failures: int = 0
    recovery: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class LoadPicture:
    """One load."""

    scheduled: int = 0
    dropped: int = 0
    late: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    response: Histogram = field(default_factory=Histogram)
    recent: deque[LoadWindow] = field(default_factory=lambda: deque(maxlen=RECENT_WINDOWS))
    last_failure: str = ""

    @property
    def operations(self) -> int:
        """Operations that ended."""
        return sum(self.outcomes.values())

    def ok_share(self) -> float | None:
        """Return ok / scheduled, drops included; None before the first operation."""
        total = max(self.scheduled, self.operations + self.dropped)
        return self.outcomes["ok"] / total if total else None

    def rate(self) -> float:
        """Return operations per second over the last minute or so."""
        if not self.recent:
            return 0.0
        span = self.recent[-1].end - self.recent[0].start
        return (
            sum(s.ok + s.failed + s.indeterminate for w in self.recent for s in w.slices) / span
            if span > 0
            else 0.0
        )


@dataclass(frozen=True, slots=True)
class Crash:
    """The last crash, for display."""

    unit: str
    wall: float
    how: str
    signature: str
    file: str | None
