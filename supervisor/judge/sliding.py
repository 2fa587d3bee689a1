"""A window that slides along the run.

It moves in steps (`Threshold.step`) that the windows of the journal divide evenly, so it is made of whole ones and
exact; an operation belongs to the window in which it ended. Where the journal was folded above its byte budget the steps are gone:
such windows are not looked at, and say so.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from supervisor.journal.events import LoadWindow
from supervisor.judge.latencies import PackedSum
from supervisor.judge.measures import Loops, Part, concerns, loops_of, measure, take, tolerated
from supervisor.judge.metrics import OK_RATE
from supervisor.judge.operations import EDGE, Amounts
from supervisor.judge.thresholds import Threshold

LATENESS: Final = 2.0
"""Seconds after which nothing is written any more of what happened before."""
LAGS: Final = 11.0
"""Seconds that are longer than those from one word on our own lag to the next."""
_SUMS: Final = ("both", "only_response", "only_service")


class Worst(NamedTuple):
    """The window that was furthest on the wrong side."""

    value: float
    begin: float
    end: float


class _Loop(NamedTuple):
    """How late an event loop was between two instants."""

    begin: float
    end: float
    load: str
    lags: PackedSum


class Sliding:
    """A window that slides along the run."""

    def __init__(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self.worst: Worst | None = None
        self.looked = 0
        """Windows that could be looked at."""
        self.empty = 0
        """Windows in which nothing was to be seen."""
        self.blurred = 0
        """Windows that the journal's folding has taken the edges of."""
        self.lagged = 0
        """Windows in which our own lag may be what is seen."""
        self.finished = 0
        self._step = threshold.step
        self._length = round((threshold.span or 0.0) / self._step)
        self._begun: float | None = None
        self._ended = math.inf
        self._last = sys.maxsize
        """The last step."""
        self._next = 0
        self._bins: dict[int, Amounts] = {}
        self._blurs: set[int] = set()
        self._window: deque[Amounts] = deque()
        self._loops: deque[_Loop] = deque()
        self._sum = Amounts()

    def begin(self, mono: float) -> None:
        """Measure from now on."""
        if self._begun is None:
            self._begun, self._next = mono, math.floor(mono / self._step)

    def end(self, mono: float) -> None:
        """Hear that the soak is over; what was under way belongs to its last step."""
        self._ended = min(self._ended, mono)
        self._last = math.ceil(self._ended / self._step) - 1

    def window(self, window: LoadWindow) -> None:
        """Take what a load did."""
        if self._begun is None or self.threshold.load not in (None, window.load):
            return
        long = window.end - window.start > 1.5 * self._step
        if long and window.windows > 1:
            first, last = (math.floor(time / self._step) for time in (window.start, window.end))
            self._blurs.update(range(max(first, self._next), last + 1))
        at = window.end - EDGE if long else (window.start + window.end) / 2
        if at > self._ended and self.threshold.metric.name == OK_RATE:
            return  # nothing more was asked for
        amounts = self._at(at)
        take(self.threshold, window, amounts)

    def unit(self, what: str, unit: str, marks: Iterable[str], mono: float) -> None:
        """Take something that happened to a unit."""
        if self._begun is not None and concerns(self.threshold, what, unit, tuple(marks)):
            amounts = self._at(mono)
            amounts.counters[what] = amounts.counters.get(what, 0.0) + 1

    def loop(
        self,
        load: str,
        begin: float,
        end: float,
        lags: PackedSum,
        marks: Iterable[tuple[str, ...]],  # noqa: ARG002  # a window is of all that happened
    ) -> None:
        """Take how late an event loop was between two instants: the daemon's, or those of a load that has its own."""
        if self._begun is not None and self.threshold.metric.quantile is not None:
            self._loops.append(_Loop(begin, end, load, lags))

    def now(self, mono: float) -> None:
        """Look at the windows that are over, and of which all is known."""
        patience = LATENESS if self.threshold.metric.quantile is None else LAGS
        if self._begun is not None:
            self._slide(math.floor((min(mono, self._ended) - patience) / self._step))

    def close(self, mono: float) -> None:
        """Look at the windows that are left, up to the end."""
        last = min(mono, self._ended)
        if self._begun is not None and last - self._begun >= (self.threshold.span or 0.0):
            self._slide(math.ceil(last / self._step))

    def _at(self, mono: float) -> Amounts:
        index = max(min(math.floor(mono / self._step), self._last), self._next)
        return self._bins.setdefault(index, Amounts())

    def _slide(self, upto: int) -> None:
        while self._next < upto:
            entering = self._bins.pop(self._next, None) or Amounts()
            self.finished += entering.finished
            self._next += 1
            self._window.append(entering)
            self._sum.merge(entering)
            if len(self._window) > self._length:
                self._leave(self._window.popleft())
            if len(self._window) == self._length:
                self._look()

    def _leave(self, leaving: Amounts) -> None:
        self._sum.merge(leaving, -1)
        for name in _SUMS:  # the one thing that cannot be taken away
            total = getattr(self._sum.latencies, name)
            if total.highest <= getattr(leaving.latencies, name).highest:
                total.highest = max(getattr(one.latencies, name).highest for one in self._window)

    def _look(self) -> None:
        first = self._next - self._length
        self._blurs = {index for index in self._blurs if index >= first}
        if any(index < self._next for index in self._blurs):
            self.blurred += 1
            return
        begin, end = first * self._step, self._next * self._step
        seconds = min(end, self._ended) - max(begin, self._begun or 0.0)
        value = measure(self.threshold, self._sum, seconds)
        if value is None:
            self.empty += 1
            return
        if self._own_lag(value, begin, end):
            self.lagged += 1
            return
        self.looked += 1
        if self.worst is None or self.threshold.worse(value, self.worst.value):
            self.worst = Worst(value, begin, end)

    def _own_lag(self, value: float, begin: float, end: float) -> bool:
        metric, limit = self.threshold.metric, self.threshold.limit
        if metric.quantile is None:
            return False
        tolerable = tolerated(value if self.threshold.relative else limit.value)
        if self._loop_lag(begin, end, tolerable) > tolerable:
            return True
        if metric.name.startswith("service"):
            return False
        service = self._sum.latencies.service.quantile(metric.quantile)
        if (
            service is not None
            and self.threshold.upper
            and not self.threshold.relative
            and service > limit.value
        ):
            return False  # it took too long even from when it was begun
        lag = self._sum.lag.histogram().quantile(metric.quantile)
        return lag is not None and lag > tolerable

    def _loop_lag(self, begin: float, end: float, tolerable: float) -> float:
        """Return how late the event loop was within a window, at the threshold's quantile; 0 if it never was by more than is tolerable."""
        while self._loops and self._loops[0].end < begin:
            self._loops.popleft()
        here = [one for one in self._loops if one.begin < end and one.end > begin]
        if max((one.lags.highest for one in here), default=0.0) <= tolerable:
            return 0.0
        loops: Loops = {}
        for one in here:
            loops.setdefault(one.load, PackedSum()).merge(one.lags)
        whole = loops_of(self.threshold.load, loops).histogram()
        return whole.quantile(self.threshold.metric.quantile or 0.0) or 0.0


Meter = Part | Sliding


def meter_of(threshold: Threshold) -> Meter | None:
    """Return what measures a threshold; None if the totals of the whole run are enough."""
    if threshold.span is not None:
        return Sliding(threshold)
    return Part(threshold) if threshold.scope is not None or threshold.relative else None
