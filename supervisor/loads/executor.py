"""Runs a load's operations when they are due, and counts them.

An open loop (`rate` and its like) starts every operation at its intended time, whether those before it have ended or not: response
time is counted from the intended start, so that a system that stalls cannot hide behind the requests it kept from being sent. If all
slots are taken an operation is dropped, and counted as that. What is started late is late by our own doing, since a slot was free:
`late` counts it, the recorder notes by how much, and a latency verdict that may rest on it is inconclusive. A closed loop (`workers`) knows no intended start but
its own.

Memory does not depend on how long it runs: at most `in_flight` operations, and `IDLE` tasks that wait for the next one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from supervisor.journal.events import CUT_OFF
from supervisor.loads import arrivals
from supervisor.loads.base import LoadContext
from supervisor.loads.pace import Paced
from supervisor.loads.window import Outcome

LATE: Final = 0.01
"""Seconds after which a start counts as late: far above what timers need, far below what a latency threshold is about."""
BELATED: Final = 1.0
"""Seconds by which a load may begin after the instant that was set for it, and still start all that has come due."""
LAST: Final = 4.0
"""Seconds that operations under way have at the end of the run; those that take longer are cut off (`CUT_OFF`) and indeterminate."""
AFTER_FAILURE: Final = 0.05
"""Seconds that a worker pauses after an operation that did not end ok: else it would count how fast we can fail."""
BREATH: Final = 64
"""Operations that one worker may do in a row, none of another in between, before it lets others have the event loop.

