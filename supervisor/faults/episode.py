"""The life of one episode, from the intent on disk to its close.

Whatever happens on the way (inject raises or hangs, the run ends, the task is cancelled), what was begun is undone and the episode is
closed: undo is shielded, bounded, and made again when it fails.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio

from supervisor.engines.base import UnitState
from supervisor.faults.base import Expectations, Fault, Steady, World
from supervisor.faults.claims import Claims, Disturbances
from supervisor.faults.recovery import COMMIT_TIMEOUT, describe, record, undo_episode
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import (
    EpisodeClosed,
    EpisodeUnheard,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
)
from supervisor.values import format_duration

LEAST: Final = 3.0
"""Seconds that undo has at the end of a run, whatever else there is to do: what the guardian would have after a SIGKILL."""
RESTARTS: Final = 3
"""How often the time to recover may begin anew because another fault was in place meanwhile."""


_Seen = tuple[UnitState, str | None]
"""State and incarnation of a target."""


class IntentLost(Exception):  # noqa: N818  # it says what happened
    """The intent could not be made durable, so nothing was injected."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What all episodes of a run share."""

    world: World
    journal: Journal
    steady: Steady
    claims: Claims = field(default_factory=Claims)
    expectations: Expectations | None = None
    disturbances: Disturbances = field(default_factory=Disturbances)


