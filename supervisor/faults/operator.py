"""What an operator does while a soak runs: pause and resume the faults, inject one, undo what is open, hold and release units.

All of it is journalled. What disturbs the system is an episode like any other, with an id of its own (`restart-nats@operator#1`,
`operator#2`), so that it is undone whatever happens and the report tells it apart from what the soak file wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import anyio

from supervisor.engines.base import EngineError
from supervisor.engines.fleet import UnitStatus
from supervisor.faults.aiming import intent_of
from supervisor.faults.base import Aim, CannotAim, Fault
from supervisor.faults.draws import Draw
from supervisor.faults.episode import Episode
from supervisor.faults.hold import HOLD, As, terms
from supervisor.faults.limits import Demand, down
from supervisor.faults.overview import became, near, overview
from supervisor.faults.recovery import describe, record
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.events import BY_HAND, OPERATOR, OperatorActed, Target
from supervisor.values import format_duration

PATIENCE: Final = 20.0
"""Seconds after which whoever asked is told that something is still under way."""

Answer = dict[str, Any]
"""JSON; `said` is the answer in words."""


class Refused(Exception):  # noqa: N818  # what happened is in the name
    """What was asked for is not done; the text says why, and what to do."""


class Operator:
    """One run's scheduler in the hands of a person. Each method answers within `PATIENCE`, or raises Refused."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._scene = scheduler, scheduler.scene
        self._fleet, self._journal = scheduler.scene.world.fleet, scheduler.scene.journal
        self._counts: dict[str, int] = {}
        self._lock = anyio.Lock()
        """Held by whoever is about to begin an episode by hand, until it has begun."""
        self._coming: tuple[str, anyio.CancelScope] | None = None
        """The fault whose targets are being chosen by hand, and what takes that back."""

    def overview(self) -> Answer:
        """Return the faults, what is open, and who holds which unit."""
        return overview(self._scheduler, self._counts)

    # --- all faults --------------------------------------------------------------------------------------------------

    async def pause(self, seconds: float | None = None, *, finish: bool = False) -> Answer:
        """Draw nothing until `resume`, or for some seconds. What is open is undone, or, with `finish`, ends as it would."""
        self._must_run()
        gate = self._scheduler.gate
        gate.close(math.inf if seconds is None else seconds)
        await self._acted("pause", "letting open episodes finish" if finish else "", seconds)
        undone = [] if finish else await self._cut("an operator paused the faults")
        left = f" for {format_duration(seconds)}" if seconds is not None else " until `soakd fault resume`"
        return {"said": "; ".join([f"faults are paused{left}", *undone]), "undone": undone}

    async def resume(self) -> Answer:
        """Draw again. What was due meanwhile comes now."""
        self._must_run()
        if not self._scheduler.gate.left:
            raise Refused("the faults are not paused")
        self._scheduler.gate.open()
        await self._acted("resume")
        return {"said": "faults come again"}

    async def abort(self) -> Answer:
        """Undo every episode that is open now; units that are held stay so, and what comes next comes."""
        self._must_run()
        open_now = [episode.intent.episode for episode in self._disturbing()]
        open_now += [self._coming[0]] if self._coming else []
        if not open_now:
            raise Refused("no episode is open, so there is nothing to undo")
        await self._acted("abort", ", ".join(open_now))
        undone = await self._cut("an operator aborted it")
        return {"said": "; ".join(undone), "undone": undone}

    def _disturbing(self) -> list[Episode]:
        """Return the episodes of faults whose undo is not over."""
        found = [one for one in self._scheduler.episodes() if one.intent.type != HOLD.key]
        return [one for one in found if not one.closed and not one.settled.is_set()]

    async def _cut(self, why: str) -> list[str]:
        """Undo what is open, and take back what is about to be injected by hand; say of each what became of it."""
        not_begun = []
        if self._coming and not self._coming[1].cancel_called:
            self._coming[1].cancel()
            not_begun.append(f"{self._coming[0]} was not injected")
        episodes = self._disturbing()
        for episode in episodes:
            episode.cut(why)
        return [*not_begun, *await self._settle(episodes)]

    async def _settle(self, episodes: Iterable[Episode]) -> list[str]:
        """Wait until the undo of episodes is over, and say of each what became of it."""
        episodes = list(episodes)
        with anyio.move_on_after(PATIENCE):
            for episode in episodes:
                await episode.settled.wait()
        return [became(episode, PATIENCE) for episode in episodes]

    # --- one fault ---------------------------------------------------------------------------------------------------

    async def inject(self, name: str) -> Answer:
        """Inject a fault now, also while the faults are paused; it is undone after its `hold` like any other."""
        self._must_run()
        if name not in self._scheduler.lines:
            raise Refused(f"there is no fault {name}{near(name, self._scheduler.lines)}")
        async with self._lock:
            fault = self._free(name)
            n = self._counts.get(name, 0) + 1
            drawn = Draw(self._scheduler.seed, f"{name}{BY_HAND}", n, 0.0, from_start=False)
            aim = await self._choose(fault, name, drawn)
            try:  # while it was aimed, a draw of the same fault may have begun, or another soak file come
                self._free(name, fault)
            except Refused:
                self._scene.claims.drop(drawn.episode)
                raise
            episode = self._begin(fault, drawn, aim)
            self._counts[name] = n
            await self._acted("inject", name)
        await self._placed(episode)
        units = ", ".join(sorted(aim.units)) or "the system"
        held = f", undone after {format_duration(fault.hold)}" if fault.hold else ""
        return {
            "said": f"{drawn.episode} on {units}: {episode.stage}{held}",
            "episode": drawn.episode,
            "targets": sorted(aim.units),
        }

    def _free(self, name: str, meant: Fault | None = None) -> Fault:
        """Return a fault of which nothing is in place; Refused if something is, or if it is on its way out, or not who was meant."""
        line = self._scheduler.lines.get(name)
        if line is None or line.retired or (meant and line.fault is not meant):
            raise Refused(f"the soak file is being changed, and {name} with it: try again")
        for last in self._scheduler.episodes():
            if last.intent.written == name and last.broken:
                raise Refused(f"{last.intent.episode} could not be undone: mend that first (see the report)")
            if last.intent.written == name and not last.closed:
                raise Refused(
                    f"{last.intent.episode} is still open ({last.stage}): wait, or `soakd fault abort`"
                )
        return line.fault

    async def _choose(self, fault: Fault, name: str, drawn: Draw) -> Aim:
        """Aim, unless somebody pauses or aborts the faults meanwhile: he means this one too."""
        with anyio.CancelScope() as scope:
            self._coming = (name, scope)
            try:
                aim = await self._aim(fault, name, drawn)
            finally:
                self._coming = None
        if scope.cancel_called:
            self._scene.claims.drop(drawn.episode)
            raise Refused(f"{name} was not injected: an operator paused or aborted the faults meanwhile")
        return aim

    async def _aim(self, fault: Fault, name: str, drawn: Draw) -> Aim:
        """Choose the targets and claim them; Refused if there are none, or somebody has them."""
        claims, episode = self._scene.claims, drawn.episode
        try:
            aim = await self._scheduler.aiming.choose(fault, drawn)
        except CannotAim as error:
            raise Refused(f"cannot inject {name}: {error}") from error
        except Exception as error:  # whatever a kind raises: nothing was done yet, and whoever asked is told
            raise Refused(f"cannot inject {name}: its targets cannot be chosen: {describe(error)}") from error
        self._claim(episode, self._scene.claims.bounds.demand(fault, aim))
        try:
            await self._scheduler.aiming.expect_before(name, episode)
        except BaseException as error:
            claims.drop(episode)
            if isinstance(error, CannotAim):
                raise Refused(f"cannot inject {name}: {error}") from error
            raise
        return aim

    def _claim(self, episode: str, demand: Demand) -> None:
        ahead = self._scene.claims.take_now(episode, demand)
        if ahead:
            raise Refused(
                f"{', '.join(ahead)} has the same units or waits for them: try again later, or `soakd fault abort`"
            )
        if ahead is not None:
            gone = ", ".join(down(self._fleet)) or "none"
            raise Refused(
                f"it would be too much at once (`limits` of the soak file; units down just now: {gone}): try again later, or "
                "`soakd fault abort`"
            )

    def _begin(self, fault: Fault, drawn: Draw, aim: Aim) -> Episode:
        """Begin an episode whose units are claimed."""
        why, episode = "", None
        if self._scheduler.finishing:
            why = "the soak is ending: everything that is open is being undone"
        elif not self._scheduler.guardian_alive():
            why = "the guardian is gone: nobody would undo it if soakd died"
        elif (episode := self._scheduler.begin(fault, intent_of(fault, drawn, aim))) is None:
            why = "the part of soakd that injects is being started again: try once more"
        if episode is None:
            self._scene.claims.drop(drawn.episode)
            raise Refused(why)
        return episode

    async def _placed(self, episode: Episode) -> None:
        """Wait until inject is over, or at least under way; Refused if nothing came of it."""
        name = episode.intent.episode
        with anyio.move_on_after(PATIENCE / 2):
            await episode.placed.wait()
        if episode.lost:
            raise Refused(f"nothing was done: {episode.lost}")
        if episode.failed:
            raise Refused(f"{name} could not be injected, and is undone: {episode.failed}")
        if episode.cause:
            raise Refused(f"{name} was cut short: {episode.cause}")

    # --- one unit ----------------------------------------------------------------------------------------------------

    async def hold(self, name: str, wanted: As | None = None) -> Answer:
        """Take a unit over, as it is or brought up or down: it is not restarted and no fault chooses it until `release`."""
        self._must_run()
        async with self._lock:
            unit, status = self._unit(name)
            if held := self._held(unit):
                raise Refused(
                    f"{unit} is held already, by {held.intent.episode}: `soakd unit release {unit}` first"
                )
            if status.holder:
                raise Refused(
                    f"{unit} is held {status.desired} by {status.holder}: wait, or `soakd fault abort`"
                )
            n = self._counts.get(OPERATOR, 0) + 1
            drawn = Draw(self._scheduler.seed, OPERATOR, n, 0.0, from_start=False)
            target = Target(unit=unit, incarnation=status.observed.incarnation)
            aim = Aim((target,), terms(status.observed.state, wanted))
            taken = int(wanted == "down")
            self._claim(
                drawn.episode, Demand(aim.units, taken, taken * (unit in self._scene.claims.bounds.nodes))
            )
            episode = self._begin(HOLD, drawn, aim)
            self._counts[OPERATOR] = n
            await self._acted("hold", f"{unit} {wanted or 'as it is'}")
        await self._placed(episode)
        now = self._fleet.status(unit)
        return {
            "said": f"{unit} is held {now.desired} ({now.observed.state}) as {drawn.episode}: "
            f"`soakd unit release {unit}` gives it back",
            "episode": drawn.episode,
        }

    async def release(self, name: str) -> Answer:
        """Give a unit back to its watchdog and the faults; what `hold --down` took down is started."""
        self._must_run()
        unit, status = self._unit(name)
        episode = self._held(unit)
        if episode is None:
            by = f"it is held {status.desired} by {status.holder}" if status.holder else "nobody holds it"
            raise Refused(f"{unit} is not in an operator's hands: {by}")
        await self._acted("release", unit)
        episode.cut()
        if not episode.closed:
            await self._settle([episode])
        else:  # an earlier attempt failed
            await episode.mend(PATIENCE)
            self._scheduler.forget(episode)
        if not episode.undone:
            raise Refused(became(episode, PATIENCE))
        self._scene.claims.drop(
            episode.intent.episode
        )  # whoever waits for the unit need not wait for the steady state
        state = self._fleet.status(unit).observed.state
        return {"said": f"{unit} is given back ({state})", "episode": episode.intent.episode}

    def _unit(self, name: str) -> tuple[str, UnitStatus]:
        try:
            unit = self._fleet.id_of(name)
        except EngineError as error:
            raise Refused(str(error)) from error
        return unit, self._fleet.status(unit)

    def _held(self, unit: str) -> Episode | None:
        """Return the episode in which an operator holds a unit."""
        for episode in self._scheduler.by_hand.values():
            over = episode.settled.is_set() and episode.undone
            if episode.intent.type == HOLD.key and episode.intent.targets[0].unit == unit and not over:
                return episode
        return None

    # --- what all of them need ---------------------------------------------------------------------------------------

    def _must_run(self) -> None:
        if self._scheduler.finishing:
            raise Refused("the soak is ending: everything that is open is being undone")

    async def _acted(self, action: Any, what: str = "", seconds: float | None = None) -> None:
        await record(self._journal, OperatorActed(action=action, what=what, seconds=seconds))