Not so often if they take turns anyhow: who steps back for a moment is no more sent in one batch with the others, nor answered in one.
"""
IDLE: Final = 256
"""Tasks of an open loop that are kept for its next operations, at most: a task for each would cost as much as the operation."""
TICK: Final = 0.001
"""Seconds for which operations that come densely are gathered: timers know milliseconds, and each wake-up costs as much as an operation."""
DENSE: Final = 0.002
"""Seconds between two operations below which they come densely."""
_SHORT: Final = 0.1
"""Seconds that are slept through without looking whether the run is ending."""


class Failure(NamedTuple):
    """How an operation went that was not ok."""

    error: str
    """Its class, stable enough to group by."""
    detail: str = ""
    outcome: Outcome = "failed"


CRASHED: Final = "load crashed"
"""The error class of operations in which the load itself raised, and of those that were under way with them."""
CUT_SHORT: Final = "cut short"
"""That of operations under way in a load that did not return in its time."""
TIMEOUT: Final = Failure("timeout", outcome="indeterminate")
"""It may have happened all the same."""

Operate = Callable[[], Awaitable[Failure | None]]


class Executor:
    """One load's operations. `operate` does one and returns None if it was ok.

    What it raises ends the executor; that operation and all that are under way with it are indeterminate.
    """

    def __init__(
        self,
        pace: Paced,
        context: LoadContext,
        operate: Operate,
        rest: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`rest`: what a worker of a closed loop does between two operations, which is no part of them."""
        self._rest = rest
        self._pace, self._context, self._operate = pace, context, operate
        self._recorder, self._stop = context.recorder, context.stop
        self._share = context.process, context.processes
        self._crew, self._room = pace.crew(*self._share), pace.room(*self._share)
        self._open = 0
        self._idle: list[asyncio.Future[float | None]] = []
        """Where tasks that have nothing to do are handed when their next operation was intended; None: there is no more."""
        self._spare = IDLE
        """How many of them there may be."""
        self._working: set[int] = set()
        self._wanted = 0
        self._latest = 0
        """The worker whose operation ended last."""
        self._last: anyio.CancelScope | None = None
        """What cuts off operations at the end of the run; None as long as that has not come, and if the load crashed."""

    async def run(self) -> int:
        """Run until the load is to stop; return how many operations had to be cut off, which are counted as indeterminate."""
        together = self._context.together
        begin = await together() if together else time.monotonic()
        async with anyio.create_task_group() as operations:
            await (self._closed_loop(operations) if self._crew else self._open_loop(operations, begin))
            self._last = operations.cancel_scope
            self._last.deadline = anyio.current_time() + LAST
        return self._open

    # --- open loop -----------------------------------------------------------------------------------------------------

    async def _open_loop(self, group: TaskGroup, begin: float) -> None:
        start = self._context.start
        since, due = self._schedule(begin - start, time.monotonic() - start)
        missed = 0
        while (at := next(due)) < since:
            missed += 1
        self._recorder.scheduled(missed)
        self._recorder.dropped(missed)
        self._recorder.reached(start + at)
        last, intended = 0.0, start + at
        while await self._wait_until(intended, TICK if intended - last < DENSE else 0.0):
            last, intended = intended, self._start_all_due(group, start, due, intended)
        self._spare = 0
        while handed := self._next_idle():
            handed.set_result(None)

    def _schedule(self, begin: float, now: float) -> tuple[float, Iterator[float]]:
        """Return since when operations are begun, and all that are due, those before that included: they are owed.

        All are seconds since the run's start; `begin`: the instant that was set for this load, or for all of its processes.
        """
        owed, together = self._context.owed, self._context.together is not None
        # Wherever a load begins, it begins now: what was due before it could begin is not owed. But where it follows an earlier life
        # that died, or other processes began before this one, what was due meanwhile was nobody's choice to leave out.
        if owed is None or (together and owed <= begin):
            owed = first = begin
            # Who begins a little late is late with what was due meanwhile; it was never dropped for want of room.
            since = begin if now - begin < BELATED else now
        else:
            # Bursts go on in the step of those before: with other processes that of all, alone that of the earlier life.
            first = begin if together else owed
            since = max(begin, now)
        seed = f"{self._context.seed}/{self._context.name}"
        whole = max(min(since, owed), 0.0)
        return since, self._pace.due(whole, seed, *self._share, first=first, done=self._context.scheduled)

    def _start_all_due(self, group: TaskGroup, start: float, due: Iterator[float], intended: float) -> float:
        """Start what is due now, in one turn of the event loop, so that a burst begins together; return when the next one is due."""
        now, free, scheduled = time.monotonic(), self._room - self._open, 0
        begun = 0
        while intended <= now and scheduled < free + BREATH * BREATH:
            scheduled += 1
            if begun < free:
                begun += 1
                if handed := self._next_idle():
                    handed.set_result(intended)
                else:
                    group.start_soon(self._serve, intended)
            intended = start + next(due)
        self._open += begun
        self._recorder.scheduled(scheduled)
        self._recorder.reached(intended)
        self._recorder.started(begun)
        self._recorder.dropped(scheduled - begun)
        return intended

    def _next_idle(self) -> asyncio.Future[float | None] | None:
        """Return where the task that became idle last is handed an operation; None if there is none, or only cancelled ones."""
        while self._idle:
            handed = self._idle.pop()
            if not handed.done():
                return handed
        return None

    async def _serve(self, intended: float | None) -> None:
        """Do an operation, and each that is handed over after it."""
        while intended is not None:
            await self._once(intended)
            if len(self._idle) >= self._spare:
                return
            handed: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
            self._idle.append(handed)
            intended = await handed

    async def _once(self, intended: float) -> None:
        start = time.monotonic()
        lag = start - intended
        self._recorder.lagged(lag)
        if lag > LATE:
            self._recorder.late()
        try:
            failure = await self._operate()
        except BaseException as error:
            self._broken_off(intended, start, error)
            raise
        self._count(intended, start, failure)
        self._open -= 1

    async def _wait_until(self, when: float, tick: float) -> bool:
        """Return True at that time, or up to `tick` seconds later; False as soon as the load is to stop."""
        while not self._stop.is_set():
            left = when - time.monotonic()
            if left > _SHORT:
                with anyio.move_on_after(left - _SHORT / 2):
                    await self._stop.wait()
            else:
                await anyio.sleep(max(left, tick if left > 0 else 0.0))
                if left <= 0:
                    return not self._stop.is_set()
        return False

    # --- closed loop ---------------------------------------------------------------------------------------------------

    async def _closed_loop(self, group: TaskGroup) -> None:
        while not self._stop.is_set():
            at = time.monotonic() - self._context.start
            self._wanted, left = arrivals.crew(self._crew, at)
            for worker in range(self._wanted):
                if worker not in self._working:
                    self._working.add(worker)
                    group.start_soon(self._work, worker)
            with anyio.move_on_after(left if left < math.inf else None):
                await self._stop.wait()
        self._wanted = 0

    async def _work(self, worker: int) -> None:
        """Do one operation after the other, as long as this worker is wanted."""
        recorder, operate, now = self._recorder, self._operate, time.monotonic
        in_a_row = 0
        while worker < self._wanted:
            recorder.begun()
            self._open += 1
            start = now()
            try:
                failure = await operate()
            except BaseException as error:
                self._broken_off(start, start, error)
                raise
            self._count(start, start, failure)
            self._open -= 1
            in_a_row = in_a_row + 1 if self._latest == worker else 0
            self._latest = worker
            if self._rest is not None:
                await self._rest()
            if failure is not None:
                await anyio.sleep(AFTER_FAILURE)
            elif in_a_row >= BREATH:
                in_a_row = 0
                await anyio.lowlevel.checkpoint()
        self._working.discard(worker)

    # --- counting ------------------------------------------------------------------------------------------------------

    def _broken_off(self, intended: float, start: float, error: BaseException) -> None:
        """Count an operation whose end nobody sees, at the moment of the cut: so windows and episodes know of it as of any other."""
        if isinstance(error, Exception):
            self._last = None
            detail, name = f"{type(error).__name__}: {error}", CRASHED
        elif self._last and self._last.cancel_called:
            detail, name = f"it had {LAST:g}s to finish after the end of the run", CUT_OFF
        else:
            detail, name = "", CUT_SHORT if self._stop.is_set() else CRASHED
        self._count(intended, start, Failure(name, detail, "indeterminate"))

    def _count(self, intended: float, start: float, failure: Failure | None) -> None:
        end = time.monotonic()
        if failure is None:
            self._recorder.ok(intended, start, end)
        else:
            self._recorder.record(
                intended=intended,
                start=start,
                end=end,
                outcome=failure.outcome,
                error=failure.error,
                detail=failure.detail,
            )
