"""What the lifetimes of a run share."""

from __future__ import annotations

import math
import platform
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from supervisor.broker.control import Leaders
from supervisor.broker.health.watch import HealthWatch
from supervisor.broker.monitor.monitor import Monitor
from supervisor.ending import End, Guardian
from supervisor.engines.survivors import RUN as SOAKD_RUN
from supervisor.journal.base import Journal
from supervisor.journal.events import EndReason
from supervisor.journal.timeline import Timeline
from supervisor.links.base import told
from supervisor.links.control import Links
from supervisor.live.board import Board
from supervisor.live.picture import Wish
from supervisor.loads.made import Leftovers
from supervisor.soak import Soak
from supervisor.soakfile.load import Loaded
from supervisor.supervision import Supervisor, nursery
from supervisor.telemetry.status import Status

LOOK: Final = 2.0
"""Seconds of the grace that are kept for the last look, the verdict and its files."""


class CannotStart(Exception):  # noqa: N818  # what happened is in the name
    """The run cannot begin; each line says what could not be done, where, and what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(slots=True)
class Run:
    """What the lifetimes share."""

    id: str
    soak: Soak
    file: Path
    """The soak file."""
    directory: Path
    seed: int
    journal: Journal
    end: End
    guardian: Guardian
    status: Status = field(default_factory=Status)
    timeline: Timeline = field(default_factory=Timeline)
    monitor: Monitor | None = None
    board: Board | None = None
    """What `/status` shows of the broker; None while nobody looks at it."""
    health: HealthWatch | None = None
    leaders: Leaders = field(default_factory=Leaders)
    links: Links | None = None
    leftovers: Leftovers = field(default_factory=Leftovers)
    """What loads have made on the broker and no longer need."""
    began: float = field(default_factory=time.monotonic)
    """Monotonic seconds at which the run began, before anything was started."""
    start: float = 0.0
    """Monotonic seconds at which the soak itself began."""
    loaded: Loaded | None = None
    """The soak file as it is in use; None: it cannot be read again."""
    read: Callable[[], Loaded] | None = None
    lasting: anyio.CancelScope | None = None
    """What ends the soak when its duration is over, which counts from `lasting_since` by the event loop's clock."""
    lasting_since: float = 0.0
    adopting: list[Callable[[Soak], None]] = field(default_factory=list)
    """The lifetimes that go on with a soak file that was read again."""

    def adopt(self, soak: Soak) -> None:
        """Go on with the soak file as it is now."""
        self.soak = soak
        self.end.allow(soak.grace)
        for adopt in self.adopting:
            adopt(soak)
        if self.lasting:
            self.lasting.deadline = self.lasting_since + (
                math.inf if soak.duration is None else soak.duration
            )

    @property
    def base(self) -> Path:
        """The soak file's folder: relative paths in it are seen from here."""
        return self.file.parent

    def more(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what `/status` has of the broker; ValueError for a query that is wrong."""
        wish = Wish.model_validate(dict(query))
        return {"broker": self.board and self.board.picture(wish).model_dump()}

    def gauges(self) -> Mapping[str, float]:
        """Return the numbers of the monitor and of the links, for metrics."""
        return {
            **(self.monitor.gauges() if self.monitor else {}),
            **(self.links.gauges() if self.links else {}),
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """What commands are told about broker and links, and the run's id, by which recovery finds what they left."""
        return {**self.told, SOAKD_RUN: self.id}

    @property
    def told(self) -> Mapping[str, str]:
        """What units and commands are told: where the links are, and the broker, by way of links where some lead to it."""
        broker, links = self.soak.broker, self.links
        servers = told(broker.servers, links.ways) if broker and links else ()
        return {
            **(broker.environment(servers) if broker else {}),
            **(links.environment if links else {}),
        }

    def gave_up(self, reason: str) -> None:
        """End the run because a part of soakd is beyond help."""
        self.end(EndReason.GAVE_UP, reason)

    @asynccontextmanager
    async def leaves(self) -> AsyncGenerator[Supervisor]:
        """Open a place for leaf tasks that are kept up and end with the lifetime they belong to."""
        async with nursery() as group:
            yield Supervisor(group, self.journal, self.gave_up)


def facts() -> dict[str, str]:
    """Return what the report says about the machine."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
