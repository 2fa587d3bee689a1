"""The seam every engine fills: where units run, what can be done to them, and how their exits are told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypedDict, Unpack

from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.journal.base import Journal
from supervisor.journal.events import Cause
from supervisor.kinds import Kind


class EngineError(Exception):
    """An engine could not do what was asked; the text says what, to which unit, and what to do about it."""


class GoneError(EngineError):
    """The unit itself is not there any more: somebody took it away, so there is nothing that could be acted on, or healed."""


class UnitState(StrEnum):
    """What an engine sees of a unit. There are no others: a unit that is being started is DOWN until its process runs."""

    UP = "up"
    PAUSED = "paused"
    DOWN = "down"
    ABSENT = "absent"
    """The engine knows nothing of it (a container that was removed)."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A unit as its engine sees it."""

    state: UnitState
    incarnation: str | None = None
    """Names this one life of the unit: `pid:start time` of a process, `container@start time` of a container."""
    pid: int | None = None
    started: float | None = None
    """Monotonic seconds."""
    labels: Mapping[str, str] = field(default_factory=dict)
    last: str | None = None
    """The incarnation that was its last one, of a unit that is down; None where its engine does not know that."""


def container_of(incarnation: str | None) -> str | None:
    """Return what of an incarnation outlives a restart, with the limits that were set on it: its container; None of a process."""
    container, at, _ = (incarnation or "").partition("@")
    return container if at else None


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of one incarnation, as the engine reports it. Whether it was a crash is the fleet's to say."""

    unit: str
    """The name within its engine."""
    incarnation: str
    code: int | None
    """Exit code, None if a signal ended it."""
    signal: str | None = None
    """Such as SIGKILL."""
    oom: bool = False
    mono: float = 0.0
    """Monotonic seconds at which the engine noticed."""
    uptime: float | None = None
    outside: bool = False
    """True: the engine knows that somebody outside soakd stopped it on purpose."""
    wall: float | None = None
    """Seconds since the epoch at which it ended, by the engine's own clock: what the log has after that is of another life.

    None: there is nothing after that, because only soakd starts the unit.
    """
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else the engine knows of this life, in words for the crash file: the image's digest, the state of health."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Somebody outside soakd has decided about a unit: it is up again, or it is to stay as it is until somebody brings it up."""

    unit: str
    """The name within its engine."""
    observed: Observed
    stays: bool = True
    """False for a unit that is down: the reason for that is over, it need not stay so any longer."""


@dataclass(frozen=True, slots=True)
class Unwell:
    """A unit that runs is to be restarted, because its own health check says that it is beyond help."""

    unit: str
    """The name within its engine."""
    incarnation: str


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What an engine is given for one run."""

    name: str
    """The engine's name in the soak file."""
    run: str
    """Run id; whatever the engine creates is marked with it, so that recovery can find it."""
    directory: Path
    """The run directory; units' own files go to `units/<unit>/`."""
    base: Path
    """The soak file's folder: relative paths in it are seen from here."""
    journal: Journal
    environment: Mapping[str, str] = field(default_factory=dict)
    """What every unit is told: how to reach the broker (`SOAKD_NATS_URL`, `SOAKD_NATS_USER`, `SOAKD_NATS_PASSWORD`)."""
    recovering: bool = False
    """True: the run is dead. What it changed is left for `recover` to take back; only faults are undone with these units."""
    units: tuple[str, ...] = ()
    """In recovery: the names of the units that the run had here. Those that are gone by now are `ABSENT`."""
    causes: Mapping[str, Cause] = field(default_factory=dict)
    """In recovery: why the last life of each unit ended of which the run has seen the end, by its incarnation."""


class Part(TypedDict, total=False):
    """Which part of a unit's output is meant: the last n lines, or the lines between two wall times (seconds since the epoch).

    With `last` and `until`, for an exit that had a time by the engine's clock: the last n lines before that.
    """

    last: int | None
    since: float | None
    until: float | None
    stamped: bool
    """Each line begins with the time at which it was written, as `output.stamp` writes it."""
    incarnation: str | None
    """The life that is asked about, where another container, with another log, may have taken the place of that one's since."""


