"""Units: starts, exits, crashes, restarts."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from supervisor.journal.events.base import Event


class Cause(StrEnum):
    """Why a unit's process ended. Only crashes count towards intensity."""

    CRASH = "crash"
    DONE = "done"
    """By itself with exit code 0, which its watchdog's policy (transient, temporary) takes for its proper end."""
    EPISODE = "episode"
    OPERATOR = "operator"
    OUTSIDE = "outside"
    """Somebody outside soakd stopped it on purpose."""
    RUN = "run"
    """soakd itself, at its end or while stopping the unit in order."""


class UnitStarted(Event, kind="unit.started"):
    """A unit's process runs; `unit.ready` follows when its readiness says so."""

    unit: str
    incarnation: str
    pid: int | None = None
    by: str = "run"
    """run, watchdog, operator, the id of an episode, or outside: it was up already, or somebody else brought it up."""
    took: float = 0.0


class UnitReady(Event, kind="unit.ready"):
    """A unit answered its readiness check, `took` seconds after its start."""

    unit: str
    incarnation: str
    took: float


class UnitExited(Event, kind="unit.exited"):
    """A unit's process ended, for whatever cause."""

    unit: str
    incarnation: str
    code: int | None
    signal: str | None = None
    oom: bool = False
    cause: Cause
    by: str | None = None
    """The episode or person that holds the unit."""
    uptime: float | None = None
    facts: dict[str, str] = Field(default_factory=dict)
    """What else its engine knows of this life, such as the digest of its image."""


class UnitCrashed(Event, kind="unit.crashed", durable=True):
    """An exit whose cause was a crash, with its evidence, written before anything is restarted."""

    unit: str
    incarnation: str
    code: int | None
    signal: str | None = None
    oom: bool = False
    uptime: float | None = None
    file: str | None = None
    """The crash file's name in the run directory; None if it was not kept (see `captured`)."""
    captured: bool = True
    """False: the evidence could not be written in time, and the verdict is inconclusive."""
    signature: str = ""
    """The root cause as read from the log's tail, stable enough to group by."""
    consecutive: int = 1
    """Crashes since the unit was last stable."""
    episodes: tuple[str, ...] = ()
    """Open episodes at the time, as `id:stage` (see `Timeline`)."""
    facts: dict[str, str] = Field(default_factory=dict)
    """What else its engine knows of this life."""


class UnitRestarted(Event, kind="unit.restarted"):
    """A watchdog started a unit again."""

    unit: str
    incarnation: str
    attempt: int
    delay: float
    """Seconds the policy waited."""
    downtime: float
    """Seconds from the exit to the new process running."""


class UnitStartFailed(Event, kind="unit.start_failed"):
    """A unit could not be started."""

    unit: str
    by: str
    error: str


class UnitGivenUp(Event, kind="unit.given_up", durable=True):
    """A unit crashed more often than its intensity allows and stays down; the verdict fails."""

    unit: str
    crashes: int
    intensity: str
