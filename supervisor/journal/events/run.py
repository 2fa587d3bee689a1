"""The run itself: its phases, its end, its verdict, and what its own parts suffered."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from supervisor.journal.events.base import Event


class Phase(StrEnum):
    """Where a run is. Each phase begins with a `run.phase` event."""

    PREFLIGHT = "preflight"
    STARTING = "starting"
    BASELINE = "baseline"
    """Loads run and no fault does, for the soak to be compared with. Only where the soak file wants one."""
    SOAKING = "soaking"
    STOPPING = "stopping"
    SETTLING = "settling"
    JUDGING = "judging"


class EndReason(StrEnum):
    """Why a run ended. Only `duration` and, for a soak without one, `signal` leave a pass possible."""

    DURATION = "duration"
    SIGNAL = "signal"
    ABORT = "abort"
    GUARDIAN_GONE = "guardian-gone"
    GAVE_UP = "gave-up"
    """A part of soakd itself crashed more often than its intensity allows."""
    FAILED_TO_START = "failed-to-start"
    DIED = "died"
    """Written by recovery: the daemon left without a word."""


class RunStarted(Event, kind="run.started", durable=True):
    """The first event of a run."""

    run: str
    soak: str
    seed: int
    soakd: str
    host: str
    pid: int
    boot: str
    """The kernel's boot id: monotonic clocks compare only within one."""
    duration: float | None
    file: str = ""
    """The soak file, as an absolute path: relative paths in it are seen from its folder."""
    units: tuple[str, ...] = ()
    engines: dict[str, str] = Field(default_factory=dict)
    """The engine of each unit: recovery finds by it what is gone from there."""
    loads: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    """Loads whose programs write a log, `<load>.log`."""
    faults: tuple[str, ...] = ()
    thresholds: tuple[str, ...] = ()
    """As written in the soak file: the journal alone must be enough to judge again."""
    not_asked: tuple[str, ...] = ()
    """Thresholds that are meant of loads with another client."""
    planned: dict[str, int] = Field(default_factory=dict)
    """Episodes that a whole run must have seen of a fault, where its schedule names their number (`at`); otherwise one."""
    probes: tuple[str, ...] = ()
    """Titles of the steady state's expectations: one of which no reading exists makes the verdict inconclusive."""
    baseline: float | None = None
    """Seconds before the soak in which faults wait."""
    counters: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By load: what it counts as it happens, so that its silence is a 0."""
    settled: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By load: what it counts and only knows once it has looked, so that its silence says nothing."""
    clients: dict[str, str] = Field(default_factory=dict)
    """By load on NATS: which client it has."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Versions and settings that the report repeats."""


class PhaseEntered(Event, kind="run.phase"):
    """The run entered a phase."""

    phase: Phase


class RunEnded(Event, kind="run.ended", durable=True):
    """The soak itself is over; what follows is judging."""

    reason: EndReason
    detail: str = ""


class SoakFileRead(Event, kind="run.soak_file", durable=True):
    """The soak file was read again while the soak ran."""

    refused: str = ""
    """Why it was not taken; then the soak goes on as it was, and nothing below is said."""
    added: tuple[str, ...] = ()
    """Dotted paths, without their values, among which there may be secrets."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    duration: float | None = None
    faults: tuple[str, ...] = ()
    """These and what follows take the place of what `run.started` said."""
    thresholds: tuple[str, ...] = ()
    not_asked: tuple[str, ...] = ()
    planned: dict[str, int] = Field(default_factory=dict)
    probes: tuple[str, ...] = ()


class JournalTrouble(Event, kind="journal.trouble"):
    """Evidence was lost or may have been. Any of these makes the verdict inconclusive."""

    what: Literal["disk-full", "short-write", "fsync-failed", "torn", "dropped", "write-failed"]
    detail: str
    lost: int = 0
    """Records known to be lost."""


class TaskCrashed(Event, kind="supervision.crashed"):
    """A leaf task of soakd itself raised."""

    task: str
    error: str
    traceback: str
    gave_up: bool = False


class LoopLag(Event, kind="run.lag", folds=True):
    """How late the timers of soakd's own event loop came, ten times a second."""

    load: str = ""
    """The load whose processes' event loops these are; empty: the daemon's."""
    times: tuple[int | float, ...] = ()
    """`histogram.Histogram.pack`, in seconds."""


class LinksOpened(Event, kind="run.links"):
    """The process of the links relays, for the first time or, after it had ended by itself, again."""

    listen: dict[str, str]
    """Address by link."""
    to: dict[str, str]
    """Server by link."""
    episodes: tuple[str, ...] = ()
    """Those whose disturbances it began with: they were open when the one before it ended."""


class HookRan(Event, kind="run.hook"):
    """An `on:` command ended."""

    on: Literal["fail", "end"]
    command: str
    status: str
    """`exit 0`, a signal's name, `timeout` or `cannot be started`."""
    output: str = ""


class VerdictReached(Event, kind="run.verdict", durable=True):
    """The verdict, with its reasons, worst first."""

    verdict: Literal["pass", "inconclusive", "fail"]
    reasons: tuple[str, ...] = ()
