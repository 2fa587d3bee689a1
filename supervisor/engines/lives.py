"""What becomes of units as it happens: starts, readiness and exits go on record, and a unit's watchdog hears of its end."""

from __future__ import annotations

import time
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from supervisor.engines.base import EngineError, Exit, Outside, Units, Unwell
from supervisor.engines.departures import Departure, Departures
from supervisor.engines.member import OUTSIDE, Desired, Member
from supervisor.engines.roster import Roster
from supervisor.journal.base import Journal
from supervisor.journal.events import UnitExited, UnitReady, UnitStarted

AGAIN: Final = 1.0
"""Seconds until a unit whose readiness check has had its time is looked at again."""

_log: Final = structlog.get_logger("soakd.fleet")


class Lives:
    """Tells of the lives of all units."""

    def __init__(self, journal: Journal, roster: Roster) -> None:
        self._journal, self._roster = journal, roster
        self.departures = Departures()
        self._group: TaskGroup | None = None

    # --- starts, readiness -------------------------------------------------------------------------------------------

    async def ready(self, member: Member) -> None:
        """Wait until a unit's readiness check says yes, and put that on record; EngineError as from `Units.ready`."""
        await member.engine.ready(member.name)
        observed = member.observed
        if observed and observed.incarnation and observed.incarnation != member.was_ready:
            member.was_ready = observed.incarnation
            took = max(time.monotonic() - observed.started, 0.0) if observed.started else 0.0
            self._journal.emit(UnitReady(unit=member.id, incarnation=observed.incarnation, took=took))

    def began(self, member: Member, by: str, took: float = 0.0) -> None:
        """Put the start of the incarnation last seen on record, once; `took` is in seconds."""
        seen = member.observed
        if seen and seen.incarnation != member.was_started:
            member.was_started, incarnation = seen.incarnation, seen.incarnation or ""
            member.started_by = by
            self._journal.emit(
                UnitStarted(unit=member.id, incarnation=incarnation, pid=seen.pid, by=by, took=took)
            )
            if (
                self._group is not None and by != "run"
            ):  # `start_all` waits itself, and fails where it waits in vain
                self._group.start_soon(self._see_ready, member, seen.incarnation)

    async def _see_ready(self, member: Member, incarnation: str | None) -> None:
        """Have it on record when a unit is ready, however long that takes and whoever started it: faults, too, and outsiders."""
        while member.is_up and member.observed and member.observed.incarnation == incarnation:
            try:
                await self.ready(member)
            except EngineError:  # its time is up, or it has ended, which we hear of in a moment
                await anyio.sleep(AGAIN)
            else:
                return

    # --- what happens to it ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the engines' exits: find the cause of each, journal it, tell the unit's watchdog. A leaf task.

        What is started meanwhile is seen to become ready.
        """
        try:
            async with anyio.create_task_group() as self._group:
                for name, engine in self._roster.engines.items():
                    self._group.start_soon(self._follow, name, engine, self._group)
        finally:
            self._group = None

    async def _follow(self, name: str, engine: Units, group: TaskGroup) -> None:
        async with engine.exits() as exits:
            async for news in exits:
                if member := self._roster.at(name, news.unit):
                    if isinstance(news, Exit):
                        self._departed(member, news)
                    elif isinstance(news, Outside):
                        self._overruled(member, news)
                    else:
                        group.start_soon(self._put_down, member, news)

    async def _put_down(self, member: Member, news: Unwell) -> None:
        """End a unit that is beyond help, unless somebody holds it: without a claim its exit is a crash, as it ought to be."""
        async with member.lock:
            seen = await member.look()
            if member.holder is None and seen.incarnation == news.incarnation:
                try:
                    await member.engine.stop(member.name)
                except EngineError as error:
                    _log.warning("cannot stop a unit that is unwell", unit=member.id, why=str(error))

    def _overruled(self, member: Member, news: Outside) -> None:
        """Take note of what somebody outside has decided; what an episode or the operator holds stays theirs."""
        member.observed = news.observed
        if member.is_up:
            self.began(member, OUTSIDE)
        if member.holder == OUTSIDE and (member.is_up or not news.stays):
            member.entrust(None, Desired.UP)
        elif member.holder is None and not member.is_up and news.stays:
            member.entrust(OUTSIDE, Desired.DOWN)

    def _departed(self, member: Member, gone: Exit) -> None:
        cause, by = member.departed(gone)
        departure = Departure(
            unit=member.id,
            incarnation=gone.incarnation,
            code=gone.code,
            signal=gone.signal,
            oom=gone.oom,
            cause=cause,
            by=by,
            mono=gone.mono,
            uptime=gone.uptime,
            wall=gone.wall,
            facts=gone.facts,
        )
        self._journal.emit(UnitExited.model_validate(departure, from_attributes=True))
        self.departures.tell(departure)
