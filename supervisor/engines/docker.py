"""Units as Docker containers that somebody else made: a compose project, some names, or a label."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Self

import anyio
import structlog
from pydantic import PrivateAttr

from supervisor.engines.base import Engine, EngineContext, EngineError, Units
from supervisor.engines.capabilities import CanPartition
from supervisor.engines.dockerd import packets
from supervisor.engines.dockerd.api import Api, Endpoint
from supervisor.engines.dockerd.container import NO_POLICY, Container
from supervisor.engines.dockerd.life import Unit
from supervisor.engines.dockerd.locks import Found, Locks, left_by, remove
from supervisor.engines.dockerd.mounts import find, locate
from supervisor.engines.dockerd.names import Listed, Which, after, by_unit, listed, refuse_clashes
from supervisor.engines.dockerd.news import Manner, Recreated
from supervisor.engines.dockerd.owners import ourselves
from supervisor.engines.dockerd.restore import inspect, restore, set_policy
from supervisor.engines.dockerd.settings import Containers, Others, OwnPolicy, Unhealthy
from supervisor.engines.dockerd.tracker import Tracker
from supervisor.engines.dockerd.units import DockerUnits, stop_timeout
from supervisor.engines.order import at_once
from supervisor.supervision import nursery

RESTORE: Final = 60.0
"""Seconds that putting everything back may take at the end."""
_log: Final = structlog.get_logger("soakd.docker")


class DockerEngine(Engine):
    """Units are containers of a Docker engine, which were there before the run and are there after it."""

    key: ClassVar[str] = "docker"
    running: ClassVar[type[DockerUnits]] = DockerUnits
    units_outlive_run: ClassVar[bool] = True

    docker: Containers

    _seen: dict[str, Listed] | None = PrivateAttr(None)
    _after: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)
    _looked: dict[str, Container] = PrivateAttr(default_factory=dict)

    def unit_names(self) -> tuple[str, ...]:
        """Those that were found, or are named."""
        return self.docker.names or tuple(self._seen or ())

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """What the containers say."""
        return {unit: seen.labels for unit, seen in (self._seen or {}).items()}

    def after(self) -> Mapping[str, tuple[str, ...]]:
        """The order that compose keeps to."""
        return self._after

    def resting(self) -> frozenset[str]:
        """What is down, unless it is to be started."""
        seen = {} if self.docker.start else self._seen or {}
        return frozenset(unit for unit, one in seen.items() if one.state in {"created", "exited", "dead"})

    def lacks(self, power: type, unit: str) -> str:
        """Packet filters are set from this machine, in the container's network namespace."""
        if power is not CanPartition or (seen := self._looked.get(unit)) is None:
            return ""
        url = Endpoint.of(self.docker.host, None).url
        if not url.startswith("unix:"):
            return f"the engine at {url} is on another machine: run soakd there"
        return packets.lacks(ipv6=seen.ipv6) or packets.unreachable(seen)

    def volume(self, unit: str, path: str, base: Path) -> Path | None:  # noqa: ARG002  # its paths are the container's
        """Return where the container's volume is; one that is down has it mounted nowhere."""
        if (seen := self._looked.get(unit)) is None:
            raise EngineError(f"{unit} has no container")
        find(seen, path)
        return locate(seen, path) if seen.running else None

    async def discover(self, base: Path) -> Self:
        """List the containers, and look at their restart policies."""
        which, looked = self.docker.which, dict[str, Container]()
        try:
            async with self.docker.connect(base) as api:
                found = by_unit(which, await _list(api, which))

                async def look(unit: str) -> None:
                    if seen := await inspect(api, found[unit][0].id):
                        looked[unit] = seen

                await at_once(look, found)
        except EngineError as error:
            raise EngineError(f"cannot look at its containers: {error}") from error
        refuse_clashes(which, found)
        known = self.model_copy()
        known._seen = {unit: several[0] for unit, several in found.items()}  # noqa: SLF001  # ours
        known._after = after(which, found)  # noqa: SLF001
        known._looked = looked  # noqa: SLF001
        return known

    async def tidy(self, base: Path) -> list[str]:
        """Look at the locks of all units."""
        which, done = self.docker.which, list[str]()

        async with self.docker.connect(base) as api:

            async def heal(found: Found) -> None:
                done.extend(await restore(api, found))

            locks = Locks(api, await ourselves(api, ""), "", heal)
            names = {
                one.name for several in by_unit(which, await _list(api, which)).values() for one in several
            }
            await at_once(locks.clear_dead, sorted(names))
        return done

    def problems(self, base: Path) -> list[str]:  # noqa: ARG002  # nothing here depends on it
        """Containers that are not there."""
        if (seen := self._seen) is None:
            return []
        wrong = [
            f"there is no container {name}; see `docker ps --all`"
            for name in self.docker.names
            if name not in seen
        ]
        if not seen and not wrong:
            wrong = [
                f"there is no container of {self.docker.which}; `docker compose create` makes those of a project"
            ]
        units = self.unit_names()
        return wrong + [
            f"ready: there is no unit {name}; there are {', '.join(units)}"
            for name in self.docker.ready
            if name not in units
        ]

    def doubts(self) -> Mapping[str, str]:
        """Containers that go with their end, and logs that nobody can read."""
        return {unit: seen.doubt for unit, seen in self._looked.items() if seen.doubt}

    def refused(self) -> list[tuple[tuple[str, ...], str]]:
        """Say which units Docker itself would restart, where that is not wanted."""
        if self.docker.own_policy is not OwnPolicy.REFUSE:
            return []
        return [
            (
                (self.key, "own_policy"),
                f"{unit} has a restart policy of its own, {seen.policy['Name']}: set own_policy to adopt or suspend, or take it off",
            )
            for unit in self.unit_names()
            if (seen := self._looked.get(unit)) and seen.has_policy
        ]

    def open(self, context: EngineContext) -> AbstractAsyncContextManager[Units]:
        """Lock the units, follow what happens to them, and put everything back on the way out."""
        return self._open(context)

    @asynccontextmanager
    async def _open(self, context: EngineContext) -> AsyncIterator[Units]:
        async with self.docker.connect(context.base) as api, nursery() as group:
            known = self if self._seen is not None else await self.discover(context.base)
            locks = Locks(api, await ourselves(api, context.run), context.name, partial(restore, api))
            tracker = Tracker(api, self.docker.which, self._manner(), group, self._came_anew(api, locks))
            try:
                names = tuple(dict.fromkeys((*known.unit_names(), *context.units)))
                await self._begin(api, locks, tracker, names, context)
                yield DockerUnits(api, self.docker, tracker)
            finally:
                # The events are still followed: an engine that is away just now is waited for.
                failed = f"the engine does not answer within {RESTORE:g} s"
                with anyio.move_on_after(RESTORE, shield=True):
                    failed = "" if context.recovering else await self._put_back(api, locks, tracker)
                tracker.close()
            if failed:
                raise EngineError(
                    f"cannot put units back as they were: {failed}; run `soakd recover` with this run's directory"
                )

    async def _begin(
        self, api: Api, locks: Locks, tracker: Tracker, names: tuple[str, ...], context: EngineContext
    ) -> None:
        """Look, lock, take policies off, and follow what happens from here on."""
        await tracker.enlist(names)
        await locks.take([self._found(unit) for unit in tracker.units.values() if unit.last])
        if not context.recovering:
            for found in locks.found:
                if found.policy and (seen := tracker.units[found.unit].last):
                    await set_policy(api, seen, NO_POLICY)
        await tracker.follow()

    def _manner(self) -> Manner:
        return Manner(self.docker.outside is Others.RESPECT, self.docker.unhealthy is Unhealthy.RESTART)

    def _found(self, unit: Unit) -> Found:
        seen = unit.last
        assert seen is not None  # noqa: S101  # asked for above
        takes = self.docker.own_policy is OwnPolicy.SUSPEND and seen.has_policy
        return Found(
            unit=unit.name,
            container=seen.id,
            name=seen.name,
            running=seen.running or seen.restarting,
            ours=self.docker.start,
            patience=stop_timeout(self.docker.stop_timeout, seen),
            policy=dict(seen.policy) if takes else {},
        )

    def _came_anew(self, api: Api, locks: Locks) -> Recreated:
        """Return what is done about a container that took another one's place in mid-run: its policy is taken off and noted as well."""

        async def suspend(unit: Unit, seen: Container) -> None:
            if self.docker.own_policy is OwnPolicy.SUSPEND and seen.has_policy:
                before = next((found for found in locks.found if found.unit == unit.name), None)
                # Whether it is to be down at the end, the unit's lock says: it is stopped once.
                up = before is None or before.running or not before.ours
                await locks.note(replace(self._found(unit), running=up, ours=False))
                await set_policy(api, seen, NO_POLICY)

        return suspend

    async def _put_back(self, api: Api, locks: Locks, tracker: Tracker) -> str:
        """Put every unit back as it was found; return what failed, in which case the locks stay for recovery.

        The fleet has started by now what had crashed: what is down all the same has crashed since, or while the engine was away.
        """
        failures, causes = list[str](), tracker.causes()

        async def put_back(found: Found) -> None:
            try:
                for line in await restore(api, found, causes=causes):
                    _log.debug("put back", unit=found.unit, done=line)
            except EngineError as error:
                failures.append(f"{found.unit}: {error}")

        await at_once(put_back, locks.found)
        if not failures:
            await locks.release()
        return "; ".join(failures)

    async def recover(self, context: EngineContext) -> list[str]:
        """Put back what the run's locks say, and remove them."""
        done: list[str] = []
        async with self.docker.connect(context.base) as api:
            for lock in await left_by(api, context.run, context.name):
                if lock.found:
                    done += await restore(api, lock.found, causes=context.causes)
                await remove(api, lock.name)
        return done


async def _list(api: Api, which: Which) -> list[Listed]:
    return listed(await api.call("GET", "containers/json", params={"all": 1, "filters": which.filters()}))
