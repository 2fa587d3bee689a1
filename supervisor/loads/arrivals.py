"""When operations are due: pure schedules, as seconds since a run's start.

Each is an endless iterator of due times that never fall and all lie at or after `since`, so that a load that begins late, or again,
enters its schedule where it is by then. Times are computed from the start, never from the operation before: an executor that fell
behind is owed all it missed, which is what makes the load an open one.

Operations are numbered from the run's start. Of several processes each takes the numbers that are its own (`share`: which one, of how
many), so that they share one schedule whenever each of them begins.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import Final, NamedTuple


class Slope(NamedTuple):
    """A stage of a ramp: within `seconds` the rate changes evenly until it is `rate` a second."""

    rate: float
    seconds: float


class Crew(NamedTuple):
    """A stage of workers: so many for so long."""

    workers: int
    seconds: float


WHOLE: Final = (0, 1)
"""The share of a process that is alone."""
GAPS: Final = 1024
"""Gaps that are drawn from one seed."""


NEVER: Final = 1e9
"""Seconds after the run's start when something is due that never is: thirty years, and still a number of nanoseconds."""


def constant(rate: float, since: float = 0.0, share: tuple[int, int] = WHOLE) -> Iterator[float]:
    """Operation n is due at n / rate."""
    return (n / rate for n in count(_own(math.ceil(since * rate), share), share[1]))


def _own(n: int, share: tuple[int, int]) -> int:
    """Return the first number from `n` on that belongs to a share."""
    process, of = share
    return n + (process - n) % of


def ramp(slopes: Sequence[Slope], since: float = 0.0, share: tuple[int, int] = WHOLE) -> Iterator[float]:
    """The rate begins at 0 and follows the slopes; the last one's rate stays: where that is 0, the next operation is never due.

    Operation n is due when the integral of the rate reaches n, so the number of operations is exact over any time.
    """
    begin = low = total = 0.0
    n = 0
    for high, seconds in slopes:
        after = total + (low + high) / 2 * seconds
        growth = (high - low) / seconds if seconds else 0.0
        passed = total + _done(low, growth, min(max(since - begin, 0.0), seconds))
        n = _own(max(n, math.ceil(passed)), share)
        while n < after:
            yield max(begin + _reached(n - total, low, growth), since)
            n += share[1]
        begin, low, total = begin + seconds, high, after
    if not low:
        yield from repeat(NEVER)
    n = _own(max(n, math.ceil(total + low * max(since - begin, 0.0))), share)
    for n in count(n, share[1]):  # noqa: B020  # from here on n is the schedule
        yield max(begin + (n - total) / low, since)


def _done(low: float, growth: float, seconds: float) -> float:
    """Return how many operations a slope has made due after so many seconds."""
    return low * seconds + growth / 2 * seconds * seconds


def _reached(n: float, low: float, growth: float) -> float:
    """Return the seconds after which a slope has made n operations due: the stable root of `_done` = n."""
    root = math.sqrt(max(low * low + 2 * growth * n, 0.0))
    return 2 * n / (low + root) if n > 0 else 0.0


def poisson(rate: float, chance: random.Random, since: float = 0.0) -> Iterator[float]:
    """Operations come independently of each other, `rate` a second on average; it has no memory, so it may begin anywhere."""
    due = since
    while True:
        due += chance.expovariate(rate)
        yield due


def between(
    low: float, high: float, seed: str, begin: float, share: tuple[int, int] = WHOLE, *, done: int = 0
) -> Iterator[float]:
    """Gaps are drawn evenly from `low` to `high` seconds, the first one from `begin` on.

    All who share draw the same gaps and take every so many-th operation, so gaps of the whole are what they would be without sharing.
    Who has scheduled `done` of its own before goes on with the next one of them, which is due at `begin`.
    """
    process, of = share
    due, n = begin, 0
    if done:
        n = process + of * done
        yield due
        n += 1
    for n, gap in enumerate(_gaps(low, high, seed, n), n):  # noqa: B020  # from here on n is the operation
        due += gap
        if n % of == process:
            yield due


def _gaps(low: float, high: float, seed: str, first: int) -> Iterator[float]:
    """Yield the gaps before operations `first` and on; drawn in blocks, so that one may begin anywhere at no cost."""
    skipped = first % GAPS
    for block in count(first // GAPS):
        chance = random.Random(f"{seed}/{block}")  # noqa: S311  # draws are to be repeatable
        yield from [chance.uniform(low, high) for _ in range(GAPS)][skipped:]
        skipped = 0


def bursts(size: int, every: float, first: float = 0.0, since: float = 0.0) -> Iterator[float]:
    """`size` operations are due at the same instant, at `first` and then every so many seconds: the same for all who ask."""
    begin = max(math.ceil((since - first) / every), 0)
    return (due for n in count(begin) for due in repeat(first + n * every, size))


def crew(stages: Sequence[Crew], at: float) -> tuple[int, float]:
    """Return how many workers there are `at` seconds after the start, and for how long still; the last stage stays for ever."""
    for workers, seconds in stages[:-1]:
        if at < seconds:
            return workers, seconds - at
        at -= seconds
    return stages[-1].workers, math.inf
