"""Counts what a checker sees under the names that thresholds know."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.loads.checker import FIRST, Arrival, Checker, Loss

COUNTERS: Final = ("duplicates", "reordered", "unexpected", "late_arrivals")
SETTLED: Final = ("lost", "lost_prefix", "lost_middle", "lost_postfix")
"""What is only known when the last message has arrived or been given up."""
_COUNTED: Final = {
    Arrival.REORDERED: "reordered",
    Arrival.LATE: "late_arrivals",
    Arrival.DUPLICATE: "duplicates",
    Arrival.UNEXPECTED: "unexpected",
}


class Deliveries:
    """One writer's messages on their way to one reader."""

    def __init__(self, settle: float, count: Callable[[str, float], None]) -> None:
        """`settle`: seconds after which a message that others have overtaken counts as lost. `count` is the recorder's."""
        self._settle, self._count, self._checker = settle, count, Checker()
        self._written: deque[tuple[float, int]] = deque()
        """What was the last number, and when: one entry for each `tick` within the settle time."""

    def arrived(self, n: int, written: int) -> Arrival:
        """Take a message of which `written` have been written so far."""
        arrival = self._checker.arrived(n, written)
        if arrival is not FIRST:
            self._count(_COUNTED[arrival], 1)
        return arrival

    def tick(self, written: int) -> None:
        """Give up what is older than the settle time; to be called about once a second."""
        now = time.monotonic()
        self._written.append((now, written))
        while self._written and self._written[0][0] <= now - self._settle:
            self._lost(self._checker.settle(self._written.popleft()[1]))

    def finish(self, written: int) -> None:
        """Give up all that has not arrived."""
        self._lost(self._checker.finish(written))
        for name in SETTLED:
            self._count(name, 0)  # 0 is only 0 once somebody has looked

    def complete(self, written: int) -> bool:
        """Say whether all that was written has arrived or been given up."""
        return self._checker.high >= written and not self._checker.gaps

    def _lost(self, losses: Iterable[Loss]) -> None:
        for loss in losses:
            self._count("lost", loss.size)
            self._count(f"lost_{loss.where}", loss.size)
