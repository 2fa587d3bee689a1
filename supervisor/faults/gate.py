"""Whether faults may be injected by their schedules: an operator may close the gate for a while."""

from __future__ import annotations

import math
import time

import anyio


class Gate:
    """Open, or closed until a time. It opens by itself when that time has come; who closed it may say so meanwhile."""

    def __init__(self) -> None:
        self._until = 0.0
        self._changed = anyio.Event()

    @property
    def left(self) -> float:
        """Seconds that it stays closed, infinite if nobody has said how long; 0: it is open."""
        return max(self._until - time.monotonic(), 0.0)

    def close(self, seconds: float = math.inf) -> None:
        """Close it from now on; closed already: for as long as is said now."""
        self._until = time.monotonic() + seconds
        self._tell()

    def open(self) -> None:
        """Open it; open already: no error."""
        self._until = 0.0
        self._tell()

    async def opened(self) -> None:
        """Wait until it is open."""
        while self.left:
            changed = self._changed
            with anyio.move_on_after(self.left):
                await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
