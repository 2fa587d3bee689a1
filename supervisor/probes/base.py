"""The seam every kind of probe fills: one bounded look at the system."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from supervisor.journal.events import Reading
from supervisor.kinds import Kind
from supervisor.values import Duration

if TYPE_CHECKING:
    import aiohttp

    from supervisor.broker.connection import Connections
    from supervisor.engines.fleet import Fleet


@dataclass(frozen=True, slots=True)
class View:
    """What a probe may look at."""

    base: Path
    """The soak file's folder."""
    http: aiohttp.ClientSession
    fleet: Fleet
    connections: Connections | None = None
    restarts: Callable[[str], int] | None = None
    """How often a unit was restarted by its watchdog in this run."""
    since: float | None = None
    """Wall seconds at which the present episode began, for what counts from there; None: there is none."""


class Probe(Kind):
    """One look at the system that yields a value, and the tolerance that makes it an expectation."""

    within: Duration = Field(0.0, description="How long it may take until the expectation holds.")

    @property
    @abstractmethod
    def title(self) -> str:
        """The expectation in words, the same in every run: it names the probe in the journal."""
        raise NotImplementedError

    @abstractmethod
    async def look(self, view: View) -> Reading:
        """Look once, within a deadline of the probe's own. What cannot be seen is a reading that is not ok, with the reason."""
        raise NotImplementedError
