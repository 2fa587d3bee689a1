"""How late the event loop is, and the sampler that writes gauges into the journal."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio

from supervisor.histogram import Histogram
from supervisor.journal.base import Journal
from supervisor.journal.events import LoopLag, Observation

TICK: Final = 0.1
"""Seconds between two measurements: ten a second notice every stall that an operation could notice."""
SAMPLE: Final = 10.0
"""Seconds between two observations in the journal (DESIGN 7)."""
TURN: Final = 0.0005
"""Seconds that one thread may keep the others waiting. Python's own 5 ms are what the event loop then waits after every system call."""
LAG: Final = "soakd_event_loop_lag_seconds"


class Lag:
    """Measures by how much a timer of the event loop comes late: the time in which nothing of ours could react."""

    def __init__(self) -> None:
        self.ticks = 0
        """Measurements so far; a service manager's watchdog is pinged only while it grows."""
        self._worst = 0.0
        self._times = Histogram()

    async def run(self) -> None:
        """Measure for ever: a leaf task."""
        while True:
            due = time.monotonic() + TICK
            await anyio.sleep(TICK)
            late = time.monotonic() - due
            self._worst = max(self._worst, late)
            self._times.record(late)
            self.ticks += 1

    def take(self) -> tuple[float, Histogram]:
        """Return the worst lag in seconds since the last call, and all of them."""
        worst, times = self._worst, self._times
        self._worst, self._times = 0.0, Histogram()
        return worst, times


def keep_prompt() -> None:
    """Set Python up so that it does not keep the event loop waiting; to be called when all that stays is in memory.

    The garbage collector looks no more at what is there now: each look at all of it, some 60,000 objects of modules and models, takes
    40 ms, in which nothing of ours can react. And a thread of ours that reads a log or writes evidence hands over every `TURN`.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(TURN)


async def sample(journal: Journal, lag: Lag, *gauges: Callable[[], Mapping[str, float]]) -> None:
    """Write an observation every 10 s and on the way out: our lag in between, and whatever the given gauges say. A leaf task."""
    try:
        while True:
            await anyio.sleep(SAMPLE)
            _observe(journal, lag, *gauges)
    finally:
        _observe(journal, lag, *gauges)


def _observe(journal: Journal, lag: Lag, *gauges: Callable[[], Mapping[str, float]]) -> None:
    worst, times = lag.take()
    values = {LAG: round(worst, 4)}
    for gauge in gauges:
        values.update(gauge())
    journal.emit(Observation(values=values))
    if times.count:
        journal.emit(LoopLag(times=tuple(times.pack())))
