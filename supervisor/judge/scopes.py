"""Which operations and crashes a threshold is about, seen from the episodes that they overlapped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from supervisor.judge.episode import fault_of, split_mark

ANY: Final = "episodes"
"""The word for episodes of whatever fault."""


class Where(StrEnum):
    """The parts of a run, as thresholds say them."""

    DURING = "during"
    """From inject to the close, recovering included."""
    DISTURBED = "while disturbed by"
    """From inject until undo is done."""
    RECOVERING = "while recovering from"
    OUTSIDE = "outside"


_STAGES: Final = {
    Where.DURING: ("direct", "during", "recovering"),
    Where.DISTURBED: ("direct", "during"),
    Where.RECOVERING: ("recovering",),
    Where.OUTSIDE: ("direct", "during", "recovering"),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of a run."""

    where: Where
    fault: str | None = None
    """None: of any fault."""

    def takes(self, marks: Iterable[str]) -> bool:
        """Say whether what overlapped these episodes, each in that stage, belongs to it."""
        overlapped = any(
            stage in _STAGES[self.where] and self.fault in (None, fault_of(episode))
            for episode, stage in map(split_mark, marks)
        )
        return overlapped is not (self.where is Where.OUTSIDE)

    def __str__(self) -> str:
        return f"{self.where} {self.fault or ANY}"
