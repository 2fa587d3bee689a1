"""The seam every kind of probe fills: one bounded look at the system."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from pydantic import AfterValidator, Field

from supervisor.journal.events import Reading
from supervisor.kinds import Kind
from supervisor.values import Comparison, Duration, format_duration

if TYPE_CHECKING:
    import aiohttp

    from supervisor.broker.connection import Connections
    from supervisor.engines.fleet import Fleet

LONGEST: Final = 60.0
"""Seconds a single look may take at most: a round of looks takes as long as its slowest."""


def _short(seconds: float) -> float:
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"expected more than 0s and at most {format_duration(LONGEST)}")
    return seconds


Timeout = Annotated[Duration, AfterValidator(_short)]
"""Seconds that one look may take."""


def _numeric(comparison: Comparison) -> Comparison:
    if isinstance(comparison.wanted, str):
        raise ValueError('expected a comparison with a number such as "< 5", ">= 1" or "== 0"')  # noqa: TRY004  # pydantic reports ValueErrors only
    return comparison


Tolerance = Annotated[Comparison, AfterValidator(_numeric)]
"""What a number is held against."""


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
    environment: Mapping[str, str] = field(default_factory=dict)
    """What commands find in their environment besides soakd's own."""
    ready: dict[str, str] = field(default_factory=dict)
    """The incarnation of each unit that was last seen ready: readiness is asked for once in a life."""


class CannotSee(Exception):  # noqa: N818  # it says what happened; for a soak that is no error
    """A look showed nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look showed."""

    ok: bool
    value: float | str | None = None
    detail: str = ""
    """In words; why not, if it is not ok."""


class Probe(Kind):
    """One look at the system that yields a value, and the tolerance that makes it an expectation."""

    within: Duration = Field(0.0, description="How long it may take until the expectation holds.")

    @property
    @abstractmethod
    def title(self) -> str:
        """The expectation in words, the same in every run: it names the probe in the journal."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        """Seconds that one look may take."""
        return 5.0

    @abstractmethod
    async def see(self, view: View) -> Seen:
        """Look once. `look` bounds it in time; CannotSee, or any other exception, means that there was nothing to see."""
        raise NotImplementedError

    async def look(self, view: View) -> Reading:
        """Look once, within the deadline. What cannot be seen is a reading that is not ok, with the reason."""
        began = time.monotonic()
        seen = Seen(ok=False, detail=f"no answer within {format_duration(self.deadline)}")
        with anyio.move_on_after(self.deadline):
            try:
                seen = await self.see(view)
            except CannotSee as error:
                seen = Seen(ok=False, detail=str(error))
            except Exception as error:  # noqa: BLE001  # a probe that is broken shows nothing, which is never ok
                seen = Seen(ok=False, detail=f"the probe raised {type(error).__name__}: {error}")
        return Reading(
            probe=self.title,
            ok=seen.ok,
            value=seen.value,
            detail=seen.detail,
            took=time.monotonic() - began,
        )
