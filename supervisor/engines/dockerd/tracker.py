"""What is true of all units of an engine: events taken, inspections compared, and the fleet told, each end once."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.api import Api, ApiError, AwayError
from supervisor.engines.dockerd.container import Container
from supervisor.engines.dockerd.follower import Event, Follower
from supervisor.engines.dockerd.kernel import oom_kills
from supervisor.engines.dockerd.life import Unit
from supervisor.engines.dockerd.names import Which, by_unit, listed
from supervisor.engines.dockerd.news import Herald, Manner, News, Recreated
from supervisor.engines.dockerd.restore import inspect
from supervisor.engines.dockerd.taker import UNTOLD, Taker
from supervisor.engines.order import at_once
from supervisor.journal.events import Cause

FIRST_LOOK: Final = 30.0
"""Seconds that following the events may take to begin."""
ALONG: Final = 20.0
"""Seconds in which an engine that ends stops its containers: dockerd gives itself 15."""
AGAIN: Final = 1.0
"""Seconds between two looks at a unit while the engine does not answer."""
LATE: Final = 0.5
"""Seconds that events may be on their way, which say more than an inspection does afterwards."""
BLIND: Final = "while the engine was away"
_log: Final = structlog.get_logger("soakd.docker")


class Tracker:
    """Knows the units of an engine."""

    def __init__(
        self, api: Api, which: Which, manner: Manner, group: TaskGroup, recreated: Recreated
    ) -> None:
        self._api, self._which, self._group = api, which, group
        self._herald = Herald(manner, recreated)
        self._taker = Taker(api, which, self._herald, self._look_later)
        self.units: dict[str, Unit] = {}
        self._went_along: set[Unit] = set()
        self._missed: set[Unit] = set()
        """Whose events could not be taken, and who is therefore to be looked at."""
        self._counted: tuple[float, int | None] = 0.0, None
        """When the kernel's count of kills for want of memory was last read, and what it was (`Unit.outlived`)."""
        self.follower = Follower(api, which, self)

    async def follow(self) -> None:
        """Begin to follow the events; EngineError if the engine does not let us."""
        self._group.start_soon(self.follower.run, name="docker events")
        with anyio.move_on_after(FIRST_LOOK):
            await self.follower.begun.wait()
            return
        raise EngineError(f"cannot follow the events of the Docker engine: none came within {FIRST_LOOK:g} s")

    def close(self) -> None:
        """No more news."""
        self._herald.close()

    @property
    def news(self) -> MemoryObjectReceiveStream[News]:
        """What the fleet is told, in order."""
        return self._herald.news

    def causes(self) -> dict[str, Cause]:
        """Say why the last life of each unit ended that has ended, by its incarnation, as far as containers tell."""
        ends = [unit.ended for unit in self.units.values() if unit.ended]
        return {
            one.incarnation: Cause.OUTSIDE if one.outside else Cause.CRASH if one.code != 0 else Cause.DONE
            for one in ends
        }

    # --- who is who --------------------------------------------------------------------------------------------------

    async def enlist(self, names: Iterable[str]) -> None:
        """Look at all units for the first time; what is up begins its life here, and nobody is told."""
        self.units = {name: Unit(name, self._api.ago) for name in names}
        await self._list()
        await at_once(self._see_first, self.units.values())

    async def _see_first(self, unit: Unit) -> None:
        kills = await to_thread.run_sync(oom_kills)
        if unit.container and (seen := await inspect(self._api, unit.container)):
            unit.last, unit.labels = seen, seen.labels
            if seen.running:
                unit.begin(seen, seen.begun)
                await unit.count_kills(kills)
            else:
                unit.told = max(seen.begun, seen.finished)

    async def _list(self) -> dict[str, bool]:
        """Find the units' containers; return for each unit with one whether the one that counts is up."""
        params = {"all": 1, "filters": self._which.filters()}
        there = listed(await self._api.call("GET", "containers/json", params=params))
        ids = {one.id for one in there}
        found = by_unit(self._which, there)
        for unit in self.units.values():
            for container in [one for one in unit.containers if one not in ids]:
                unit.forget(container)
            for one in reversed(found.get(unit.name, [])):
                unit.adopt(one.id)
        return {name: several[0].is_up for name, several in found.items()}

    def _unit_of(self, event: Event) -> Unit | None:
        for unit in self.units.values():
            if unit.knows(event.container):
                return unit
        return self.units.get(self._which.unit(event.name, event.attributes) or "")

    # --- looking -----------------------------------------------------------------------------------------------------

    async def compare_all(self) -> None:
        """Look at every unit and tell what happened unseen. AwayError if the engine is away; one unit that it refuses is no reason."""
        await self._list()
        await at_once(self._compare_one, self.units.values())
        self.lost()  # also who was stopped by an engine that found him running when it started
        while self._went_along:
            unit = self._went_along.pop()
            # An engine that has started again has started again whom it keeps up itself.
            left = unit.last is not None and unit.last.is_left_down()
            if unit.life is None and unit.containers and not left:
                self._herald.stands(unit, stays=False)

    async def _compare_one(self, unit: Unit) -> None:
        try:
            await self.compare(unit)
        except AwayError:
            raise
        except ApiError as error:
            self._look_later(unit, error)

    def lost(self) -> None:
        """Take note of who was stopped just before the stream ended or begins again: with the engine, not by anybody's will."""
        recent = time.monotonic() - ALONG
        self._went_along |= {
            unit
            for unit in self.units.values()
            if unit.life is None and unit.ended and unit.ended.outside and unit.ended.mono > recent
        }

    async def recheck(self) -> None:
        """Look whether the engine has skipped us: at who is up or down against what is known, and at whether they are still the same lives."""
        counted = self._counted
        self._counted = time.monotonic(), await to_thread.run_sync(oom_kills)
        up = await self._list()
        differ = [one for one in self.units.values() if one.life or up.get(one.name, False)]
        await at_once(partial(self._recheck, counted), differ)

    async def _recheck(self, counted: tuple[float, int | None], unit: Unit) -> None:
        life = unit.life
        seen = await inspect(self._api, life.container) if life else None
        if life and seen and seen.running and seen.begun == life.begun:
            await unit.outlived(*counted)
            return
        await anyio.sleep(LATE)
        if unit.life is life:
            await self.compare(unit, UNTOLD)

    async def compare(self, unit: Unit, how: str = BLIND) -> None:
        """Look at a unit and tell what happened unseen; `how` it was found out is part of the record."""
        async with unit.lock:
            life = unit.life
            if life:
                seen = await inspect(self._api, life.container)
                if seen is None:
                    self._herald.removed(unit, life.begun, how)
                elif not seen.running and (seen.begun, seen.id) == (life.begun, life.container):
                    self._herald.ended(unit, seen.code, seen.finished, seen, live=False, note=how)
                elif seen.begun != life.begun:
                    note = how + _again(unit.last, seen)
                    # When the life before this one ended; the log up to then has all the lives that nobody saw.
                    at = (
                        seen.finished
                        if life.begun < seen.finished <= seen.begun
                        else max(life.begun, seen.begun - 1)
                    )
                    self._herald.tell(unit.end(None, at, seen, live=False, note=note))
                else:
                    unit.last = seen
                    unit.paused(paused=seen.paused)
            if unit.life is None and unit.container:
                seen = await inspect(self._api, unit.container)
                if seen and seen.running and unit.is_new(seen):
                    await self._herald.arrived(unit, seen, seen.begun)
                # It came and went unseen, so somebody wanted it up. The end of a short life may be dated before its beginning, which the
                # engine notes once a start has returned; a start that failed leaves no beginning.
                elif seen and unit.is_new(seen) and seen.finished:
                    await self._herald.arrived(unit, seen, seen.begun)
                    self._herald.ended(unit, seen.code, seen.finished, seen, live=False, note=how)
                elif seen:
                    unit.last = seen
            elif unit.life is None:
                self._herald.stands(unit)
            await self._herald.welcome(unit)

    # --- events ------------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take one event, and those of one unit in order."""
        if unit := self._unit_of(event):
            if event.action == "oom" and unit.life and unit.life.container == event.container:
                unit.life.starved.set()  # at once: its end may be waiting for that
            self._group.start_soon(self._taker.take, unit, event, name=f"docker {event.action} {unit.name}")

    def _look_later(self, unit: Unit, error: ApiError) -> None:
        """See to it that a unit is looked at whose event could not be taken. The stream may live on, so nobody else would before long."""
        if unit in self._missed:
            return
        self._missed.add(unit)
        level = _log.debug if isinstance(error, AwayError) else _log.warning
        level("cannot look at a unit: trying again", unit=unit.name, why=str(error))
        self._group.start_soon(self._catch_up, unit, name=f"docker catch up {unit.name}")

    async def _catch_up(self, unit: Unit) -> None:
        while unit in self._missed:
            try:
                await self.compare(unit, UNTOLD)
                self._missed.remove(unit)
            except ApiError:
                await anyio.sleep(AGAIN)


def _again(before: Container | None, seen: Container) -> str:
    """Say how often the engine itself has started a container again that ended unseen: of those ends this one stands for all."""
    times = seen.restarts - before.restarts if before and before.id == seen.id else 0
    return f", which has started it again {times} times meanwhile" if times > 1 else ""
