"""What can happen in a run: frozen typed records, the only thing the verdict is read from.

An event's `kind` never changes its meaning. A field may be added with a default; anything else is a new `version` of that kind,
and `decode` is where older ones would be lifted. Kinds this code does not know (a third party's, a newer soakd's) stay open JSON
as `OpenEvent`. Times inside events are seconds; clocks of the moment stand on the record (`Record`), not here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PART = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")
"""How events and their parts are kept. JSON has no infinity: as a string it comes back as what it was, not as null."""


class Event(BaseModel):
    """One thing that happened. Subclasses name their kind; `durable` ones are fsynced before anybody acts on them."""

    model_config = PART

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    durable: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    """True: above the byte budget, records of this kind may be folded into coarser ones."""

    def __init_subclass__(
        cls, kind: str = "", durable: bool = False, folds: bool = False, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        cls.kind, cls.durable, cls.folds = kind, durable, folds
        if kind:
            KINDS[kind] = cls


KINDS: dict[str, type[Event]] = {}


class OpenEvent(Event):
    """An event of a kind this code has no class for, kept as it came."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its place in the journal."""

    sequence: int
    """1, 2, 3 ... without a gap over all segments of a run."""
    wall: float
    """Seconds since the epoch."""
    mono: float
    """Seconds of the host's monotonic clock: the one to measure with, comparable within one boot."""
    event: Event


def decode(kind: str, version: int, data: bytes) -> Event:
    """Return the event that JSON data of a kind stands for, an `OpenEvent` if no class here can read it.

    ValueError if the data is no JSON. This is the place to lift the data of older versions.
    """
    cls = KINDS.get(kind)
    if cls is not None and version == cls.version:
        try:
            return cls.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]  # it makes a cls
        except ValidationError:
            pass
    return OpenEvent(name=kind, data=json.loads(data))


# --- the run ---------------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """Where a run is. Each phase begins with a `run.phase` event."""

    PREFLIGHT = "preflight"
    STARTING = "starting"
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
    loads: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    thresholds: tuple[str, ...] = ()
    """As written in the soak file: the journal alone must be enough to judge again."""
    planned: dict[str, int] = Field(default_factory=dict)
    """Episodes that a whole run must have seen of a fault, where its schedule names their number (`at`); otherwise one."""
    probes: tuple[str, ...] = ()
    """Titles of the steady state's expectations: one of which no reading exists makes the verdict inconclusive."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Versions and settings that the report repeats."""


class PhaseEntered(Event, kind="run.phase"):
    """The run entered a phase."""

    phase: Phase


class RunEnded(Event, kind="run.ended", durable=True):
    """The soak itself is over; what follows is judging."""

    reason: EndReason
    detail: str = ""


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


# --- units -----------------------------------------------------------------------------------------------------------


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


# --- faults ----------------------------------------------------------------------------------------------------------


class Target(BaseModel):
    """One unit a fault acts on."""

    model_config = PART

    unit: str
    incarnation: str | None = None


class FaultIntent(Event, kind="fault.intent", durable=True):
    """What is about to be injected, with everything undo needs. Nothing is injected before this is on disk."""

    episode: str
    """`<fault>#<n>`, n counting from 1."""
    fault: str
    type: str
    """The kind's key, such as restart."""
    n: int
    targets: tuple[Target, ...] = ()
    undo: dict[str, Any] = Field(default_factory=dict)


class FaultInjected(Event, kind="fault.injected"):
    """Inject returned: the disturbance is on."""

    episode: str
    took: float


class FaultFailed(Event, kind="fault.failed"):
    """Inject raised. What had been done by then is undone."""

    episode: str
    error: str


class FaultUndone(Event, kind="fault.undone", durable=True):
    """Undo succeeded: nothing of the episode is left in place."""

    episode: str
    by: Literal["run", "recover"] = "run"
    attempts: int = 1


class UndoFailed(Event, kind="fault.undo_failed", durable=True):
    """One attempt to undo failed. It is tried again; the verdict fails all the same."""

    episode: str
    attempt: int
    error: str
    broken: str
    """What may still be broken, and how to mend it by hand."""


class EpisodeClosed(Event, kind="episode.closed", durable=True):
    """The end of an episode."""

    episode: str
    recovered: bool | None
    """None: nobody looked, because the run ended first or recovery was done by `soakd recover`."""
    recovery: float | None = None
    """Seconds from the end of undo until the steady state held."""
    truncated: str = ""
    """Why the fault did not last as planned: a target vanished or came back by itself."""
    failing: tuple[str, ...] = ()
    """The expectations that still failed when the time was up."""
    unmet: tuple[str, ...] = ()
    """What was expected during the episode and was not seen: the verdict fails."""


class DrawSkipped(Event, kind="fault.skipped"):
    """A draw that was not injected, and why."""

    fault: str
    n: int
    reason: str


# --- loads -----------------------------------------------------------------------------------------------------------


class Sample(BaseModel):
    """One failed or indeterminate operation, kept as an example."""

    model_config = PART

    at: float
    """Intended start, monotonic seconds."""
    name: str = ""
    outcome: Literal["failed", "indeterminate"]
    error: str
    """Error class."""
    detail: str = ""
    took: float = 0.0


