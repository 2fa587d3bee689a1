"""One register of a bucket, written by compare-and-set: which of its answers cannot all be right. Pure, and bounded.

Every write names the revision that it replaces, so of all that name one at most one may win. Times are those of our own clock, on
which all operations of a load lie: an answer that had come before a question was put must be known to whoever answers that.
What went unanswered may have happened or not, and both are allowed until a read or a watch shows which.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from typing import Final, Literal, NamedTuple

KEPT: Final = 1000
"""Revisions, and unanswered writes, that are remembered."""

Wrong = Literal["forks", "stale_writes", "stale_reads", "spurious_conflicts", "lost_updates", "unexpected"]


class Verdict(NamedTuple):
    """An answer that cannot be right."""

    what: Wrong
    detail: str


class _Winner(NamedTuple):
    n: int
    revision: int
    known: float
    """Monotonic seconds since when it is known to have won."""


class Register:
    """What is known of one key. Writes are told apart by their numbers `n`."""

    def __init__(self) -> None:
        self.high = 0
        """The highest revision that is known to be, or to have been."""
        self._known: deque[tuple[float, int]] = deque(maxlen=KEPT)
        """Since when which revision was the highest known, both rising."""
        self._winners: OrderedDict[int, _Winner] = OrderedDict()
        """By the revision that they replaced."""
        self._values: OrderedDict[int, int] = OrderedDict()
        """Which write made a revision."""
        self._under_way: dict[int, int] = {}
        self._unanswered: OrderedDict[int, int] = OrderedDict()
        """The revision that each of these writes replaces, if it happened."""
        self._blind = -1
        """Of a revision up to this it is not known any more who may have replaced it."""

    # --- writes ----------------------------------------------------------------------------------------------------------

    def begin(self, n: int, expected: int) -> None:
        """A write begins, that shall replace a revision."""
        self._under_way[n] = expected

    def not_sent(self, n: int) -> None:
        """It certainly did not happen."""
        del self._under_way[n]

    def unanswered(self, n: int) -> None:
        """Nobody knows whether it happened."""
        self._unanswered[n] = self._under_way.pop(n)
        if len(self._unanswered) > KEPT:
            _, expected = self._unanswered.popitem(last=False)
            self._blind = max(self._blind, expected)

    def accepted(self, n: int, revision: int, began: float, now: float) -> Verdict | None:
        """It was answered with the revision that it made."""
        expected = self._under_way.pop(n)
        floor = self._floor(began)
        verdict = self._won(n, revision, expected, began, now)
        if revision <= floor:
            verdict = Verdict("lost_updates", f"it made revision {revision}, though {floor} was known before")
        elif not verdict and expected < floor:
            verdict = Verdict("stale_writes", f"it replaced {expected}, though {floor} was known before")
        self._learn(revision, n, now)
        return verdict

    def refused(self, n: int) -> Verdict | None:
        """It was answered that the revision is another, so it did not happen."""
        expected = self._under_way.pop(n)
        replaced = expected in self._winners or expected < self.high or expected <= self._blind
        if replaced or expected in self._under_way.values() or expected in self._unanswered.values():
            return None
        return Verdict("spurious_conflicts", f"nothing can have replaced revision {expected}")

    def _won(self, n: int, revision: int, expected: int, began: float, now: float) -> Verdict | None:
        winner = self._winners.setdefault(expected, _Winner(n, revision, now))
        if len(self._winners) > KEPT:
            replaced, _ = self._winners.popitem(last=False)
            self._blind = max(self._blind, replaced)
        if winner.n == n:
            return None
        what: Wrong = "stale_writes" if winner.known < began else "forks"
        return Verdict(what, f"revision {expected} was replaced by {winner.revision} and by {revision}")

    # --- reads -----------------------------------------------------------------------------------------------------------

    def read(self, revision: int, n: int, began: float, now: float) -> Verdict | None:
        """A read has seen a revision and the write that its value tells; 0 and 0: there is none."""
        if revision < (floor := self._floor(began)):
            return Verdict("stale_reads", f"it saw revision {revision}, though {floor} was known before")
        if not revision:
            return None
        if self._values.get(revision, n) != n:
            return Verdict("unexpected", f"revision {revision} has another value than was written")
        self._learn(revision, n, now)
        expected = self._unanswered.pop(n, None)
        return None if expected is None else self._won(n, revision, expected, now, now)

    def last(self, revision: int) -> Verdict | None:
        """At the end a read has seen this as the present revision."""
        if revision >= self.high:
            return None
        return Verdict(
            "lost_updates", f"at the end it is at revision {revision}, though {self.high} was known"
        )

    # --- what is known ---------------------------------------------------------------------------------------------------

    def _learn(self, revision: int, n: int, now: float) -> None:
        self._values[revision] = n
        if len(self._values) > KEPT:
            self._values.popitem(last=False)
        if revision > self.high:
            self.high = revision
            self._known.append((now, revision))

    def _floor(self, at: float) -> int:
        """Return the highest revision that was known at a time: nothing that is asked from then on may be older."""
        index = bisect_right(self._known, at, key=lambda entry: entry[0])
        return self._known[index - 1][1] if index else 0
