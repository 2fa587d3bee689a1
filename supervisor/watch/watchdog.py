"""The watchdog: keeps one unit up, and keeps the evidence of every crash before it does so.

A crash is taken in this order: the log's tail, the crash file, the journal, and only then the restart by policy. An exit that an
episode, the operator or somebody outside caused does not count; the unit is brought back as soon as nobody holds it any more.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Final, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError, Observed, UnitState
from supervisor.engines.fleet import Departure, Fleet, Held
from supervisor.engines.member import OUTSIDE
from supervisor.engines.selectors import Selector
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import Cause, UnitGivenUp, UnitRestarted
from supervisor.journal.timeline import Timeline
from supervisor.values import format_duration
from supervisor.watch.crashes import utc
from supervisor.watch.evidence import RECORDING, CrashFiles, Evidence, describe
from supervisor.watch.restart import Action, History, Restart, RestartPolicy

_MON_BYTES: Final = 1_000_000
_UP: Final = frozenset({UnitState.UP, UnitState.PAUSED})


@dataclass(slots=True)
class _Due:
    """A restart that is to be made."""

    since: float
    """When the unit went down, monotonic seconds."""
    delay: float
    attempt: int = 1
    crashed: bool = False
    """It counts also if the engine itself makes it."""


@dataclass(slots=True)
class _Memory:
    """What is known of a unit; it outlives a crash of the watchdog's own task."""

    history: History = field(default_factory=History)
    due: _Due | None = None
    files: CrashFiles = field(default_factory=CrashFiles)


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What all watchdogs of a run share."""

    fleet: Fleet
    journal: Journal
    timeline: Timeline
    memories: dict[str, _Memory] = field(default_factory=dict)
    keepers: dict[str, _Keeper] = field(default_factory=dict)
    """Who keeps which unit up just now."""

    def follow(self, unit: str, policy: Watchdog) -> None:
        """Have a unit kept up by another policy from now on. One that was given up has a new chance."""
        memory = self.memories.setdefault(unit, _Memory())
        policy.enlist(unit, self.fleet)
        if memory.history.given_up:
            memory.history = History()
        if keeper := self.keepers.get(unit):
            keeper.follow(policy)
        status = self.fleet.status(unit)
        down = status.holder is None and status.observed.state is UnitState.DOWN
        if down and memory.due is None and policy.restart is Restart.PERMANENT:
            memory.due = _Due(time.monotonic(), 0.0)
            if keeper:
                keeper.wake()

    def dismiss(self, unit: str) -> None:
        """Leave a unit alone from now on: its watchdog finishes what it is doing, and ends."""
        self.fleet.unwatch(unit)
        self.memories.pop(unit, None)


class Watchdog(RestartPolicy):
    """Keeps units up: restarts what crashes, by policy, and keeps the last lines of its log."""

    units: Selector = Field(description="The units to keep up.")
    log_tail: int = Field(200, ge=1, le=100_000, description="Lines of the log in a crash file.")

    @model_validator(mode="after")
    def _all_of_them(self) -> Self:
        if self.units.pick or self.units.leader_of:
            raise ValueError("units: a watchdog watches all units it names: leave pick and leader_of out")
        return self

    def enlist(self, unit: str, fleet: Fleet) -> None:
        """Make what becomes of a unit this watchdog's business from here on; to be called before the units are started."""
        fleet.departures(unit).close()  # from the first call on they are kept
        fleet.let_end(unit, allowed=self.restart is not Restart.PERMANENT)

    async def watch(self, unit: str, context: WatchContext) -> None:
        """Keep one unit up for as long as the run lives. A leaf task."""
        keeper = context.keepers[unit] = _Keeper(self, unit, context)
        try:
            await keeper.run()
        finally:
            context.keepers.pop(unit, None)