class Slice(BaseModel):
    """The operations of a window that the same set of episodes overlapped."""

    model_config = PART

    episodes: tuple[str, ...] = ()
    """Sorted `id:stage` marks; empty: no episode."""
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    errors: dict[str, int] = Field(default_factory=dict)
    """Failed and indeterminate operations by error class, the number of classes capped, the rest under `other`."""
    first_ok: float | None = None
    """Monotonic seconds at which the first ok operation ended; None: there was none, or nobody noted it."""
    first_failure: float | None = None
    """The same of the first failed or indeterminate operation."""
    response: tuple[int | float, ...] = ()
    """`values.Histogram.pack`: from the intended start to the end of ok operations."""
    service: tuple[int | float, ...] = ()
    """The same from the actual start. Empty where it equals `response` (a closed loop)."""


class LoadWindow(Event, kind="load.window", folds=True):
    """What a load did between two instants (monotonic seconds of operations' ends)."""

    load: str
    start: float
    end: float
    scheduled: int = 0
    started: int = 0
    late: int = 0
    """Started later than the executor's tolerance."""
    dropped: int = 0
    """Never started: no free slot."""
    slices: tuple[Slice, ...] = ()
    samples: tuple[Sample, ...] = ()
    counters: dict[str, float] = Field(default_factory=dict)
    """What a kind counts besides operations: lost, duplicates, tests skipped."""


class LoadStopped(Event, kind="load.stopped"):
    """A load ended in order; `open` operations were cut off and count as indeterminate."""

    load: str
    open: int = 0


# --- looking ---------------------------------------------------------------------------------------------------------


class Reading(BaseModel):
    """What one probe saw."""

    model_config = PART

    probe: str
    """The probe in words, such as `http http://127.0.0.1:8000/ready == 200`."""
    ok: bool
    value: float | str | None = None
    detail: str = ""
    took: float = 0.0


class ProbeChanged(Event, kind="probe.changed"):
    """An expectation began or ceased to hold."""

    reading: Reading


class Evidence(Event, kind="probe.evidence"):
    """What the probes saw before, during or after an episode (`when`)."""

    episode: str
    when: Literal["before", "during", "recovered"]
    readings: tuple[Reading, ...]


class SteadyChanged(Event, kind="steady.changed"):
    """The steady state began or ceased to hold."""

    holds: bool
    failing: tuple[str, ...] = ()


class HealthChanged(Event, kind="broker.health"):
    """The broker's health changed, or what decides it did."""

    state: Literal["healthy", "degraded", "unhealthy"]
    before: str = ""
    """Empty at the first look."""
    reason: str = ""
    """What decides it, in one line."""
    findings: tuple[str, ...] = ()
    """The worst, as `code (subject): what`."""


class BrokerChanged(Event, kind="broker.connection"):
    """A connection of ours to the broker changed its state."""

    connection: str
    state: Literal[
        "connected", "disconnected", "reconnected", "lame-duck", "discovered", "rejected", "closed"
    ]
    server: str = ""
    detail: str = ""


class StreamChanged(Event, kind="broker.stream"):
    """Streams changed. Changes of one sort that follow each other quickly are told together."""

    change: Literal["created", "deleted", "recreated", "reappeared", "reset"]
    """`reappeared`: it was taken for deleted and is the same as before. `reset`: kept in memory, its content is gone."""
    count: int = 1
    streams: tuple[str, ...] = ()
    """The first few names."""
    over: float = 0.0
    """Seconds from the first of these changes to this event."""
    detail: str = ""


class ConsumerChanged(Event, kind="broker.consumer"):
    """Consumers changed, those of soakd itself left out."""

    change: Literal["created", "deleted", "max-deliveries"]
    """`max-deliveries`: a message was delivered as often as allowed, and never acknowledged."""
    count: int = 1
    consumers: tuple[str, ...] = ()
    """The first few, as `stream > consumer`."""
    over: float = 0.0
    detail: str = ""


class LeaderChanged(Event, kind="broker.leader"):
    """Groups of replicas elected a leader, or lost their majority."""

    change: Literal["elected", "quorum-lost", "quorum-regained"]
    of: Literal["stream", "consumer", "meta"]
    count: int = 1
    groups: tuple[str, ...] = ()
    """The first few: the name, with the leader if there is one."""
    over: float = 0.0
    detail: str = ""


class EntriesChanged(Event, kind="broker.entries"):
    """Entries of a bucket changed; counts, never an event for each key."""

    bucket: str
    put: int = 0
    deleted: int = 0
    purged: int = 0
    vanished: int = 0
    """Gone without a marker: purged from the stream, or with it."""
    samples: tuple[str, ...] = ()
    """The first few keys."""
    over: float = 0.0


class ViewChanged(Event, kind="broker.view"):
    """The monitor can see all of the broker again, or no longer."""

    complete: bool
    why: str = ""


class Observation(Event, kind="observation", folds=True):
    """Numbers sampled every 10 s: gauges that no event carries. Keys are metric names with labels, Prometheus style."""

    values: dict[str, float]


class InvariantViolated(Event, kind="invariant.violated", durable=True):
    """What may never be false was false."""

    invariant: str
    subject: str
    detail: str
    data: dict[str, Any] = Field(default_factory=dict)


class CleanedUp(Event, kind="broker.cleaned"):
    """A cleanup of streams and entries, made for a load."""

    load: str
    streams: int
    entries: int
    took: float
    error: str = ""
