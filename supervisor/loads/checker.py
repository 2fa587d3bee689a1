"""What became of a writer's messages 1, 2, 3 ...: a high-watermark and the gaps below it, in memory that does not grow with time."""

from __future__ import annotations

from bisect import bisect_right
from enum import Enum
from typing import Final, Literal, NamedTuple

GAPS: Final = 10_000
"""Gaps that are kept; beyond them the oldest is given up at once. As many that were given up are remembered."""

Where = Literal["prefix", "middle", "postfix"]
"""Before all that arrived, between, or after."""


class Arrival(Enum):
    """What a message that arrived was."""

    FIRST = "first"
    REORDERED = "reordered"
    """For the first time, but after one that was written later."""
    LATE = "late"
    """For the first time, after it had been given up as lost."""
    DUPLICATE = "duplicate"
    UNEXPECTED = "unexpected"
    """It was never written."""


FIRST: Final = Arrival.FIRST
"""By a name of its own, since nearly all are: Python 3.11 looks for a member of an Enum each time, which takes a quarter of `arrived`."""


class Loss(NamedTuple):
    """Messages that never arrived, from the first to the last of them."""

    first: int
    last: int
    where: Where

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class Ranges:
    """Disjoint ranges of numbers, added in ascending order."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, first: int, last: int) -> None:
        """Add a range above all others."""
        self._ranges.append((first, last))

    def discard(self, n: int) -> bool:
        """Take a number out; False if it is in no range."""
        index = bisect_right(self._ranges, n, key=lambda bounds: bounds[0]) - 1
        if index < 0 or n > self._ranges[index][1]:
            return False
        first, last = self._ranges[index]
        rest = [(low, high) for low, high in ((first, n - 1), (n + 1, last)) if low <= high]
        self._ranges[index : index + 1] = rest
        return True

    def pop(self, upto: int) -> tuple[int, int] | None:
        """Take out the lowest range, as far as it is not above `upto`; None if there is none."""
        if not self._ranges or self._ranges[0][0] > upto:
            return None
        first, last = self._ranges[0]
        if last > upto:
            self._ranges[0] = (upto + 1, last)
            return first, upto
        return self._ranges.pop(0)


class Checker:
    """Follows one writer, whose messages are numbered from 1 without a gap. `settle` is to be called now and then."""

    def __init__(self) -> None:
        self.high = 0
        """The highest number that arrived, or was given up at the end."""
        self._lowest: int | None = None
        self._gaps, self._given_up = Ranges(), Ranges()
        self._lost: list[tuple[int, int]] = []
        """What was given up for want of room since the last `settle`."""

    @property
    def gaps(self) -> int:
        """How many gaps there are below `high`."""
        return len(self._gaps)

    def arrived(self, n: int, written: int) -> Arrival:
        """Take a message of which the writer has written `written` so far."""
        if not 0 < n <= written:
            return Arrival.UNEXPECTED
        if n > self.high:
            if n > self.high + 1:
                self._gaps.add(self.high + 1, n - 1)
                if len(self._gaps) > GAPS and (oldest := self._gaps.pop(n)):
                    self._lost.append(oldest)
                    self._remember(*oldest)
            self.high = n
            arrival = FIRST
        elif self._gaps.discard(n):
            arrival = Arrival.REORDERED
        elif self._given_up.discard(n):
            arrival = Arrival.LATE
        else:
            return Arrival.DUPLICATE
        if self._lowest is None or n < self._lowest:
            self._lowest = n
        return arrival

    def settle(self, upto: int) -> list[Loss]:
        """Give up what has not arrived of the messages up to `upto`, and return it. What is above all that arrived may still come."""
        lost, self._lost = self._lost, []
        while gap := self._gaps.pop(upto):
            lost.append(gap)
            self._remember(*gap)
        return [Loss(first, last, self._where(first)) for first, last in lost]

    def finish(self, written: int) -> list[Loss]:
        """Give up whatever has not arrived of all that was written, at the end."""
        lost = self.settle(self.high)
        if written > self.high:
            lost.append(Loss(self.high + 1, written, "prefix" if self._lowest is None else "postfix"))
            self._remember(self.high + 1, written)
            self.high = written
        return lost

    def _remember(self, first: int, last: int) -> None:
        self._given_up.add(first, last)
        if len(self._given_up) > GAPS:
            self._given_up.pop(last)

    def _where(self, first: int) -> Where:
        return "middle" if self._lowest is not None and self._lowest < first else "prefix"
