"""Ends a run as soon as a threshold that wants it can no longer be kept, by the same rules that judge it in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from supervisor.journal.events import (
    EpisodeClosed,
    LoadWindow,
    Observation,
    Record,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitRestarted,
)
from supervisor.judge.evaluation import Verdict, check
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Threshold

_TELLING: Final = (
    EpisodeClosed,
    LoadWindow,
    Observation,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitRestarted,
)
"""Records after which something may be lost. Observations come when nothing else does."""


class Abort:
    """Follows the journal. Only thresholds that can be lost before the end (`Threshold.can_be_lost`) make sense here."""

    def __init__(self, thresholds: Sequence[Threshold], end: Callable[[str], None]) -> None:
        """`end` is told, once, which threshold is lost and why."""
        self._thresholds, self._end = thresholds, end
        self._tally = Tally()
        self._over = False

    def apply(self, record: Record) -> None:
        """Take the next record. A journal listener."""
        if self._over:
            return
        self._tally.apply(record)
        if not isinstance(record.event, _TELLING) or self._tally.ended:
            return
        for threshold in self._thresholds:
            checked = check(threshold.text, self._tally)
            if checked.verdict is Verdict.FAIL:
                self._over = True
                self._end(f"{threshold.text} is lost: {checked.why}")
                return
