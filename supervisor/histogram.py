"""The histogram that every load uses: of durations, in buckets of which each is at most 3.1 % wide."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final


class Histogram:
    """Counts of durations in one fixed log-linear scheme, so that merging two is addition.

    A duration is taken in whole microseconds. Values below 2 * `SUB` have a bucket each; above, every power of two is
    divided into `SUB` equal buckets, so a bucket is at most 1 / `SUB` (3.1 %) wide and there are at most `BUCKETS` of them:
    memory is bounded for ever. The scheme is HdrHistogram's with five bits.
    """

    SUB: Final = 32
    LIMIT: Final = 2**33 - 1
    """Microseconds (2 h 23 min); anything longer is counted as this."""
    BUCKETS: Final = 32 * (33 - 5 + 1)

    __slots__ = ("buckets", "count", "highest", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        """Sum of all durations in seconds."""
        self.highest = 0.0
        """The longest duration in seconds, exactly."""

    @classmethod
    def index(cls, micros: int) -> int:
        """Return the bucket of a number of microseconds."""
        if micros < 2 * cls.SUB:
            return max(micros, 0)
        if micros > cls.LIMIT:  # noqa: PLR1730  # min() and max() would cost more than all else here, up to three times an operation
            micros = cls.LIMIT
        shift = micros.bit_length() - 6
        return shift * cls.SUB + (micros >> shift)

    @classmethod
    def bounds(cls, index: int) -> tuple[int, int]:
        """Return the first microsecond of a bucket and the first one after it."""
        shift = max(index // cls.SUB - 1, 0)
        low = index - shift * cls.SUB
        return low << shift, (low + 1) << shift

    def record(self, seconds: float) -> None:
        """Count one duration in seconds; negative ones count as zero."""
        if seconds < 0.0:  # noqa: PLR1730  # as above
            seconds = 0.0
        index = self.index(int(seconds * 1e6))
        self.buckets[index] = self.buckets.get(index, 0) + 1
        self.count += 1
        self.total += seconds
        if seconds > self.highest:  # noqa: PLR1730  # as above
            self.highest = seconds

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts to this one."""
        for index, count in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count
        self.count += other.count
        self.total += other.total
        self.highest = max(self.highest, other.highest)

    def quantile(self, share: float) -> float | None:
        """Return the duration in seconds that a share (0..1) of all stays at or below, None without samples.

        It is the upper end of its bucket, never above the longest duration seen: never flattering, at most 3.1 % high.
        """
        if not self.count:
            return None
        rank, seen = max(math.ceil(share * self.count), 1), 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= rank:
                return min(self.bounds(index)[1] / 1e6, self.highest)
        return self.highest

    def pack(self) -> list[float]:
        """Return the flat JSON form: total, highest, then each bucket as its distance from the one before and its count."""
        flat: list[float] = [round(self.total, 6), round(self.highest, 6)]
        previous = 0
        for index in sorted(self.buckets):
            flat += (index - previous, self.buckets[index])
            previous = index
        return flat

    @classmethod
    def unpack(cls, flat: Iterable[float]) -> Histogram:
        """Read what `pack` wrote; ValueError for anything else."""
        numbers = list(flat)
        if len(numbers) % 2:
            raise ValueError("cannot read a histogram: an odd number of values")
        histogram, index = cls(), 0
        if numbers:
            histogram.total, histogram.highest = numbers[0], numbers[1]
        for step, count in zip(numbers[2::2], numbers[3::2], strict=True):
            index += int(step)
            if not 0 <= index < cls.BUCKETS or count < 1:
                raise ValueError("cannot read a histogram: a bucket outside the scheme")
            histogram.buckets[index] = histogram.buckets.get(index, 0) + int(count)
            histogram.count += int(count)
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.buckets == other.buckets and self.count == other.count

    __hash__ = None  # type: ignore[assignment]  # it changes
