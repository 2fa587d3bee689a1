"""When each fault comes and what it is drawn from: a pure function of the seed, the fault's name and the draw's number.

Inside the generator of one draw the order is fixed: first one number for the schedule, whether the schedule needs it or not, then
whatever the kind draws for its targets. So a fault that goes from `every` to `between` keeps its targets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice

from supervisor.faults.base import Fault


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of one fault."""

    seed: int
    fault: str
    n: int
    """1, 2, 3 ..."""
    delay: float
    """Seconds from the start of the soak (`at`), else from the close of the fault's last episode; for the first, the start."""
    from_start: bool
    """True: `delay` counts from the start of the soak."""

    @property
    def episode(self) -> str:
        """The id of the episode that this draw becomes."""
        return f"{self.fault}#{self.n}"

    def rng(self) -> random.Random:
        """Return the generator for the targets, new each time: aiming twice at the same system chooses the same."""
        rng, _ = _open(self.seed, self.fault, self.n)
        return rng


@dataclass(frozen=True, slots=True)
class Preview:
    """A draw as `soakd check` shows it."""

    draw: Draw
    targets: str
    """In words, empty if only the run can tell."""


def _open(seed: int, fault: str, n: int) -> tuple[random.Random, float]:
    rng = random.Random(f"{seed}/{fault}/{n}")  # noqa: S311  # replayable, not secret
    return rng, rng.random()


def draw(seed: int, name: str, fault: Fault, n: int) -> Draw | None:
    """Return draw n of a fault, None if its schedule names no such time."""
    if fault.at is not None:
        times = sorted(fault.at)
        return Draw(seed, name, n, times[n - 1], from_start=True) if n <= len(times) else None
    delay = fault.every or 0.0
    if fault.between is not None:
        shortest, longest = fault.between
        delay = shortest + (longest - shortest) * _open(seed, name, n)[1]
    return Draw(seed, name, n, delay, from_start=n == 1)


def draws(
    faults: Mapping[str, Fault], seed: int, count: int, units: Sequence[str] = ()
) -> dict[str, tuple[Preview, ...]]:
    """Return the first `count` draws of each fault (fewer if its schedule has fewer), as far as they are known before a run.

    `units` are the ids known from the soak file. Touches nothing.
    """
    return {name: tuple(islice(_previews(seed, name, fault, units), count)) for name, fault in faults.items()}


def _previews(seed: int, name: str, fault: Fault, units: Sequence[str]) -> Iterator[Preview]:
    for n in numbers(1) if fault.times is None else range(1, fault.times + 1):
        if (drawn := draw(seed, name, fault, n)) is None:
            return
        yield Preview(drawn, fault.preview(drawn.rng(), units))
