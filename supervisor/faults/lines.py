"""What the scheduler knows of one fault. It outlives a restart of the scheduler's task."""

from __future__ import annotations

import time
from typing import Final

import anyio

from supervisor.faults.base import Fault
from supervisor.faults.draws import Draw, draw
from supervisor.faults.episode import Episode

SKIP_PAUSE: Final = 1.0
"""Least seconds between a skipped draw and the next: `every: 0s` must not spin while something is missing."""


class Line:
    """One fault's draws, one after the other."""

    def __init__(self, name: str, fault: Fault, start: float) -> None:
        self.name, self.fault, self.written = name, fault, fault
        """`written`: as the soak file has it."""
        self.start, self.closed = start, start
        self.drawn, self.episodes = 0, 0
        self.earliest = start
        self.waiting = anyio.CancelScope()
        self.episode: Episode | None = None
        """The one that is open, or the last one."""
        self.due: float | None = None
        """Monotonic seconds at which the draw that is waited for is due; None: that is not known, or nothing is waited for."""
        self.busy = False
        """A draw of it is waited for or lived."""
        self.closes, self.seen = 0, 0
        """Episodes that were closed; how many closes of the fault that it comes after have had their turn."""
        self.retired = False
        """Another one has taken its place, or none."""
        self.over = False
        """Nothing more is drawn from it."""
        self.news = anyio.Event()
        """Set, and replaced, when one of its episodes is closed, and when it is over."""

    def successor(self, fault: Fault, start: float) -> Line:
        """Return the line of this fault as it is now, whose draws go on behind these. `start` is the soak's, in monotonic seconds."""
        now, written = time.monotonic(), fault
        if fault.at is not None:
            # Times that are over are not made up for; the others keep their places behind the draws that were made.
            due = sorted(time for time in fault.at if start + time > now)
            fault = fault.model_copy(update={"at": (*[0.0] * self.drawn, *due)})
        line = Line(self.name, fault, start if fault.at is not None else now)
        line.written = written
        line.drawn, line.episodes, line.closed = self.drawn, self.episodes, now
        return line

    @property
    def broken(self) -> bool:
        """The last episode was closed, but something of it may still be in place."""
        return self.episode is not None and self.episode.broken

    def next(self, seed: int) -> Draw | None:
        """Return the next draw, None if the schedule is over."""
        over = self.fault.times is not None and self.episodes >= self.fault.times
        return None if over else draw(seed, self.name, self.fault, self.drawn + 1)

    async def wait(self, drawn: Draw, leader: Line | None) -> bool:
        """Wait until a draw is due; False if it never will be, since the fault that it comes after is over."""
        if leader is None:
            since = self.start if drawn.from_start else self.closed
        else:
            while leader.closes == self.seen:
                if leader.over:
                    return False
                await leader.news.wait()
            self.seen, since = leader.closes, leader.closed
        self.due = max(since + drawn.delay, self.earliest)
        await anyio.sleep(max(0.0, self.due - time.monotonic()))
        self.due = None
        return True

    def skip(self, drawn: Draw) -> None:
        """This draw comes to nothing."""
        self.drawn, self.closed = drawn.n, time.monotonic()
        self.earliest = self.closed + SKIP_PAUSE

    def close(self, *, lived: bool) -> None:
        """The episode is over; tell those that come after it."""
        self.closed = time.monotonic()
        if lived:
            self.closes += 1
            self._tell()

    def end(self) -> None:
        """Nothing more is drawn from it."""
        self.over = True
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()
