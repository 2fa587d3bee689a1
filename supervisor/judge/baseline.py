"""The fault-free beginning of a soak, whose rates and latencies the rest is held against, and whether it is fit for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from supervisor.journal.events import LoadWindow
from supervisor.judge.counting import Some, plural
from supervisor.judge.operations import Amounts
from supervisor.values import format_duration

LEAST: Final = 20
"""Operations in each half, for which a comparison of the halves says something."""
OK_DRIFT: Final = 0.05
"""By how much the ok share of the two halves may differ."""
RATE_DRIFT: Final = 0.25
"""The same of the rate, as a part of it."""
SIGMAS: Final = 4.0
"""And so many standard deviations of a count, since few operations scatter."""
LATENCY_DRIFT: Final = 2.0
"""How many times as long the median response of one half may be as that of the other."""
QUICK: Final = 0.005
"""Seconds below which medians are not compared: a timer's grain is a large part of them."""


@dataclass(slots=True)
class Baseline:
    """What happened in the baseline."""

    planned: float
    """Seconds."""
    begun: float
    """Monotonic seconds."""
    ended: float | None = None
    disturbances: Some = field(default_factory=Some)
    """What went wrong meanwhile: crashes, a steady state that was lost."""
    halves: dict[str, tuple[Amounts, Amounts]] = field(default_factory=dict)
    """By load."""
    began: dict[str, float] = field(default_factory=dict)
    """By load, when its first operations were counted, in monotonic seconds: its processes take their time to start."""
    covered: dict[str, list[float]] = field(default_factory=dict)
    """By load, the seconds of each half: a window of the journal belongs to one half as a whole."""

    @property
    def seconds(self) -> float:
        """How long it lasted; 0 as long as it is not over."""
        return 0.0 if self.ended is None else self.ended - self.begun

    def lasted(self, loads: Iterable[str]) -> float:
        """Return how many seconds of it these loads worked, each weighted by what it did; 0 as long as it is not over."""
        if self.ended is None:
            return 0.0
        done = {load: self.amounts([load]).ok for load in loads if load in self.began}
        rate = sum(ok / max(self.ended - self.began[load], 0.001) for load, ok in done.items())
        return sum(done.values()) / rate if rate else self.seconds

    def window(self, window: LoadWindow) -> None:
        """Take what a load did in it."""
        halves = self.halves.setdefault(window.load, (Amounts(), Amounts()))
        began = self.began.setdefault(window.load, max(window.start, self.begun))
        half = (window.start + window.end) / 2 >= (began + self.begun + self.planned) / 2
        halves[half].whole(window)
        self.covered.setdefault(window.load, [0.0, 0.0])[half] += max(window.end - window.start, 0.0)

    def amounts(self, loads: Iterable[str]) -> Amounts:
        """Return what these loads did in all of it."""
        total = Amounts()
        for load in loads:
            for half in self.halves.get(load, ()):
                total.merge(half)
        return total

    def unsteady(self, loads: Iterable[str]) -> str:
        """Say why it is no measure for these loads; empty if it is."""
        if self.ended is None or self.seconds < self.planned * 0.99:
            return f"it did not last {format_duration(self.planned)}"
        if self.disturbances:
            return str(self.disturbances)
        return next((why for load in loads for why in self._drift(load)), "")

    def _drift(self, load: str) -> Iterator[str]:
        first, second = self.halves.get(load, (Amounts(), Amounts()))
        if min(first.finished, second.finished) < LEAST:
            done = f"{first.finished:,} and {plural(second.finished, 'operation')}"
            yield f"load {load} did {done} in its halves, and each needs {LEAST} to be compared with the other"
            return
        if first.ok == 0 or second.ok == 0:
            yield f"load {load} had no ok operation in one half of it"
            return
        shares = [half.ok / half.attempts for half in (first, second)]
        if abs(shares[0] - shares[1]) > OK_DRIFT:
            yield f"the ok share of load {load} was {shares[0]:.1%} in its first half and {shares[1]:.1%} in its second"
        times = self.covered.get(load, [0.0, 0.0])
        counts = [first.finished, second.finished]
        rates = [count / max(time, 0.001) for count, time in zip(counts, times, strict=True)]
        scatter = SIGMAS * max(rate / count**0.5 for rate, count in zip(rates, counts, strict=True))
        if max(rates) - min(rates) > max(RATE_DRIFT * max(rates), scatter):
            yield f"load {load} did {rates[0]:.3g} operations a second in its first half and {rates[1]:.3g} in its second"
        medians = [half.latencies.response.quantile(0.5) or 0.0 for half in (first, second)]
        if max(medians) > max(LATENCY_DRIFT * min(medians), QUICK):
            words = [f"{median * 1000:.3g}ms" for median in medians]
            yield f"the median response of load {load} was {words[0]} in its first half and {words[1]} in its second"
