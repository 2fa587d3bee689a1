"""Sums of packed histograms. A journal of days has some 100,000 of them, so they are added up without unpacking each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from supervisor.histogram import Histogram


@dataclass(slots=True)
class PackedSum:
    """The sum of what `Histogram.pack` returned."""

    counts: dict[float, float] = field(default_factory=dict)
    highest: float = 0.0

    def add(self, flat: Sequence[float]) -> None:
        """Add one; ValueError if it is no packed histogram."""
        if not flat:
            return
        steps, amounts = flat[2::2], flat[3::2]
        if not _sound(flat, steps, amounts):
            raise ValueError("cannot read a histogram: it was not packed by soakd")
        if flat[1] > self.highest:  # noqa: PLR1730  # max() would cost a tenth of the whole call
            self.highest = flat[1]
        counts = self.counts
        for index, amount in zip(accumulate(steps), amounts):  # noqa: B905  # they are as long as each other
            try:  # a plain dict: Python has quick ways for it that it has for no subclass
                counts[index] += amount
            except KeyError:
                counts[index] = amount

    def merge(self, other: PackedSum, sign: int = 1) -> None:
        """Add another sum; or take one away, with the sign -1, which leaves `highest` too high."""
        self.highest = max(self.highest, other.highest)
        counts = self.counts
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
                histogram.buckets[int(index)] = histogram.buckets.get(int(index), 0) + int(count)
                histogram.count += int(count)
        return histogram


def _sound(flat: Sequence[float], steps: Sequence[float], amounts: Sequence[float]) -> bool:
    """Say whether numbers are a packed histogram: no step and no amount negative, no bucket outside the scheme."""
    whole = len(steps) == len(amounts) > 0 and sum(steps) < Histogram.BUCKETS
    return whole and flat[0] >= 0 and flat[1] >= 0 and steps[0] >= 0 and not _negative(flat[3:])


def _negative(numbers: Sequence[float]) -> bool:
    """Say whether one of the numbers is below zero. Nearly all are small and whole, and fit into bytes, which takes half as long as `min`."""
    try:
        bytes(numbers)  # type: ignore[arg-type]  # whether they are whole is told by the error
    except (TypeError, ValueError):
        return min(numbers) < 0
    return False


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
