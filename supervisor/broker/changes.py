"""What a connection reports to the journal, so that a flapping server cannot fill it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from supervisor.journal.events import BrokerChanged

BURST: Final = 12
"""Events at once: three disturbances with all they bring."""
EVERY: Final = 10.0
"""Seconds after which one more may follow: six a minute at most, however fast a server flaps."""
_OTHERS: Final = ("lame-duck", "discovered", "rejected")


class Changes:
    """Passes events on as long as there are few; of a flood it passes on the last of each sort, saying how many there were.

    The state of the connection is one sort, so the last one told is always the true one.
    """

    def __init__(
        self, emit: Callable[[BrokerChanged], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._emit, self._clock = emit, clock
        self._allowance, self._at = float(BURST), clock()
        self._held: dict[str, tuple[BrokerChanged, int]] = {}

    def offer(self, event: BrokerChanged) -> None:
        """Tell of a change, now or, in a flood, later."""
        sort = event.state if event.state in _OTHERS else "state"
        self._held[sort] = event, self._held.get(sort, (event, 0))[1] + 1
        self.tick()

    def tick(self) -> None:
        """Tell what was held back, as far as it is due by now; called about once a second."""
        now = self._clock()
        self._allowance, self._at = min(self._allowance + (now - self._at) / EVERY, BURST), now
        while self._held and self._allowance >= 1:
            self._allowance -= 1
            event, count = self._held.pop(next(iter(self._held)))
            if count > 1:
                detail = f"{event.detail} (the last of {count} such changes)".strip()
                event = event.model_copy(update={"detail": detail})
            self._emit(event)

    def flush(self) -> None:
        """Tell all that was held back: the connection ends."""
        self._allowance = float(len(self._held) + 1)
        self.tick()
