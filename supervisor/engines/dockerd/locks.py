"""Locks on units that live on the engine itself, so that runs from different hosts keep off each other's units.

A lock is a volume named after the container. Creating a volume that exists is no error and returns the one that is there, so who
finds his own mark in the answer has the lock, and everybody else sees who has it. It costs no image, no network and no process.

A volume does not die with its owner. It says who that is (see `owners.py`) and how the unit was found, so whoever meets the lock of
a dead run first puts the unit back as it was, then takes the lock over. Of several who want to do that, the one that gets a second
lock, named after the mark of the first, may; it looks again before it acts.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import anyio

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.names import OWN
from supervisor.engines.dockerd.owners import Owner, is_dead, parse

PREFIX: Final = "soakd-lock-"
_RUN: Final = "soakd.run"
_ENGINE: Final = "soakd.engine"
_MARK: Final = "soakd.mark"
_OWNER: Final = "soakd.owner"
_FOUND: Final = "soakd.found"
_NOT_FOUND: Final = 404
TRIES: Final = 50
_PAUSE: Final = 0.1
"""Seconds between two tries while somebody else takes the lock of a dead run over."""


@dataclass(frozen=True, slots=True)
class Found:
    """How a unit was found when its run began."""

    unit: str
    container: str
    """The container's id."""
    name: str
    running: bool
    ours: bool = False
    """It was down, and the run has been asked to start it: it is stopped again at the end."""
    patience: float = 10.0
    """Seconds it has to stop in order."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """The restart policy that the run has taken off; empty if it took none off."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock as it stands on the engine."""

    name: str
    mark: str
    run: str
    engine: str
    owner: Owner | None
    found: Found | None


Heal = Callable[[Found], Awaitable[object]]


class Locks:
    """The locks of one run on one engine."""

    def __init__(self, api: Api, us: Owner, engine: str, heal: Heal) -> None:
        """`heal` puts a unit of a dead run back as it was."""
        self._api, self._us, self._engine, self._heal = api, us, engine, heal
        self._taken: list[Lock] = []

    @property
    def found(self) -> list[Found]:
        """How each locked unit was found when this run began, and what took a unit's place since."""
        return [lock.found for lock in self._taken if lock.found]

    async def note(self, found: Found) -> None:
        """Keep for later how a container was found that took the place of a locked unit's: a volume cannot be changed."""
        if found.container not in {one.container for one in self.found}:
            lock, _ = await self._create(f"{PREFIX}{found.name}-{found.container}", found)
            self._taken.append(lock)

    async def take(self, units: list[Found]) -> None:
        """Lock all units or none; EngineError names the run that has one of them."""
        try:
            for found in sorted(
                units, key=lambda found: found.name
            ):  # two who want the same begin with the same
                self._taken.append(await self._take(PREFIX + found.name, found))
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(EngineError):
                await self.release()
            raise

    async def clear_dead(self, container: str) -> bool:
        """Put a container back as it was if a run that has died holds its lock; say whether it did."""
        lock = await _look(self._api, PREFIX + container)
        if lock is None or (lock.owner and not await is_dead(self._api, lock.owner, self._us)):
            return False
        await self._clear(lock)
        return True

    async def release(self) -> None:
        """Let go of everything. Gone already: no error."""
        while self._taken:
            lock = self._taken[-1]
            if lock.owner and lock.owner == self._us:
                await remove(self._api, lock.name)
            self._taken.pop()

    async def _take(self, name: str, found: Found | None) -> Lock:
        for _ in range(TRIES):
            lock, mark = await self._create(name, found)
            if lock.mark == mark or (lock.run == self._us.run and found):
                return lock
            if lock.owner and not await is_dead(self._api, lock.owner, self._us):
                what = found.unit if found else name
                raise EngineError(
                    f"cannot use {what}: {lock.owner} has it; wait for its end, or end it. If that machine is gone for good, "
                    f"remove the lock with `docker volume rm {lock.name}`"
                )
            if found:  # what it says was seen before this unit is put back as it was
                raise EngineError(
                    f"cannot use {found.unit}: {lock.owner or lock.run} died and left it changed in this moment; start again"
                )
            await self._clear(lock)
            await anyio.sleep(_PAUSE)
        raise EngineError(f"cannot lock {name}: others take it over again and again; see `docker volume ls`")

    async def _create(self, name: str, found: Found | None) -> tuple[Lock, str]:
        mark = secrets.token_hex(8)
        labels = {
            OWN: "true",
            _RUN: self._us.run,
            _ENGINE: self._engine,
            _MARK: mark,
            _OWNER: self._us.text(),
            _FOUND: json.dumps(asdict(found)) if found else "",
        }
        return _read(
            await self._api.insist("POST", "volumes/create", body={"Name": name, "Labels": labels})
        ), mark

    async def _clear(self, dead: Lock) -> None:
        """Put the unit of a dead run back as it was, and remove its lock, unless somebody else has done so."""
        right = await self._take(f"soakd-takeover-{dead.mark}", None)
        try:
            if (now := await _look(self._api, dead.name)) and now.mark == dead.mark:
                if dead.found:
                    for lock in await left_by(self._api, dead.run, dead.engine):
                        if lock.found and lock.found.name == dead.found.name and lock.name != dead.name:
                            await self._heal(lock.found)
                            await remove(self._api, lock.name)
                    await self._heal(dead.found)
                await remove(self._api, dead.name)
        finally:
            with anyio.CancelScope(shield=True):
                await remove(self._api, right.name)


async def left_by(api: Api, run: str, engine: str) -> list[Lock]:
    """Return the locks that a run has left on an engine."""
    filters = json.dumps({"label": [f"{_RUN}={run}", f"{_ENGINE}={engine}"]})
    answer = await api.call("GET", "volumes", params={"filters": filters})
    return [_read(volume) for volume in answer.get("Volumes") or []]


async def remove(api: Api, name: str) -> None:
    """Remove a lock. Gone already: no error."""
    try:
        await api.insist("DELETE", f"volumes/{name}")
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise


async def _look(api: Api, name: str) -> Lock | None:
    try:
        return _read(await api.call("GET", f"volumes/{name}"))
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def _read(volume: Mapping[str, Any]) -> Lock:
    labels = volume.get("Labels") or {}
    found = labels.get(_FOUND)
    return Lock(
        name=volume["Name"],
        mark=labels.get(_MARK, ""),
        run=labels.get(_RUN, ""),
        engine=labels.get(_ENGINE, ""),
        owner=parse(labels.get(_OWNER, "")),
        found=Found(**json.loads(found)) if found else None,
    )
