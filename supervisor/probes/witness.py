"""Writes down what the probes see before, during and after each episode: the lines of `evidence.csv`.

It follows the journal and never keeps an episode waiting: what was seen last before the intent is the *before*, a look that begins
when inject has returned the *during*, and what was seen last before the close the *recovered*.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio

from supervisor.journal.base import Journal
from supervisor.journal.events import EpisodeClosed, Evidence, FaultInjected, FaultIntent, Reading, Record
from supervisor.probes.steady import SteadyState

LOOK: Final = 10.0
"""Seconds for a look during an episode; each probe has a shorter limit of its own."""
WAITING: Final = 64
"""Episodes that wait for their look; faults are never that many, and what is beyond is left out rather than late."""


class Witness:
    """Follows the journal; `run` is its leaf task."""

    def __init__(self, steady: SteadyState, journal: Journal) -> None:
        self._steady, self._journal = steady, journal
        self._injected: deque[str] = deque(maxlen=WAITING)
        self._news = anyio.Event()

    def apply(self, record: Record) -> None:
        """Take a record in: a journal listener."""
        match record.event:
            case FaultIntent(episode=episode):
                self._journal.emit(Evidence(episode=episode, when="before", readings=self._last()))
            case FaultInjected(episode=episode):
                self._injected.append(episode)
                self._news.set()
            case EpisodeClosed(episode=episode, recovered=bool()):
                self._journal.emit(Evidence(episode=episode, when="recovered", readings=self._last()))

    async def run(self) -> None:
        """Look once at every episode, one after the other."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._injected:
                await self._look(self._injected.popleft())

    async def _look(self, episode: str) -> None:
        with anyio.move_on_after(LOOK):
            readings = await self._steady.look()
            self._journal.emit(Evidence(episode=episode, when="during", readings=readings))

    def _last(self) -> tuple[Reading, ...]:
        return tuple(self._steady.readings.values())
