"""Draws the faults and sends each draw through the life of an episode (`episode.py`).

Every fault has one line of draws, and one episode at a time. Episodes of different faults may overlap, but never on one unit: the
later one waits for the close of the earlier one, since whoever wrote `at: 10m` wants the fault a little later rather than not at all,
and then aims again, since meanwhile the system has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio

from supervisor.faults.base import Aim, CannotAim, Fault, Steady, World
from supervisor.faults.draws import Draw, draw
from supervisor.faults.episode import LEAST, Episode, IntentLost, Scene
from supervisor.faults.recovery import describe
from supervisor.journal.base import Journal
from supervisor.journal.events import DrawSkipped, FaultIntent

AIM_TIMEOUT: Final = 10.0
"""Seconds a kind may take to choose its targets (it may have to ask the broker for a leader)."""
SKIP_PAUSE: Final = 1.0
"""Least seconds between a skipped draw and the next: `every: 0s` must not spin while something is missing."""
FINISH_MARGIN: Final = 2.0
"""Seconds beyond its timeout that `finish` waits for the last records to be written."""


class _Line:
    """One fault's draws, one after the other. Its state outlives a restart of the scheduler's task."""

    def __init__(self, name: str, fault: Fault, start: float) -> None:
        self.name, self.fault = name, fault
        self.start, self.closed = start, start
        self.drawn, self.episodes = 0, 0
        self.earliest = start
        self.waiting = anyio.CancelScope()
        self.episode: Episode | None = None
        """The one that is open, or the last one."""

    @property
    def broken(self) -> bool:
        """The last episode was closed, but something of it may still be in place."""
        return self.episode is not None and self.episode.closed and not self.episode.undone

    def next(self, seed: int) -> Draw | None:
        """Return the next draw, None if the schedule is over."""
        over = self.fault.times is not None and self.episodes >= self.fault.times
        return None if over else draw(seed, self.name, self.fault, self.drawn + 1)

    def wait(self, drawn: Draw) -> float:
        """Return the seconds until a draw is due."""
        due = (self.start if drawn.from_start else self.closed) + drawn.delay
        return max(0.0, max(due, self.earliest) - time.monotonic())

    def skip(self, drawn: Draw) -> None:
        """This draw comes to nothing."""
        self.drawn, self.closed = drawn.n, time.monotonic()
        self.earliest = self.closed + SKIP_PAUSE


class Scheduler:
    """Runs all faults of a soak. `run` is its one task, `finish` ends it in order."""

    def __init__(  # noqa: PLR0917  # the parts of the run, in the order in which they come to life
        self,
        faults: Mapping[str, Fault],
        world: World,
        journal: Journal,
        steady: Steady,
        seed: int,
        start: float,
        guardian_alive: Callable[[], bool],
    ) -> None:
        """`start` is the soak's start in monotonic seconds; nothing is injected while `guardian_alive` says False."""
        self._scene = Scene(world, journal, steady)
        self._seed, self._guardian_alive = seed, guardian_alive
        self._lines = [_Line(name, fault, start) for name, fault in faults.items()]
        self._finishing = False
        self._over: anyio.Event | None = None

    async def run(self) -> None:
        """Draw and live all episodes until every schedule is over or `finish` is called. May be run again if it raised."""
        self._over = anyio.Event()
        try:
            async with anyio.create_task_group() as group:
                for line in self._lines:
                    group.start_soon(self._follow, line, name=f"fault {line.name}")
        finally:
            self._over.set()

    async def finish(self, timeout: float) -> tuple[str, ...]:
        """Draw nothing more; within `timeout` seconds undo what is open, see it recover and close it.

        What an earlier attempt could not undo is tried once more. Returns the episodes that are still not undone.
        """
        self._finishing = True
        broken = [line.episode for line in self._lines if line.episode and line.broken]
        for line in self._lines:
            line.waiting.cancel()
            if line.episode:
                line.episode.finish(timeout)
        with anyio.move_on_after(max(timeout, LEAST) + FINISH_MARGIN):
            async with anyio.create_task_group() as group:
                for episode in broken:
                    group.start_soon(episode.mend, timeout)
                if self._over:
                    await self._over.wait()
        last = [line.episode for line in self._lines if line.episode]
        return tuple(episode.intent.episode for episode in last if not episode.undone)

    async def _follow(self, line: _Line) -> None:
        """Live one fault's episodes, one after the other."""
        while not self._finishing and (drawn := line.next(self._seed)):
            if line.broken:
                self._skip(
                    line, drawn, "the one before could not be undone: nothing more is drawn from this fault"
                )
                return
            try:
                aim = None
                with anyio.CancelScope() as line.waiting:
                    await anyio.sleep(line.wait(drawn))
                    aim = await self._aim(line, drawn)
                if aim and not self._finishing:
                    await self._live(line, drawn, aim)
            finally:
                self._scene.claims.drop(drawn.episode)

    async def _aim(self, line: _Line, drawn: Draw) -> Aim | None:
        """Choose the targets and have them for this episode alone; None: the draw was skipped."""
        try:
            aim = await self._claim(line.fault, drawn)
        except CannotAim as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  # whatever a kind raises: nothing was done yet, and the journal tells
            reason = f"cannot choose its targets: {describe(error)}"
        else:
            if self._guardian_alive():
                return aim
            reason = "the guardian is gone: nobody would undo it if soakd died"
        self._skip(line, drawn, reason)
        return None

    async def _claim(self, fault: Fault, drawn: Draw) -> Aim:
        claims, aim = self._scene.claims, await self._choose(fault, drawn)
        while await claims.take(drawn.episode, aim.units):
            before, aim = aim, await self._choose(fault, drawn)
            if aim.units == before.units:
                break
            claims.drop(drawn.episode)
        return aim

    async def _choose(self, fault: Fault, drawn: Draw) -> Aim:
        with anyio.fail_after(AIM_TIMEOUT):
            return await fault.aim(self._scene.world, drawn.rng())

    async def _live(self, line: _Line, drawn: Draw, aim: Aim) -> None:
        intent = FaultIntent(
            episode=drawn.episode,
            fault=line.name,
            type=line.fault.key,
            n=drawn.n,
            targets=aim.targets,
            undo=aim.undo,
        )
        line.episode = Episode(line.fault, intent, self._scene)
        line.drawn, line.episodes = drawn.n, line.episodes + 1
        try:
            await line.episode.live()
        except IntentLost as error:
            line.episodes -= 1
            self._skip(line, drawn, str(error))
        finally:
            line.closed = time.monotonic()

    def _skip(self, line: _Line, drawn: Draw, reason: str) -> None:
        line.skip(drawn)
        self._scene.journal.emit(DrawSkipped(fault=line.name, n=drawn.n, reason=reason))
