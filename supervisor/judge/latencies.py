"""Sums of packed histograms. A journal of days has some 100,000 of them, so they are added up without unpacking each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from supervisor.histogram import Histogram

MANY: Final = 64
"""Sums that so much was added to have a place for each bucket: a quarter quicker to add to, and 7 kB."""


@dataclass(slots=True)
class PackedSum:
    """The sum of what `Histogram.pack` returned."""

    highest: float = 0.0
    _few: dict[int, int] = field(default_factory=dict)
    """By bucket, as long as little was added."""
    _all: list[int] = field(default_factory=list)
    """Every bucket, from then on."""
    _added: int = 0

    @property
    def counts(self) -> dict[int, int]:
        """How many there are in each bucket that has any."""
        return {index: count for index, count in enumerate(self._all) if count} if self._all else self._few

    def add(self, flat: Sequence[float]) -> None:
        """Add one; ValueError if it is no packed histogram."""
        if not flat:
            return
        indices, amounts = _read(flat)
        if flat[1] > self.highest:  # noqa: PLR1730  # max() would cost a tenth of the whole call
            self.highest = flat[1]
        if counts := self._all:
            for index, amount in zip(indices, amounts):  # noqa: B905  # they are as long as each other
                counts[index] += amount
            return
        few = self._few
        for index, amount in zip(indices, amounts):  # noqa: B905
            few[index] = few.get(index, 0) + amount
        self._added += 1
        if self._added >= MANY:
            self._all = [few.get(index, 0) for index in range(Histogram.BUCKETS)]
            self._few = {}

    def merge(self, other: PackedSum, sign: int = 1) -> None:
        """Add another sum; or take one away, with the sign -1, which leaves `highest` too high."""
        self.highest = max(self.highest, other.highest)
        if self._all:
            for index, count in other.counts.items():
                self._all[index] += sign * count
            return
        counts = self._few
        for index, count in other.counts.items():
            if left := counts.get(index, 0) + sign * count:
                counts[index] = left
            else:
                counts.pop(index, None)

    def histogram(self, *more: PackedSum) -> Histogram:
        """Return the sum of this one and others as a histogram. Its `total` is not known."""
        histogram = Histogram()
        for one in (self, *more):
            histogram.highest = max(histogram.highest, one.highest)
            for index, count in one.counts.items():
                histogram.buckets[index] = histogram.buckets.get(index, 0) + count
                histogram.count += count
        return histogram


def _read(flat: Sequence[float]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the buckets of a packed histogram, and how many there are in each; ValueError if it is none."""
    numbers: Sequence[Any] = flat[2:]
    try:  # nearly all are small and whole, and fit into bytes, which takes half as long as to look at each
        bytes(numbers[1:])
        whole = type(numbers[0]) is int
    except (TypeError, ValueError, IndexError):
        whole = False
    if not whole and set(map(type, numbers)) != {int}:
        try:
            numbers = tuple(map(int, numbers))
        except (TypeError, OverflowError) as error:
            raise ValueError("cannot read a histogram: it does not consist of numbers") from error
    indices: tuple[int, ...] = (*accumulate(numbers[::2]),)
    amounts: Sequence[int] = numbers[1::2]
    sound = len(indices) == len(amounts) > 0 and flat[0] >= 0 and flat[1] >= 0 and indices[0] >= 0
    if not sound or indices[-1] >= Histogram.BUCKETS or (not whole and min(numbers) < 0):
        raise ValueError("cannot read a histogram: it was not packed by soakd")
    return indices, amounts


@dataclass(slots=True)
class Latencies:
    """Latencies of ok operations: from the intended start (response) and from the actual one (service)."""

    both: PackedSum = field(default_factory=PackedSum)
    """Of slices where the two are equal: a closed loop."""
    only_response: PackedSum = field(default_factory=PackedSum)
    only_service: PackedSum = field(default_factory=PackedSum)

    def add(self, response: Sequence[float], service: Sequence[float]) -> None:
        """Add the histograms of one slice; ValueError if one of them is none."""
        if service:
            self.only_response.add(response)
            self.only_service.add(service)
        else:
            self.both.add(response)

    def merge(self, other: Latencies, sign: int = 1) -> None:
        """Add those of another load; or take them away, with the sign -1."""
        for name in ("both", "only_response", "only_service"):
            getattr(self, name).merge(getattr(other, name), sign)

    @property
    def response(self) -> Histogram:
        """All response times."""
        return self.both.histogram(self.only_response)

    @property
    def service(self) -> Histogram:
        """All service times."""
        return self.both.histogram(self.only_service)
