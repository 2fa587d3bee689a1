"""The engines of a dead run whose units outlive it: each is opened by itself, so that one that is away keeps nobody from another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio

from supervisor.engines.base import Engine, EngineContext, EngineError
from supervisor.engines.fleet import Fleet
from supervisor.journal.base import Journal
from supervisor.journal.events import FaultIntent


class Reached:
    """What can be reached of a dead run: its fleet grows with each engine that answers."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        contexts: Mapping[str, EngineContext],
        places: Mapping[str, str],
        journal: Journal,
    ) -> None:
        """`places` has the engine of each unit of the run, by its id; without any, of a journal that lacks it, engines are asked."""
        self.fleet = Fleet(journal, {}, {})
        self.away: dict[str, str] = {}
        """Why an engine cannot be reached, by its name."""
        self._engines = {name: engine for name, engine in engines.items() if engine.units_outlive_run}
        self._ended = {unit for unit, engine in places.items() if engine not in self._engines}
        self._contexts, self._places = contexts, places
        self._tried = {name: anyio.Event() for name in self._engines}
        self._over = anyio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open all engines, side by side, and close them in order at the end."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            for name, engine in self._engines.items():
                group.start_soon(self._hold, name, engine, name=f"engine {name}")
            try:
                yield
            except Exception as error:  # noqa: BLE001  # raised below as it is, not as part of a group
                failure = error
            self._over.set()
        if failure is not None:
            raise failure

    async def _hold(self, name: str, engine: Engine) -> None:
        context = self._contexts[name]
        try:
            known = await engine.discover(context.base)
            async with known.open(context) as units:
                own = context.units or known.unit_names()
                ids = {(f"{name}/{unit}" if f"{name}/{unit}" in self._places else unit): unit for unit in own}
                await self.fleet.join(name, units, ids)
                self._tried[name].set()
                await self._over.wait()
        except EngineError as error:
            self.away[name] = str(error)
        finally:
            self._tried[name].set()

    async def missing(self, intent: FaultIntent) -> dict[str, str]:
        """Wait for the engines of an episode's targets; return the targets whose engine cannot be reached, each with why."""
        missing: dict[str, str] = {}
        for target in intent.targets:
            if target.unit in self._ended:
                continue
            engine = self._places.get(target.unit)
            # Of a journal that does not say whose a unit is, all engines may have it.
            for name in [engine] if engine else self._engines:
                await self._tried[name].wait()
            why = [self.away[name] for name in ([engine] if engine else self.away) if name in self.away]
            if why and target.unit not in self.fleet.ids:
                missing[target.unit] = why[0]
        return missing


def names_of(places: Mapping[str, str], engine: str) -> tuple[str, ...]:
    """Return the names that units have at an engine, given the engine of each by its id."""
    return tuple(unit.removeprefix(f"{engine}/") for unit, name in places.items() if name == engine)
