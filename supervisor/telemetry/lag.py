"""How late the event loop is, and the sampler that writes gauges into the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio

from supervisor.journal.base import Journal
from supervisor.journal.events import Observation

TICK: Final = 0.1
"""Seconds between two measurements: ten a second notice every stall that an operation could notice."""
SAMPLE: Final = 10.0
"""Seconds between two observations in the journal (DESIGN 7)."""
LAG: Final = "soakd_event_loop_lag_seconds"


class Lag:
    """Measures by how much a timer of the event loop comes late: the time in which nothing of ours could react."""

    def __init__(self) -> None:
        self.ticks = 0
        """Measurements so far; a service manager's watchdog is pinged only while it grows."""
        self._worst = 0.0

    async def run(self) -> None:
        """Measure for ever: a leaf task."""
        while True:
            due = time.monotonic() + TICK
            await anyio.sleep(TICK)
            self._worst = max(self._worst, time.monotonic() - due)
            self.ticks += 1

    def take(self) -> float:
        """Return the worst lag in seconds since the last call."""
        worst, self._worst = self._worst, 0.0
        return worst


async def sample(journal: Journal, lag: Lag, *gauges: Callable[[], Mapping[str, float]]) -> None:
    """Write an observation every 10 s: the worst lag in between, and whatever the given gauges say. A leaf task."""
    while True:
        await anyio.sleep(SAMPLE)
        values = {LAG: round(lag.take(), 4)}
        for gauge in gauges:
            values.update(gauge())
        journal.emit(Observation(values=values))
