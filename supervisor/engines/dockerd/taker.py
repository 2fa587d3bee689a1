"""Taking the events of containers: what each means for its unit, by what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from supervisor.engines.base import Unwell
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.follower import Event
from supervisor.engines.dockerd.life import Life, Unit
from supervisor.engines.dockerd.names import Which
from supervisor.engines.dockerd.news import Herald
from supervisor.engines.dockerd.restore import inspect
from supervisor.engines.member import HARMLESS

STARVED: Final = 1.0
"""Seconds for which a unit with a memory limit, killed by nobody we know of, is not said to have died: that it was out of memory
is sometimes told only after its end (65 ms were seen, more on a busy machine), and then no inspection shows it. Waited for only if
the kernel has killed somebody for want of memory during that life, or nobody knows (`Unit.may_have_starved`); that it was this unit
nobody but the engine can tell."""
UNTOLD: Final = "by looking, since no event of it came or could be taken"
HEALTH: Final = "health_status: "
UNHEALTHY: Final = f"{HEALTH}unhealthy"


class Taker:
    """Takes events, those of one unit in order and under its lock."""

    def __init__(
        self, api: Api, which: Which, herald: Herald, look_later: Callable[[Unit, ApiError], None]
    ) -> None:
        """`look_later` sees to it that a unit is looked at whose event could not be taken."""
        self._api, self._which, self._herald, self._look_later = api, which, herald, look_later

    async def take(self, unit: Unit, event: Event) -> None:
        """Take one event; the unit's lock is fair, so those of one unit are taken as they came."""
        async with unit.lock:
            try:
                await self._apply(unit, event)
            except ApiError as error:
                self._look_later(unit, error)

    async def _apply(self, unit: Unit, event: Event) -> None:
        life = unit.life if unit.life and unit.life.container == event.container else None
        match event.action:
            case "create" | "rename" if self._which.unit(event.name, event.attributes) == unit.name:
                unit.adopt(event.container)
            case "start" if unit.life is None and event.at > unit.told:
                await self._started(unit, event)
            case "die":
                await self._died(unit, event)
            case "destroy":
                self._destroyed(unit, event)
            case "kill":
                if event.signal not in HARMLESS:
                    unit.signalled(event.signal, event.at)
            case "update" if (
                unit.last and unit.last.id == event.container
            ):  # it may have another restart policy now
                unit.last = await inspect(self._api, event.container) or unit.last
            case _ if life:
                self._changed(unit, life, event.action)

    def _changed(self, unit: Unit, life: Life, action: str) -> None:
        """Take note of what became of a life that goes on."""
        match action:
            case "oom":
                life.starved.set()
            case "pause" | "unpause":
                unit.paused(paused=action == "pause")
            case _ if action.startswith(HEALTH):
                unit.health(action.removeprefix(HEALTH))
                if action == UNHEALTHY and self._herald.manner.unhealthy and not life.paused:
                    self._herald.tell(Unwell(unit.name, life.incarnation))

    async def _started(self, unit: Unit, event: Event) -> None:
        seen = await inspect(self._api, event.container)
        if seen:
            # If it has ended and begun again already, the inspection is about a later life: this one began at the event.
            await self._herald.arrived(unit, seen, min(seen.begun, event.at))

    async def _died(self, unit: Unit, event: Event) -> None:
        life = unit.life
        if life and (life.container != event.container or event.at < life.begun):
            return  # an earlier end, told already
        if life is None and event.at <= unit.told:
            return
        # The engine answers no question about a container before it has cleaned up after its end, tens of milliseconds later.
        # So nothing is asked that events have told: only what a life was that nobody saw, and whether the engine starts it again.
        asks = life is None or (unit.last is not None and unit.last.has_policy)
        try:
            seen = await inspect(self._api, event.container) if asks else None
        except ApiError as error:
            if life is None:
                raise
            seen = None  # how it ended is known all the same
            self._look_later(unit, error)
        if life is None:  # a life that nobody saw begin; a start that failed is none
            if seen is None or not unit.told < seen.begun <= event.at:
                return
            unit.begin(seen, seen.begun)
        text = event.attributes.get("exitCode", "")
        code = int(text) if text.isdigit() else None
        if (
            code is not None
            and await unit.may_have_starved(code)
            and not await unit.ask_kernel()
            and unit.life
        ):
            with anyio.move_on_after(STARVED):
                await unit.life.starved.wait()
        self._herald.ended(unit, code, event.at, seen, live=True)

    def _destroyed(self, unit: Unit, event: Event) -> None:
        if unit.life and unit.life.container == event.container:
            self._herald.removed(unit, event.at, UNTOLD)
        unit.forget(event.container)
        if not unit.containers:
            self._herald.stands(unit)
