"""Holds thresholds against what was seen. Nothing seen is no pass: it is inconclusive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisor.journal.events import EndReason
from supervisor.judge.looking import compared, look, show
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Threshold, ThresholdError, Unit


class Verdict(StrEnum):
    """From best to worst; the worst of all reasons wins."""

    PASS = "pass"  # noqa: S105  # it is the word
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return list(Verdict).index(self)

    @property
    def exit_code(self) -> int:
        """What `soakd run` and `soakd report` end with; 2 is for wrong input."""
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one threshold."""

    text: str
    verdict: Verdict
    seen: float | None
    """In the threshold's unit; None: there was nothing to see."""
    shown: str
    """`seen` in words."""
    why: str
    """A sentence with the numbers behind it."""


def check(text: str, tally: Tally) -> Checked:
    """Hold one threshold of the soak file against the totals."""
    try:
        threshold = Threshold.parse(text)
    except ThresholdError as error:
        why = (
            f"it cannot be read by this version of soakd ({error}): judge with the version that made the run"
        )
        return Checked(text, Verdict.INCONCLUSIVE, None, "nothing", why)
    base = compared(threshold, tally)
    if base.value is None:
        return Checked(text, Verdict.INCONCLUSIVE, None, "nothing", base.basis)
    seen = look(threshold, base.value, tally)
    if seen.value is None:
        return Checked(text, Verdict.INCONCLUSIVE, None, "nothing", seen.basis)
    shown = show(seen.value, threshold.unit)
    basis = "; ".join(filter(None, (seen.basis, base.basis)))
    why = f"seen {shown} ({basis})" if basis else f"seen {shown}"
    verdict = Verdict.PASS if threshold.holds(seen.value, base.value) else Verdict.FAIL
    doubt = base.doubt or seen.doubt or (seen.missing if verdict is Verdict.PASS else "")
    if doubt:
        return Checked(text, Verdict.INCONCLUSIVE, seen.value, shown, f"{why}, but {doubt}")
    if verdict is Verdict.FAIL and _could_still_hold(threshold, seen.value, tally):
        why += ", but the run was cut short and could still have got there"
        verdict = Verdict.INCONCLUSIVE
    return Checked(text, verdict, seen.value, shown, why)


def complete(tally: Tally) -> bool:
    """Say whether the soak lasted as long as it was meant to."""
    if tally.ended is None or tally.started is None or tally.soaking is None:
        return False
    if tally.ended.reason is EndReason.SIGNAL:
        return tally.started.duration is None or tally.soaked >= tally.started.duration
    return tally.ended.reason is EndReason.DURATION


def _could_still_hold(threshold: Threshold, seen: float, tally: Tally) -> bool:
    """Say whether a count that only grows has missed its goal because the run ended early."""
    grows = threshold.unit is Unit.COUNT and threshold.span is None and seen < threshold.limit.value
    return grows and threshold.op in (">=", ">", "==") and not complete(tally)


__all__ = ["Checked", "Verdict", "check", "complete", "show"]
