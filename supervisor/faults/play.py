"""The nemesis at work: when its draws are due, and what becomes of those that cannot come."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from supervisor.faults.draws import Choice, Draw
from supervisor.faults.gate import Gate
from supervisor.faults.lines import SKIP_PAUSE, Line
from supervisor.faults.nemesis import Nemesis


class Stage(Protocol):
    """Where the draws of a nemesis are lived: the scheduler."""

    gate: Gate
    lines: dict[str, Line]

    async def steady(self) -> None:
        """Wait for the steady state."""

    async def turn(self, line: Line, drawn: Draw, due: Callable[[], Awaitable[bool]]) -> bool:
        """Live one draw of a fault to its end."""

    def skip(self, line: Line, drawn: Draw, reason: str) -> None:
        """Put it on record that a draw comes to nothing."""


class Play:
    """What one nemesis draws, one after the other or, with `overlap`, side by side. It outlives a restart of the scheduler's task."""

    def __init__(self, nemesis: Nemesis, drawn: Iterator[Choice], start: float, since: float) -> None:
        """`start` is the soak's in monotonic seconds, `since` the time from which the first delay counts."""
        self.nemesis = nemesis
        self._drawn, self._start, self._last = drawn, start, since
        self._resting = anyio.CancelScope()
        self._over = False

    def end(self) -> None:
        """Draw nothing more; what is open is not touched."""
        self._over = True
        self._resting.cancel()

    def _ended(self) -> bool:
        return self._over

    async def run(self, stage: Stage, group: TaskGroup) -> None:
        """Live what is drawn. While an operator has paused the faults nothing is: one draw waits for him, and those after it for that."""
        while not self._ended() and (choice := next(self._drawn, None)):
            with anyio.CancelScope() as self._resting:
                await self._due(choice, stage)
            if self._ended():
                return
            line = stage.lines[choice.draw.fault] if choice.draw else None  # by now it may be another one
            if line and choice.draw and self.nemesis.overlap:
                if line.busy:
                    stage.skip(line, choice.draw, "its last episode is still open")
                else:
                    line.busy = True
                    group.start_soon(stage.turn, line, choice.draw, _now, name=f"fault {line.name}")
                await anyio.sleep(0 if choice.delay else SKIP_PAUSE)
            elif line and choice.draw:
                await stage.turn(line, choice.draw, _now)
            self._last = max(time.monotonic(), line.earliest if line else 0.0)

    async def _due(self, choice: Choice, stage: Stage) -> None:
        since = self._start if choice.from_start else self._last
        await anyio.sleep(max(0.0, since + choice.delay - time.monotonic()))
        await stage.gate.opened()
        if self.nemesis.only_when:
            await stage.steady()
        if choice.draw is None:
            await anyio.sleep(0 if choice.delay else SKIP_PAUSE)


async def _now() -> bool:
    """A draw of the nemesis is due when it is made."""
    await anyio.lowlevel.checkpoint()
    return True