class _Keeper:
    """One watchdog at one unit."""

    def __init__(self, policy: Watchdog, unit: str, context: WatchContext) -> None:
        self._policy, self._unit = policy, unit
        self._fleet, self._journal, self._timeline = context.fleet, context.journal, context.timeline
        self._memory = context.memories.setdefault(unit, _Memory())
        self._evidence = Evidence(unit, policy.log_tail, context.fleet, context.journal, context.timeline)
        self._wake = anyio.Event()
        self._starting = anyio.Lock()
        """Held while the unit is being started: whoever is dismissed meanwhile finishes that first."""
        self._rng = random.Random(f"watchdog/{unit}")  # noqa: S311  # jitter
        self._mon = context.journal.log(f"{unit.replace('/', '.')}.mon.log", max_bytes=_MON_BYTES, keep=3)

    def _say(self, text: str) -> None:
        self._mon.write(f"{utc(time.time())} {' '.join(text.split())}\n".encode(errors="replace"))

    def follow(self, policy: Watchdog) -> None:
        """Go by another policy from now on."""
        self._policy = policy
        self._evidence.lines = policy.log_tail
        self._say(f"from now on: {policy.restart}, intensity {policy.intensity or 'off'}")

    def wake(self) -> None:
        """Look again whether a restart is due."""
        self._wake.set()

    async def run(self) -> None:
        """Take departures and bring the unit back, side by side: an exit is evidence also while a restart is waiting."""
        self._policy.enlist(self._unit, self._fleet)
        self._say(
            f"watching {self._unit}: {self._policy.restart}, intensity {self._policy.intensity or 'off'}"
        )
        async with self._fleet.departures(self._unit) as departures, anyio.create_task_group() as group:
            group.start_soon(self._restart_when_due)
            async for gone in departures:
                await self._take(gone)
            async with self._starting:
                group.cancel_scope.cancel()
        self._say("dismissed")

    async def _take(self, gone: Departure) -> None:
        if gone.cause is Cause.CRASH:
            await self._crashed(gone)
            return
        by = f", by {gone.by}" if gone.by else ""
        seen = f", seen {gone.facts['seen']}" if "seen" in gone.facts else ""
        self._say(f"exit: {describe(gone)}, cause {gone.cause}{by}{seen}")
        if (
            gone.cause is Cause.DONE
            or self._policy.restart is Restart.TEMPORARY
            or self._memory.history.given_up
        ):
            self._say("left down")
        else:
            self._make_due(_Due(gone.mono, 0.0))

    # --- a crash -----------------------------------------------------------------------------------------------------

    async def _crashed(self, gone: Departure) -> None:
        memory = self._memory
        memory.history, decision = self._policy.decide(memory.history, gone.mono, gone.uptime, self._rng)
        crash = await self._evidence.keep(gone, memory.history.consecutive, memory.files)
        self._say(f"crash: {describe(gone)}, {crash.consecutive} in a row, {crash.signature}, {crash.file}")
        await self._act(decision.action, _Due(gone.mono, decision.delay, crashed=True))
        await self._evidence.forget_middle(memory.files)

    async def _act(self, action: Action, due: _Due) -> None:
        """Do what the policy decided after a crash or a failed start."""
        match action:
            case Action.RESTART:
                self._make_due(due)
            case Action.LEAVE:
                self._say("left down")
            case Action.GIVE_UP:
                await self._give_up()

    async def _give_up(self) -> None:
        given_up = UnitGivenUp(
            unit=self._unit,
            crashes=len(self._memory.history.failures),
            intensity=str(self._policy.intensity),
        )
        self._say(f"given up: more than {given_up.intensity}")
        with anyio.move_on_after(RECORDING, shield=True):
            try:
                await self._journal.commit(given_up)
            except JournalError:
                self._journal.emit(given_up)

    # --- the restart -------------------------------------------------------------------------------------------------

    def _make_due(self, due: _Due) -> None:
        self._memory.due = due
        self._wake.set()

    async def _restart_when_due(self) -> None:
        while True:
            while (due := self._memory.due) is None:
                await self._wake.wait()
                self._wake = anyio.Event()
            await self._bring_up(due)
            if self._memory.due is due:  # it may be down again by now
                self._memory.due = None

    async def _bring_up(self, due: _Due) -> None:
        """Start the unit once nobody holds it and its delay is over; a start that fails counts as a crash."""
        while True:
            await self._wait_free()
            await anyio.sleep(due.delay)
            if self._fleet.status(self._unit).observed.state in _UP:
                await self._up_already(due)
                return
            begun = time.monotonic()
            try:
                async with self._starting:
                    observed = await self._fleet.start(self._unit, by="watchdog")
            except Held:
                continue  # by somebody who came in that moment
            except EngineError as error:
                await self._start_failed(due, error)
                return
            break
        if observed.started is not None and observed.started < begun:
            await self._up_already(due)
        else:
            await self._restarted(due, observed, time.monotonic())

    async def _up_already(self, due: _Due) -> None:
        """Take note that somebody was quicker; after a crash that may have been the engine, whose restarts count as well."""
        self._say("up again already")
        status = self._fleet.status(self._unit)
        if due.crashed and status.started_by == OUTSIDE:
            await self._restarted(due, status.observed, status.observed.started or due.since)

    async def _restarted(self, due: _Due, observed: Observed, at: float) -> None:
        restarted = UnitRestarted(
            unit=self._unit,
            incarnation=observed.incarnation or "",
            attempt=due.attempt,
            delay=due.delay,
            downtime=max(at - due.since, 0.0),
        )
        self._journal.emit(restarted)
        after = f"{format_duration(restarted.downtime)} after the exit"
        self._say(f"restarted as {restarted.incarnation} {after}, attempt {due.attempt}")
        await self._see_ready()

    async def _wait_free(self) -> None:
        status = self._fleet.status(self._unit)
        if status.holder is not None:
            self._say(f"held {status.desired} by {status.holder}: waiting for its release")
            await self._fleet.wait_free(self._unit)

    async def _start_failed(self, due: _Due, error: EngineError) -> None:
        memory, now = self._memory, time.monotonic()
        self._say(f"start failed, attempt {due.attempt}: {error}")
        memory.history, decision = self._policy.decide(memory.history, now, None, self._rng)
        await self._act(decision.action, _Due(due.since, decision.delay, due.attempt + 1, due.crashed))

    async def _see_ready(self) -> None:
        """Have it on record when the unit is ready; if it never is, that is for the steady state to say, not to be restarted for."""
        try:
            await self._fleet.wait_ready(self._unit)
        except EngineError as error:
            self._say(f"not ready: {error}")
