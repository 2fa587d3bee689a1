"""When each fault comes and what it is drawn from: a pure function of the seed, the fault's name and the draw's number.

Inside the generator of one draw the order is fixed: first one number for the schedule, whether the schedule needs it or not, then
whatever the kind draws for its targets. So a fault that goes from `every` to `between` keeps its targets.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from itertools import count as numbers
from typing import Final

from supervisor.faults.base import Fault
from supervisor.faults.nemesis import Nemesis
from supervisor.faults.schedule import Schedule

NEMESIS: Final = "nemesis:"
"""What the nemesis draws from instead of a fault's name, which cannot have a colon."""


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
    after: str = ""
    """The fault from whose next close `delay` counts."""

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
    if not fault.scheduled:
        return None
    delay = _delay(fault, _open(seed, name, n)[1])
    if fault.after is not None:
        return Draw(seed, name, n, delay, from_start=False, after=fault.after)
    return Draw(seed, name, n, delay, from_start=n == 1)


def _delay(schedule: Schedule, number: float) -> float:
    if schedule.between is not None:
        shortest, longest = schedule.between
        return shortest + (longest - shortest) * number
    return schedule.every or 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One draw of the nemesis."""

    draw: Draw | None
    """The draw of the fault that was chosen, its delay that of the nemesis; None: it is quiet this time."""
    delay: float
    """Seconds from the start of the soak (`at`), else from the last draw's end (where they overlap: from the last draw)."""
    from_start: bool


def choices(seed: int, nemesis: Nemesis, drawn: Mapping[str, int] | None = None) -> Iterator[Choice]:
    """Yield what the nemesis draws: draw n comes from the seed and n alone, and a fault's draws are numbered as they are chosen.

    `drawn` says how many draws faults have had already, where the nemesis is a new one in the middle of a run.
    """
    names, weights = list(nemesis.of), list(nemesis.of.values())
    counts = {name: (drawn or {}).get(name, 0) for name in names}
    before = sum(counts.values())
    times = sorted(nemesis.at) if nemesis.at is not None else None
    for n in numbers(1):
        if times is not None and n > len(times):
            return
        rng, number = _open(seed, NEMESIS, n)
        delay, from_start = (times[n - 1], True) if times else (_delay(nemesis, number), n == 1)
        if rng.random() < nemesis.quiet:
            yield Choice(None, delay, from_start)
            continue
        name = names[bisect(list(accumulate(weights)), rng.random() * sum(weights), 0, len(names) - 1)]
        counts[name] += 1
        yield Choice(Draw(seed, name, counts[name], delay, from_start), delay, from_start)
        if nemesis.times is not None and sum(counts.values()) - before >= nemesis.times:
            return


def chosen(
    faults: Mapping[str, Fault], nemesis: Nemesis, seed: int, count: int, units: Sequence[str] = ()
) -> tuple[tuple[Choice, str], ...]:
    """Return the first `count` draws of the nemesis, each with its targets as far as they are known before a run."""
    return tuple(
        (choice, faults[choice.draw.fault].preview(choice.draw.rng(), units) if choice.draw else "")
        for choice in islice(choices(seed, nemesis), count)
    )


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
