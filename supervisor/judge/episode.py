"""One episode as the journal tells it, and the totals of its fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from supervisor.histogram import Histogram
from supervisor.journal.events import (
    Evidence,
    Reading,
)
from supervisor.judge.counting import Moment, Some
from supervisor.judge.damage import Damage


class Outcome(StrEnum):
    """How an episode ended."""

    RECOVERED = "recovered"
    NOT_RECOVERED = "not recovered"
    UNSEEN = "nobody looked"
    """It was closed without a look: the run ended first, or `soakd recover` closed it."""
    OPEN = "never closed"


def split_mark(mark: str) -> tuple[str, str]:
    """Return the episode and the stage of a mark such as `restart-nats#7:during`."""
    episode, _, stage = mark.rpartition(":")
    return episode, stage


def readings_of(event: Evidence) -> list[tuple[str, Reading]]:
    """Return each reading with the time it belongs to: before, during, recovered."""
    return [(event.when, reading) for reading in event.readings]


def fault_of(episode: str) -> str:
    """Return the fault of `restart-nats#7`."""
    return episode.rpartition("#")[0]


@dataclass(slots=True)
class Episode:
    """One occurrence of a fault."""

    id: str
    fault: str
    type: str
    n: int
    targets: tuple[str, ...]
    intended: Moment
    injected: Moment | None = None
    undone: Moment | None = None
    closed: Moment | None = None
    recovered: bool | None = None
    recovery: float | None = None
    """Seconds from the end of undo until the steady state held."""
    truncated: str = ""
    failing: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    """What was expected during it and was not seen."""
    inject_error: str = ""
    undo_errors: int = 0
    broken: str = ""
    """What may still be broken after an undo failed."""
    damage: Damage = field(default_factory=Damage)
    first_failure: float | None = None
    """Monotonic seconds of the first failed or indeterminate operation that overlapped it."""
    first_ok: float | None = None
    """The same of the first ok operation that began after undo."""
    evidence: list[tuple[str, Reading]] = field(default_factory=list)
    """What the probes saw and when: before, during, recovered."""

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        if self.closed is None:
            return Outcome.OPEN
        if self.recovered is None:
            return Outcome.UNSEEN
        return Outcome.RECOVERED if self.recovered else Outcome.NOT_RECOVERED

    @property
    def good(self) -> bool:
        """True: all of it went as it should, which is what most episodes of a long run do."""
        bad = self.inject_error or self.undo_errors or self.truncated or self.unmet
        return self.recovered is True and not bad

    @property
    def to_first_failure(self) -> float | None:
        """Seconds from inject to the first operation that failed."""
        return None if self.first_failure is None else max(self.first_failure - self.intended.mono, 0.0)

    @property
    def to_first_ok(self) -> float | None:
        """Seconds from the end of undo to the first ok operation that began after it."""
        if self.first_ok is None or self.undone is None:
            return None
        return max(self.first_ok - self.undone.mono, 0.0)


@dataclass(slots=True)
class FaultTotals:
    """All episodes of a fault, however many there were."""

    name: str
    type: str = ""
    episodes: int = 0
    injected: int = 0
    recovered: int = 0
    not_recovered: Some = field(default_factory=Some)
    unseen: int = 0
    inject_failed: Some = field(default_factory=Some)
    undo_failed: Some = field(default_factory=Some)
    truncated: Some = field(default_factory=Some)
    unmet: Some = field(default_factory=Some)
    skipped: Some = field(default_factory=Some)
    unheard: dict[str, Some] = field(default_factory=dict)
    """By load, episodes of which a process that shares it may have known too late, so that it counted what they explain without them."""
    recovery: Histogram = field(default_factory=Histogram)
    """Seconds from undo to steady state of the episodes that recovered."""
    damage: Damage = field(default_factory=Damage)