class Episode:
    """One occurrence of a fault. `live` is its whole life; `finish` makes it end early."""

    def __init__(self, fault: Fault, intent: FaultIntent, scene: Scene) -> None:
        self.intent = intent
        self.undone = False
        """Nothing of it is in place (any more)."""
        self.closed = False
        self.stage: Literal["injecting", "holding", "undoing", "recovering"] = "injecting"
        self.since = time.monotonic()
        self.lost, self.failed = "", ""
        """Why nothing was injected; why inject failed."""
        self.placed, self.settled = anyio.Event(), anyio.Event()
        """Set when inject is over, and when undo is, however they ended."""
        self._fault, self._scene = fault, scene
        self.cause = ""
        """Who cut it short and why, where that was not as planned."""
        self._cut = anyio.CancelScope()
        self._undoing = anyio.CancelScope(shield=True)
        self._recovering = anyio.CancelScope()
        self._left: dict[str, _Seen] = {}
        self._truncated = ""
        self._recovered: bool | None = None
        self._recovery: float | None = None
        self._failing: tuple[str, ...] = ()
        self._unmet: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """It was closed, but something of it may still be in place."""
        return self.closed and not self.undone

    def finish(self, timeout: float) -> None:
        """Cut inject and hold short, and give recovery and undo `timeout` seconds; undo comes first and has `LEAST` anyway."""
        now = anyio.current_time()
        self._recovering.deadline = now + timeout
        self._undoing.deadline = now + max(timeout, LEAST)
        self._cut.cancel()

    def cut(self, why: str = "") -> None:
        """Cut inject and hold short; everything after that takes the time that it takes. `why`: that was not as planned."""
        self.cause = self.cause or why
        self._cut.cancel()

    async def live(self) -> None:
        """Put the intent on disk, inject, hold, undo, watch the system recover, close. IntentLost: nothing was injected."""
        await self._announce()
        if unheard := await self._scene.world.heard():
            self._scene.journal.emit(EpisodeUnheard(episode=self.intent.episode, loads=unheard))
        self._scene.disturbances.enter(self.intent.episode)
        try:
            with self._cut:
                await self._disturb()
        finally:
            self._truncated = self.cause or self._cut_short()
            try:
                await self._undo()
                await self._recover()
            finally:
                self.closed = True
                await record(
                    self._scene.journal,
                    EpisodeClosed(
                        episode=self.intent.episode,
                        recovered=self._recovered,
                        recovery=self._recovery,
                        truncated=self._truncated,
                        failing=self._failing,
                        unmet=self._unmet,
                    ),
                )

    async def mend(self, timeout: float) -> None:
        """Try once more to undo it, after it was closed with its undo failed. It has as much time as in `finish`."""
        with anyio.move_on_after(max(timeout, LEAST)):
            self.undone = not await undo_episode(
                self._fault, self._scene.world, self.intent, self._scene.journal
            )

    async def _announce(self) -> None:
        """Commit the intent. It cannot be cancelled: whether it is on disk decides everything that follows."""
        journal, episode = self._scene.journal, self.intent.episode
        try:
            with anyio.fail_after(COMMIT_TIMEOUT, shield=True):
                await journal.commit(self.intent)
        except (JournalError, TimeoutError) as error:
            self.undone = self.closed = True
            self.lost = reason = f"its intent could not be journalled: {describe(error)}"
            self.placed.set()
            self.settled.set()
            if isinstance(error, TimeoutError):
                # It may come to stand there yet, and nobody shall believe it open.
                journal.emit(FaultUndone(episode=episode, attempts=0))
                journal.emit(EpisodeClosed(episode=episode, recovered=None, truncated=reason))
            raise IntentLost(reason) from error

    async def _disturb(self) -> None:
        """Inject and hold, and look meanwhile for what is expected."""
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            if not self._fault.hold:
                # It is over as soon as inject is, so whatever shows of it shows meanwhile.
                group.start_soon(self._expect, math.inf, over)
            if injected := await self._inject():
                self._left = self._look()
                self.stage = "holding"
                self.placed.set()
                if self._fault.hold:
                    group.start_soon(self._expect, 0.0, over)
                await anyio.sleep(self._fault.hold)
            over.set()
        if not injected:
            self._unmet = ()  # nobody can expect anything of it

    async def _expect(self, patience: float, over: anyio.Event) -> None:
        self._unmet = await self._meet("during", patience, over)

    async def _meet(
        self, when: Literal["during", "recovered"], patience: float, over: anyio.Event | None = None
    ) -> tuple[str, ...]:
        expectations, intent = self._scene.expectations, self.intent
        if expectations is None:
            return ()
        return await expectations.meet(intent.written, intent.episode, when, patience, over)

    async def _inject(self) -> bool:
        """Inject, and say whether that succeeded. What a kind raises is recorded, whatever it is: what it did by then is undone."""
        fault, journal, began, failure = self._fault, self._scene.journal, time.monotonic(), ""
        try:
            with anyio.move_on_after(fault.inject_timeout) as scope:
                await fault.inject(self._scene.world, self.intent)
            if scope.cancelled_caught:
                failure = f"it did not end within inject_timeout, {format_duration(fault.inject_timeout)}"
        except Exception as error:  # noqa: BLE001  # it is journalled and undone, and the verdict hears of it
            failure = describe(error)
        if failure:
            self.failed = failure
            journal.emit(FaultFailed(episode=self.intent.episode, error=failure))
        else:
            journal.emit(FaultInjected(episode=self.intent.episode, took=time.monotonic() - began))
        return not failure

    def _look(self) -> dict[str, _Seen]:
        """Return state and incarnation of the targets, as the fleet last knew them."""
        fleet, units = self._scene.world.fleet, [target.unit for target in self.intent.targets]
        known = {unit: fleet.status(unit).observed for unit in units if unit in fleet.ids}
        return {unit: (seen.state, seen.incarnation) for unit, seen in known.items()}

    def _cut_short(self) -> str:
        """Say which targets are not any more as inject left them; empty if all are."""
        if not self._fault.in_targets or not self._left:
            return ""
        now = self._look()
        early = self._early()
        found = [f"{unit} {what} between aim and the end of inject" for unit, what in early.items()]
        found += (
            f"{unit} was {was[0]} when inject ended and {what} before undo"
            for unit, was in self._left.items()
            if unit not in early and (what := self._changed(was, now.get(unit)))
        )
        return "; ".join(found)

    def _early(self) -> dict[str, str]:
        """Return the targets that inject did not leave in the life that was aimed at, which is not its own doing."""
        if self._fault.renews or not self._fault.hold:
            return {}
        meant = {one.unit: one.incarnation for one in self.intent.targets if one.incarnation}
        found: dict[str, str] = {}
        for unit, (state, incarnation) in self._left.items():
            if unit in meant and state is UnitState.ABSENT:
                found[unit] = "vanished"
            elif unit in meant and not self._fault.is_in(incarnation, meant[unit]):
                found[unit] = "was replaced"
        return found

    def _changed(self, was: _Seen, now: _Seen | None) -> str:
        """Say what became of a target since inject ended; empty if the disturbance is in it still."""
        if now == was:
            return ""
        if now is None or now[0] is UnitState.ABSENT:
            return "vanished"
        if self._fault.stays:
            return "" if self._fault.is_in(now[1], was[1]) else "was replaced"
        return "was replaced" if now[0] is was[0] else f"was {now[0]}"

    async def _undo(self) -> None:
        self.stage = "undoing"
        self.placed.set()
        with self._undoing:
            failure = await undo_episode(self._fault, self._scene.world, self.intent, self._scene.journal)
            self.undone = not failure
        self._scene.disturbances.leave(self.intent.episode)
        self.stage = "recovering"
        self.settled.set()

    async def _recover(self) -> None:
        """Wait for the steady state. It is only meant where no fault is in place: while another one is, the time does not count."""
        disturbances, began = self._scene.disturbances, time.monotonic()
        with self._recovering:
            for _ in range(1 + RESTARTS):
                asked = time.monotonic()
                holds, self._failing = await self._scene.steady.wait(self._fault.recovery_timeout)
                if holds:
                    patience = self._fault.recovery_timeout - (time.monotonic() - asked)
                    self._failing = await self._meet("recovered", patience)
                    holds = not self._failing
                if holds or not disturbances.since(asked):
                    self._recovered = holds
                    break
                await disturbances.calm()
            else:
                self._recovered = False
        if self._recovered:
            self._recovery = time.monotonic() - began
