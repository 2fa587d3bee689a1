"""How often something is looked at: as asked for, and more seldom when the broker is slow."""

from __future__ import annotations

import time
from typing import Final

import anyio

SHARE: Final = 0.1
"""Share of the time that a look may take. Waiting for an answer counts, so it bounds our processor time and the server's alike."""
AGAIN: Final = 1.0
"""Seconds until the next try where nobody answered."""


class Pace:
    """Times the rounds of one loop. A round begins only after the one before has ended."""

    def __init__(self, every: float, longest: float, share: float = SHARE) -> None:
        """A round begins `every` seconds after the one before, or later where rounds would take more than their share.

        Pauses are at most `longest` seconds.
        """
        self._every, self._longest, self._share = every, max(longest, every), share
        self.took = 0.0
        """Seconds that the last round took."""
        self.slowest = 0.0
        """Seconds that the longest of all took."""
        self.rounds = 0
        self._start = time.monotonic()

    def begin(self) -> float:
        """Begin a round; return the time."""
        self._start = time.monotonic()
        return self._start

    def pause(self, *, answered: bool = True) -> float:
        """End the round; return the seconds until the next. Waiting for an answer that did not come was no burden to anybody."""
        self.rounds += 1
        self.took = time.monotonic() - self._start
        self.slowest = max(self.slowest, self.took)
        pause = self.took * (1 / self._share - 1) if answered else AGAIN
        return max(self._every - self.took, min(pause, self._longest))

    async def rest(self, *, answered: bool = True) -> None:
        """End the round and wait for the next."""
        await anyio.sleep(self.pause(answered=answered))
