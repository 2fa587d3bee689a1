"""What overlapped one episode, or all episodes of a fault or of a kind of fault: each stage apart, counts exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from supervisor.journal.events import Slice
from supervisor.judge.counting import add

STAGES: Final = ("direct", "during", "recovering")


class Slowest(NamedTuple):
    """How long an operation took, from its intended start, and what became of it."""

    seconds: float
    error: str = ""
    """Its error class; empty if it was ok."""


@dataclass(slots=True)
class Stage:
    """What overlapped in one stage, and in none before it."""

    ok: int = 0
    failures: int = 0
    """Failed and indeterminate operations."""
    dropped: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """Failures by error class."""
    worst: float = 0.0
    """The longest response of an ok operation, in seconds."""
    slowest_failure: float = 0.0
    """How long the longest failed or indeterminate operation took."""
    slowest_error: str = ""
    """Its error class."""
    crashes: dict[str, int] = field(default_factory=dict)
    """By unit."""

    def overlap(self, piece: Slice) -> None:
        """Count the operations of a slice."""
        self.ok += piece.ok
        self.failures += piece.failed + piece.indeterminate
        self.dropped += piece.dropped
        if piece.errors:
            add(self.errors, piece.errors)
        if piece.response and piece.response[1] > self.worst:
            self.worst = piece.response[1]
        if piece.slowest_failure > self.slowest_failure:
            self.slowest_failure, self.slowest_error = piece.slowest_failure, piece.slowest_error

    def crashed(self, unit: str) -> None:
        """Count a crash."""
        self.crashes[unit] = self.crashes.get(unit, 0) + 1

    @property
    def slowest(self) -> Slowest | None:
        """The operation that took longest, whatever became of it; None if there was none."""
        if self.slowest_failure > self.worst:
            return Slowest(self.slowest_failure, self.slowest_error)
        return Slowest(self.worst) if self.ok else None


@dataclass(slots=True)
class Damage:
    """All stages."""

    by_stage: dict[str, Stage] = field(default_factory=lambda: {stage: Stage() for stage in STAGES})

    def at(self, stage: str) -> Stage:
        """Return a stage, to add to."""
        if stage not in self.by_stage:
            self.by_stage[stage] = Stage()
        return self.by_stage[stage]

    @property
    def stages(self) -> dict[str, int]:
        """Failures by stage."""
        return {name: stage.failures for name, stage in self.by_stage.items()}

    @property
    def failures(self) -> int:
        """Failed and indeterminate operations."""
        return sum(self.stages.values())

    @property
    def ok(self) -> int:
        """Ok operations."""
        return sum(stage.ok for stage in self.by_stage.values())

    @property
    def errors(self) -> dict[str, int]:
        """Failures by error class."""
        return _added([stage.errors for stage in self.by_stage.values()])

    @property
    def crashes(self) -> dict[str, int]:
        """Crashes by unit."""
        return _added([stage.crashes for stage in self.by_stage.values()])

    @property
    def worst(self) -> float:
        """The longest response of an ok operation, in seconds."""
        return max(stage.worst for stage in self.by_stage.values())

    @property
    def slowest(self) -> Slowest | None:
        """The operation that took longest, whatever became of it; None if there was none."""
        return max(filter(None, (stage.slowest for stage in self.by_stage.values())), default=None)


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        add(total, one)
    return total
