"""An engine in memory, which knows why each of its units ended.

A real engine cannot be made to produce every order of events; of this one each call, each end of a unit and each telling of it takes as
many turns of the event loop as hypothesis likes.
"""

# ruff: noqa: ARG002  # an engine in memory has no use for many of its arguments

from __future__ import annotations

import signal as signals
import time
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count, cycle

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import EngineError, Exit, Observed, UnitState
from supervisor.engines.fleet import Desired, Fleet
from supervisor.journal.events import Cause

UNITS = ("a", "b")
ACTOR: ContextVar[str] = ContextVar("ACTOR")
"""Who calls."""


class Imagined:
    """An engine whose units live in a dictionary, and which knows why each of them ended."""

    def __init__(self, turns: list[int], group: TaskGroup) -> None:
        self._turns, self._group, self._numbers = cycle(turns), group, count(1)
        self.fleet: Fleet
        self.alive: dict[str, str] = {}
        self.marks: dict[str, list[tuple[str, int]]] = {}
        """For each incarnation who sent what, in order."""
        self.truth: dict[str, tuple[Cause, str | None]] = {}
        self.frozen: set[str] = set()
        """Incarnations that are paused."""
        self.failing_starts = 0
        """So many starts from now on fail."""
        self._send, self._receive = anyio.create_memory_object_stream[Exit](10_000)
        self._told = anyio.Lock()

    async def turns(self) -> None:
        for _ in range(next(self._turns)):
            await checkpoint()

    def crashed(self) -> set[str]:
        """Return the incarnations that nobody has ended."""
        return {incarnation for incarnation, (cause, _) in self.truth.items() if cause is Cause.CRASH}

    def close(self) -> None:
        self._send.close()
        self._receive.close()

    async def observe(self) -> Mapping[str, Observed]:
        seen = {unit: self._seen(unit) for unit in UNITS}
        await self.turns()
        return seen

    def _seen(self, unit: str) -> Observed:
        if (incarnation := self.alive.get(unit)) is None:
            return Observed(UnitState.DOWN)
        return Observed(UnitState.PAUSED if incarnation in self.frozen else UnitState.UP, incarnation)

    async def start(self, unit: str) -> Observed:
        await self.turns()
        if self.failing_starts:
            self.failing_starts -= 1
            raise EngineError(f"cannot start {unit}: it was said so")
        assert unit not in self.alive, "the fleet starts only what is down"
        self.alive[unit] = incarnation = f"{unit}-{next(self._numbers)}"
        self.marks[incarnation] = []
        return Observed(UnitState.UP, incarnation)

    async def ready(self, unit: str) -> None:
        await self.turns()

    async def stop(self, unit: str, timeout: float | None = None, signal: int | None = None) -> None:
        incarnation = self._mark(unit, signal or signals.SIGTERM)
        await self.turns()
        self.end(unit, incarnation)

    async def kill(self, unit: str, signal: int) -> None:
        incarnation = self._mark(unit, signal)
        if incarnation is None:
            raise EngineError("not running")
        await self.turns()
        self._group.start_soon(self._end_later, unit, incarnation)

    async def pause(self, unit: str) -> None:
        await self.turns()
        if unit not in self.alive:
            raise EngineError("not running")
        self.frozen.add(self.alive[unit])

    async def resume(self, unit: str) -> None:
        await self.turns()
        self.frozen.discard(self.alive.get(unit, ""))

    async def _end_later(self, unit: str, incarnation: str) -> None:
        await self.turns()
        self.end(unit, incarnation)

    def _mark(self, unit: str, number: int) -> str | None:
        incarnation = self.alive.get(unit)
        if incarnation:
            self.marks[incarnation].append((ACTOR.get(), number))
        return incarnation

    def end(self, unit: str, incarnation: str | None) -> None:
        """A unit ends, by a signal or by itself: then for whoever had told it to before."""
        if incarnation is None or self.alive.get(unit) != incarnation:
            return
        del self.alive[unit]
        mono = time.monotonic()
        status = self.fleet.status(unit)
        if marks := self.marks[incarnation]:
            self.truth[incarnation] = _cause(marks[0][0]), marks[0][0]
        elif status.holder and status.desired is Desired.DOWN:
            self.truth[incarnation] = _cause(status.holder), status.holder
        else:
            self.truth[incarnation] = Cause.CRASH, None
        self._group.start_soon(self._tell, Exit(unit, incarnation, 1, mono=mono))

    async def _tell(self, gone: Exit) -> None:
        async with self._told:  # exits are told in order
            await self.turns()
            self._send.send_nowait(gone)

    async def logs(
        self,
        unit: str,
        *,
        last: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stamped: bool = False,
        incarnation: str | None = None,
    ) -> bytes:
        return b""

    def exits(self) -> MemoryObjectReceiveStream[Exit]:
        return self._receive.clone()


def _cause(by: str) -> Cause:
    who = by.partition("#")[0]
    return {"run": Cause.RUN, "operator": Cause.OPERATOR}.get(who, Cause.EPISODE)
