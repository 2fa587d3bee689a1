"""The course of a run in a bounded number of steps, for pictures: when there are too many, two become one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

STEPS: Final = 600
"""As many as a picture has room for; a run of days has steps of minutes."""
FINEST: Final = 1.0
"""Seconds of the first steps."""


@dataclass(slots=True)
class Step:
    """What happened in one step."""

    ok: int = 0
    failures: int = 0
    dropped: int = 0
    worst: float = 0.0
    """The longest response of an ok operation, in seconds."""
    crashes: int = 0

    def merge(self, other: Step) -> None:
        """Add another."""
        self.ok += other.ok
        self.failures += other.failures
        self.dropped += other.dropped
        self.worst = max(self.worst, other.worst)
        self.crashes += other.crashes


class Span(NamedTuple):
    """A step at its place."""

    begin: float
    """Monotonic seconds."""
    end: float
    step: Step


@dataclass(slots=True)
class Curve:
    """Steps of equal length, those in which nothing happened left out."""

    seconds: float = FINEST
    steps: dict[int, Step] = field(default_factory=dict)

    def at(self, mono: float) -> Step:
        """Return the step of a moment, to add to."""
        index = int(mono // self.seconds)
        step = self.steps.get(index)
        if step is None:
            if len(self.steps) >= STEPS:
                self._coarsen()
                return self.at(mono)
            step = self.steps[index] = Step()
        return step

    def spans(self) -> Iterator[Span]:
        """Yield the steps in order."""
        for index, step in sorted(self.steps.items()):
            yield Span(index * self.seconds, (index + 1) * self.seconds, step)

    def _coarsen(self) -> None:
        self.seconds *= 2
        steps, self.steps = self.steps, {}
        for index, step in steps.items():
            self.steps.setdefault(index // 2, Step()).merge(step)
