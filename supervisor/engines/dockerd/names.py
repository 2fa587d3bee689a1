"""Which containers are units, and what they are called. Pure.

A container of a compose project is named after its service; of several replicas the first has the plain name, the others their
number: `worker`, `worker-2`, `worker-3`. So a name depends on its own container alone, however many others there are. All other
containers have their own name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.engines.base import EngineError

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
NUMBER: Final = "com.docker.compose.container-number"
ONE_OFF: Final = "com.docker.compose.oneoff"
DEPENDS: Final = "com.docker.compose.depends_on"
OWN: Final = "soakd.lock"
"""The label of what soakd itself makes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A container as a listing shows it."""

    id: str
    name: str
    state: str
    """created, running, paused, restarting, exited, dead or removing."""
    created: int
    """Seconds since the epoch."""
    labels: Mapping[str, str]

    @property
    def is_up(self) -> bool:
        """Whether its process lives."""
        return self.state in {"running", "paused"}


@dataclass(frozen=True, slots=True)
class Which:
    """Which containers an engine of the soak file means."""

    project: str | None = None
    names: tuple[str, ...] = ()
    label: str | None = None

    def filters(self) -> str:
        """Return what a listing is narrowed down with."""
        if self.project:
            return json.dumps({"label": [f"{PROJECT}={self.project}"]})
        return json.dumps({"label": [self.label]} if self.label else {})

    def unit(self, name: str, labels: Mapping[str, str]) -> str | None:
        """Return the unit that a container is, None if it is none of ours."""
        if OWN in labels or labels.get(ONE_OFF, "").lower() == "true":
            return None
        if self.project:
            service, number = labels.get(SERVICE), labels.get(NUMBER, "1")
            if labels.get(PROJECT) != self.project or not service:
                return None
            return service if number == "1" else f"{service}-{number}"
        if self.label:
            key, _, value = self.label.partition("=")
            return name if labels.get(key) == value else None
        return name if name in self.names else None

    def __str__(self) -> str:
        if self.project:
            return f"compose project {self.project}"
        return f"label {self.label}" if self.label else f"names {', '.join(self.names)}"


def listed(answer: Iterable[Mapping[str, Any]]) -> list[Listed]:
    """Read the answer to a listing."""
    return [
        Listed(
            id=one["Id"],
            # A link gives its target a second name, `/other/alias`.
            name=min((name for name in one["Names"] or ["/"]), key=len).lstrip("/"),
            state=one["State"],
            created=one["Created"],
            labels=one["Labels"] or {},
        )
        for one in answer
    ]


def by_unit(which: Which, containers: Sequence[Listed]) -> dict[str, list[Listed]]:
    """Return for each unit its containers, the one that counts first: what is up, then the youngest.

    There is more than one while compose recreates a container: the new one takes its name over from the old one.
    """
    found: dict[str, list[Listed]] = {}
    for container in containers:
        if unit := which.unit(container.name, container.labels):
            found.setdefault(unit, []).append(container)
    for several in found.values():
        several.sort(key=lambda one: (one.is_up, one.created), reverse=True)
    return {unit: found[unit] for unit in which.names or sorted(found) if unit in found}


def refuse_clashes(which: Which, found: Mapping[str, Sequence[Listed]]) -> None:
    """Raise EngineError if two services lay claim to one unit's name: replica 2 of `worker`, and a service `worker-2`."""
    for unit, several in found.items():
        services = {one.labels.get(SERVICE) for one in several}
        if which.project and len(services) > 1:
            names = " and ".join(sorted(str(service) for service in services))
            raise EngineError(
                f"cannot name the unit {unit} of {which}: it is a container of both {names}; name them by `names`"
            )


def after(which: Which, found: Mapping[str, Sequence[Listed]]) -> dict[str, tuple[str, ...]]:
    """Return for each unit those that compose starts before it: all replicas of the services that its own depends on."""
    if not which.project:
        return {}
    services: dict[str, list[str]] = {}
    for unit, several in found.items():
        services.setdefault(several[0].labels[SERVICE], []).append(unit)
    waits: dict[str, tuple[str, ...]] = {}
    for unit, several in found.items():
        before = [entry.split(":")[0] for entry in several[0].labels.get(DEPENDS, "").split(",")]
        waits[unit] = tuple(other for service in before for other in services.get(service, ()))
    return waits