class Units(Protocol):
    """The running side of an engine. All names are the engine's own; every call is bounded in time by the engine.

    Calls on one unit are serialised by the fleet's lock; calls on different units may overlap.
    """

    async def observe(self) -> Mapping[str, Observed]:
        """Look at all units."""

    async def start(self, unit: str) -> Observed:
        """Start a unit that is down; return it once its process runs. EngineError if it cannot, GoneError if nothing is left of it."""

    async def ready(self, unit: str) -> None:
        """Wait until the unit's readiness check says yes; EngineError if it exits first or the check's time is up."""

    async def stop(self, unit: str, timeout: float | None = None, signal: int | None = None) -> None:
        """Stop in order: stop signal, up to `timeout` seconds (the unit's own if None), then SIGKILL. Down already: no error."""

    async def kill(self, unit: str, signal: int) -> None:
        """Send a signal to the unit's main process, and to its whole group if it is SIGKILL, whose effect is waited for.

        EngineError if the unit is not running.
        """

    async def logs(self, unit: str, **part: Unpack[Part]) -> bytes:
        """Return a part of a unit's output, across its restarts."""

    def exits(self) -> MemoryObjectReceiveStream[Exit | Outside | Unwell]:
        """All exits from the opening on, in order, each once, and between them what others decided. One receiver: the fleet."""


class Engine(Kind):
    """A kind of engine."""

    units_outlive_run: ClassVar[bool] = False
    """True: units go on after the run (containers), so recovery has something to start again. False: they end with it."""

    running: ClassVar[type[Any] | None] = None
    """The class of what `open` yields, by which `soakd check` knows its capabilities (`issubclass(running, CanPause)`); None: only the
    run can tell."""

    @abstractmethod
    def unit_names(self) -> tuple[str, ...]:
        """Names known so far: from the soak file alone, or by `discover`; none if nobody has looked yet."""
        raise NotImplementedError

    async def discover(self, base: Path) -> Self:  # noqa: ARG002  # for engines that look somewhere
        """Return this engine with its units known, if it finds them by looking; EngineError if it cannot. Touches nothing."""
        return self

    async def tidy(self, base: Path) -> list[str]:  # noqa: ARG002  # for engines whose units outlive runs
        """Put units back as they were that dead runs have left behind, also runs of other hosts; return what was done, in words."""
        return []

    def offers(self, power: type) -> bool:
        """Whether it has a capability, as far as the soak file tells; True if only the run can tell."""
        return self.running is None or issubclass(self.running, power)

    def lacks(self, power: type, unit: str) -> str:  # noqa: ARG002  # for engines that need something for their capabilities
        """Say what keeps a capability from being used on a unit just now: a program, a permission. Empty: nothing that is known.

        Touches nothing; blocks. Called at preflight; `soakd check` shows it as a warning.
        """
        return ""

    def volume(self, unit: str, path: str, base: Path) -> Path | None:  # noqa: ARG002  # for engines that have any
        """Return the same as `HasVolumes` would in a run; None if only the run can tell. EngineError if there is none. Blocks."""
        raise EngineError(f"the engine of {unit}, {self.key}, has no volumes")

    def resting(self) -> frozenset[str]:
        """Names of units that are down and are to stay down, since nobody has asked for their start."""
        return frozenset()

    def after(self) -> Mapping[str, tuple[str, ...]]:
        """For a known unit, the units that must be ready before it starts, as written."""
        return {}

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """For a known unit, its labels."""
        return {}

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """For a unit known from the soak file, the files that are written for it there: path -> content."""
        return {}

    def configuration(self, unit: str, base: Path) -> Mapping[str, str]:  # noqa: ARG002  # for engines that can read them
        """Return what can be read here of the files that a unit's command names with `-c` or `--config`: path -> content. Blocks."""
        return {}

    def doubts(self) -> Mapping[str, str]:
        """For a known unit, what keeps a crash of it from being taken in full: `soakd check` tells of it if it has a watchdog."""
        return {}

    def refused(self) -> list[tuple[tuple[str, ...], str]]:
        """Say which of the units that were found go against this entry of the soak file, each with the path of the key below it.

        That is wrong input: `soakd check` fails, and nothing starts.
        """
        return []

    @abstractmethod
    def problems(self, base: Path) -> list[str]:
        """What would keep units from starting, in words for the user: a command that is not there, a port in use.

        Touches nothing. Called at preflight; `soakd check` shows the same list as warnings.
        """
        raise NotImplementedError

    @abstractmethod
    def open(self, context: EngineContext) -> AbstractAsyncContextManager[Units]:
        """Run the engine's side; on the way out everything this engine started is ended."""
        raise NotImplementedError

    @abstractmethod
    async def recover(self, context: EngineContext) -> list[str]:
        """After the death of a run: end what it started and left; return what was done, in words. Idempotent."""
        raise NotImplementedError
