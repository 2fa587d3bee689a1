"""Draws the faults and sends each draw through the life of an episode (`episode.py`).

Every fault has one line of draws, and one episode at a time; those without a schedule of their own are drawn by the nemesis. Episodes
of different faults may overlap, but never on one unit, nor beyond the limits: the later one waits for the close of the earlier one,
since whoever wrote `at: 10m` wants the fault a little later rather than not at all, and then aims again, since meanwhile the system
has changed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup

from supervisor.faults.aiming import Aiming, intent_of
from supervisor.faults.base import Aim, CannotAim, Expectations, Fault, Steady, World
from supervisor.faults.change import changing, planned
from supervisor.faults.claims import Claims
from supervisor.faults.draws import Draw, choices
from supervisor.faults.episode import LEAST, Episode, IntentLost, Scene
from supervisor.faults.gate import Gate
from supervisor.faults.hold import HOLD
from supervisor.faults.limits import Bounds, Limits, down
from supervisor.faults.lines import Line
from supervisor.faults.nemesis import Nemesis
from supervisor.faults.play import Play
from supervisor.faults.recovery import describe
from supervisor.journal.base import Journal
from supervisor.journal.events import DrawSkipped, FaultIntent

UNDONE: Final = 15.0
"""Seconds that `retire` waits for the undo of an episode."""
FINISH_MARGIN: Final = 2.0
"""Seconds beyond its timeout that `finish` waits for the last records to be written."""


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
        *,
        nemesis: Nemesis | None = None,
        bounds: Bounds | None = None,
        expectations: Expectations | None = None,
    ) -> None:
        """`start` is the soak's start in monotonic seconds; nothing is injected while `guardian_alive` says False."""
        claims = Claims(bounds or Bounds(Limits()), partial(down, world.fleet))
        self.scene = Scene(world, journal, steady, claims, expectations)
        self.seed, self.guardian_alive = seed, guardian_alive
        self.gate = Gate()
        """Closed while an operator has paused the faults: nothing is drawn then."""
        self.by_hand: dict[str, Episode] = {}
        """Episodes that an operator began, or whose fault has changed since, by id; what is over and undone is forgotten."""
        self.aiming = Aiming(self.scene, self.gate, self.by_hand)
        self.finishing = False
        self._gone: dict[str, Line] = {}
        """Faults that the soak file had once: should one come again, its episodes are numbered on."""
        self.lines = {name: Line(name, fault, start) for name, fault in faults.items()}
        self._start = start
        self._play = Play(nemesis, choices(seed, nemesis), start, start) if nemesis else None
        self._stop, self._over = anyio.Event(), anyio.Event()
        self._over.set()
        self._group: TaskGroup | None = None

    async def run(self) -> None:
        """Draw and live all episodes until `finish` is called. May be run again if it raised."""
        self._over = anyio.Event()
        try:
            async with anyio.create_task_group() as self._group:
                if self._play:
                    self._group.start_soon(self._play.run, self, self._group, name="nemesis")
                for line in self.lines.values():
                    if line.fault.scheduled:
                        self._group.start_soon(self._follow, line, name=f"fault {line.name}")
                await self._stop.wait()  # also when nothing is drawn any more, somebody may inject by hand
        finally:
            self._group = None
            self._over.set()

    async def drawn_out(self) -> None:
        """Wait until no schedule of a fault has more to come, and its last episode is closed."""
        for line in self.lines.values():
            while line.fault.scheduled and not line.over:
                await line.news.wait()

    def begin(self, fault: Fault, intent: FaultIntent) -> Episode | None:
        """Begin an episode by hand, beside the lines; its units are claimed already. None: the scheduler does not run just now."""
        if self._group is None or self.finishing:
            return None
        self.by_hand[intent.episode] = episode = Episode(fault, intent, self.scene)
        self._group.start_soon(self._live_by_hand, episode, name=f"by hand {intent.episode}")
        return episode

    async def _live_by_hand(self, episode: Episode) -> None:
        try:
            await episode.live()
        except IntentLost:
            pass  # who began it is told
        finally:
            self.scene.claims.drop(episode.intent.episode)
            self.forget(episode)

    def forget(self, episode: Episode) -> None:
        """Forget an episode by hand that is over, unless something of it may still be in place."""
        if episode.undone:
            self.by_hand.pop(episode.intent.episode, None)

    def episodes(self) -> list[Episode]:
        """Return the last episode of each fault, and all by hand: those that are open, and those that could not be undone."""
        last = [line.episode for line in self.lines.values() if line.episode]
        return [*last, *self.by_hand.values()]

    async def finish(self, timeout: float) -> tuple[str, ...]:
        """Draw nothing more; within `timeout` seconds undo what is open, see it recover and close it.

        What an earlier attempt could not undo is tried once more. Returns the episodes that are still not undone.
        """
        self.finishing = True
        self._stop.set()
        episodes = self.episodes()
        broken = [episode for episode in episodes if episode.broken]
        if self._play:
            self._play.end()
        for line in self.lines.values():
            line.waiting.cancel()
        for episode in episodes:
            episode.finish(timeout)
        with anyio.move_on_after(max(timeout, LEAST) + FINISH_MARGIN):
            async with anyio.create_task_group() as group:
                for episode in broken:
                    group.start_soon(episode.mend, timeout)
                await self._over.wait()
        return tuple(episode.intent.episode for episode in episodes if not episode.undone)

    # --- what there is ---------------------------------------------------------------------------------------------------

    async def retire(self, faults: Mapping[str, Fault]) -> tuple[str, ...]:
        """Undo what is open of faults that go or change, and draw nothing more from them; return episodes that could not be undone.

        If any could not, nothing else has changed: their faults have nothing more drawn, the others go on.
        """
        anew = changing(self.lines, faults)
        for line in map(self.lines.__getitem__, anew):
            line.retired = True
            line.waiting.cancel()
        episodes = [
            episode
            for episode in self.episodes()
            if episode.intent.written in anew and episode.intent.type != HOLD.key
        ]
        for episode in episodes:
            if not episode.closed:
                episode.cut("the soak file was changed")
        with anyio.move_on_after(UNDONE):
            for episode in episodes:
                await episode.settled.wait()
        broken = tuple(episode.intent.episode for episode in episodes if not episode.undone)
        if broken:
            self.reinstate()
        return broken

    def reinstate(self) -> None:
        """Draw again from faults that were retired, as they were; not from those that could not be undone."""
        retired = [line for line in self.lines.values() if line.retired and not line.broken]
        for line in retired:
            self._keep(line.episode)
        self._replace({line.name: line.written for line in retired})

    def adopt(self, faults: Mapping[str, Fault], nemesis: Nemesis | None, bounds: Bounds) -> None:
        """Draw from these faults from now on; those that have not changed go on as they are."""
        self.scene.claims.bounds = bounds
        anew = changing(self.lines, faults)
        for name in anew:
            self._keep(self.lines[name].episode)
        self._gone |= {name: self.lines.pop(name) for name in anew if name not in faults}
        self._replace(
            {name: fault for name, fault in faults.items() if name in anew or name not in self.lines}
        )
        if nemesis != (self._play.nemesis if self._play else None):
            self._draw_by(nemesis)

    def _draw_by(self, nemesis: Nemesis | None) -> None:
        """Have another nemesis draw from now on, or none."""
        if self._play:
            self._play.end()
        drawn = {name: line.drawn for name, line in self.lines.items()}
        self._play = None
        if nemesis:
            chosen = choices(self.seed, nemesis, drawn)
            self._play = Play(nemesis, chosen, self._start, time.monotonic())
            if self._group:
                self._group.start_soon(self._play.run, self, self._group, name="nemesis")

    def planned(self, faults: Mapping[str, Fault]) -> dict[str, int]:
        """Return how many episodes a run must have seen in the end of faults whose schedule names their number, counted from now."""
        return planned(self.lines, faults, time.monotonic() - self._start)

    def _replace(self, faults: Mapping[str, Fault]) -> None:
        """Put a new line in the place of each of these faults, and draw from it."""
        fresh = list[Line]()
        for name, fault in faults.items():
            before = self.lines.get(name) or self._gone.pop(name, None) or Line(name, fault, self._start)
            self.lines[name] = before.successor(fault, self._start)
            fresh.append(self.lines[name])
        for line in fresh:
            if line.fault.scheduled and self._group:
                self._group.start_soon(self._follow, line, name=f"fault {line.name}")

    def _keep(self, episode: Episode | None) -> None:
        """Remember an episode whose line goes, until it is over."""
        if episode and not (episode.closed and episode.undone):
            self.by_hand[episode.intent.episode] = episode

    # --- when it comes -----------------------------------------------------------------------------------------------

    async def _follow(self, line: Line) -> None:
        """Live one fault's episodes by its own schedule, one after the other."""
        leader = self.lines.get(line.fault.after) if line.fault.after else None
        more = True
        while more and not (self.finishing or line.retired) and (drawn := line.next(self.seed)):
            more = await self.turn(line, drawn, partial(line.wait, drawn, leader))
        line.end()  # not if it was cut off: a scheduler that crashed goes on

    async def steady(self) -> None:
        """Wait for the steady state, however long that takes."""
        await self.aiming.steady()

    async def turn(self, line: Line, drawn: Draw, due: Callable[[], Awaitable[bool]]) -> bool:
        """Live one draw as soon as it is due; False: nothing more is to come from this fault."""
        if line.broken:
            self.skip(
                line, drawn, "the one before could not be undone: nothing more is drawn from this fault"
            )
            return False
        line.busy, aim = True, None
        try:
            with anyio.CancelScope() as line.waiting:
                if not await due():
                    return False
                aim = await self._aim(line, drawn)
            if aim and not self.finishing and not line.retired:
                await self._live(line, drawn, aim)
        finally:
            line.busy = False
            self.scene.claims.drop(drawn.episode)
        return True

    # --- whom it meets -----------------------------------------------------------------------------------------------

    async def _aim(self, line: Line, drawn: Draw) -> Aim | None:
        """Choose the targets and have them for this episode alone; None: the draw was skipped."""
        try:
            aim = await self.aiming.ready(line.fault, drawn)
        except CannotAim as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  # whatever a kind raises: nothing was done yet, and the journal tells
            reason = f"cannot choose its targets: {describe(error)}"
        else:
            if self.guardian_alive():
                return aim
            reason = "the guardian is gone: nobody would undo it if soakd died"
        self.skip(line, drawn, reason)
        return None

    async def _live(self, line: Line, drawn: Draw, aim: Aim) -> None:
        line.episode = Episode(line.fault, intent_of(line.fault, drawn, aim), self.scene)
        line.drawn, line.episodes, lived = drawn.n, line.episodes + 1, True
        try:
            await line.episode.live()
        except IntentLost as error:
            line.episodes, lived = line.episodes - 1, False
            self.skip(line, drawn, str(error))
        finally:
            line.close(lived=lived)
            self.forget(line.episode)

    def skip(self, line: Line, drawn: Draw, reason: str) -> None:
        """A draw comes to nothing, and the journal says why."""
        line.skip(drawn)
        self.scene.journal.emit(DrawSkipped(fault=line.name, n=drawn.n, reason=reason))
