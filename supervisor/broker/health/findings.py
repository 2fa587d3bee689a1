"""What is said of a cluster: findings, worst first, and the state that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from supervisor.broker.health.facts import Facts
from supervisor.broker.health.group import Group
from supervisor.broker.health.roster import Node


class Severity(StrEnum):
    """How bad a finding is, worst first."""

    CRITICAL = "critical"
    """JetStream does not work, or will not in a moment."""
    WARNING = "warning"
    """It works, but has lost something that it should have."""
    UNKNOWN = "unknown"
    """Something could not be seen."""
    NOTE = "note"
    """Worth knowing."""


class Health(StrEnum):
    """The state of a cluster."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, but is not as it should be."""
    UNHEALTHY = "unhealthy"


class Finding(BaseModel):
    """One thing that is wrong, or unknown."""

    model_config = ConfigDict(frozen=True)

    severity: Severity
    code: str
    """What it is, the same for ever: `quorum-lost`."""
    subject: str
    """The server it is about, or `cluster`, `account`, `connection`."""
    what: str
    means: str = ""
    do: str = ""
    cause: str = ""
    """The likely cause, as found in the data."""
    detail: str = ""
    """In the words of a server."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the rules look at."""

    facts: Facts
    nodes: tuple[Node, ...]
    group: Group | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is to be said of a cluster."""

    picture: Picture
    findings: tuple[Finding, ...]
    """Worst first; of the same severity causes before the symptoms they explain."""

    @property
    def health(self) -> Health:
        """The state, as the worst finding decides."""
        found = {finding.severity for finding in self.findings}
        if Severity.CRITICAL in found:
            return Health.UNHEALTHY
        return Health.DEGRADED if Severity.WARNING in found else Health.HEALTHY

    @property
    def headline(self) -> str:
        """What decides the state, in one line."""
        if self.health is not Health.HEALTHY:
            return self.findings[0].what
        group = self.picture.group
        servers = count(len(self.picture.nodes), "server")
        return f"JetStream answers; {servers}" + (f", {group.leader} leads" if group and group.leader else "")


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 server, 3 servers."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names as a sentence has them: n1, n2 and n3."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def size(number: int) -> str:
    """Return bytes as nats-server's configuration has them: 1 kB is 1024 of them."""
    amount, unit = float(number), 0
    while amount >= 1023.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} B" if unit == 0 else f"{amount:.{1 if amount < 100 else 0}f} {_UNITS[unit]}"
