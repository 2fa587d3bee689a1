"""The seam every kind of load fills."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from supervisor.journal.base import Journal
from supervisor.journal.events import LoadWindow
from supervisor.kinds import Kind

if TYPE_CHECKING:
    import anyio

    from supervisor.broker.connection import Connections
    from supervisor.journal.timeline import Timeline
    from supervisor.loads.made import Leftovers
    from supervisor.loads.recorder import Recorder


class ServerLogs(Protocol):
    """The logs of the broker's servers, as far as these are units of the soak."""

    async def save(self, title: str, since: float, until: float) -> Mapping[str, str]:
        """Save what the servers wrote between two wall times into files of the run directory, whose names begin with `title`.

        Return for each server's unit the file's name, or in words why there is none. Takes a few seconds at most.
        """


class Sink(Protocol):
    """Where windows go: the journal, or a pipe in a worker process."""

    def emit(self, event: LoadWindow) -> None:
        """Take one window; never blocks."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a load is given for one run."""

    name: str
    run: str
    base: Path
    """The soak file's folder."""
    directory: Path
    """The run directory."""
    start: float
    """Monotonic seconds of the run's start: intended starts are computed from it."""
    seed: int
    journal: Journal
    timeline: Timeline
    recorder: Recorder
    """Counts this load's operations; emits `load.window`."""
    stop: anyio.Event
    """Set when the load should finish what it is doing and return."""
    connections: Connections | None = None
    server_logs: ServerLogs | None = None
    """None: nobody knows of any."""
    leftovers: Leftovers | None = None
    """Where streams go that the load made and no longer needs; None: they are removed at once."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What every program that soakd starts gets besides its own: SOAKD_NATS_URL (a comma list of servers), SOAKD_NATS_USER and
    SOAKD_NATS_PASSWORD of the configured broker."""
    process: int = 0
    """Which of `processes` this is, from 0: a load that is shared does every so many-th operation in each."""
    processes: int = 1
    together: Callable[[], Awaitable[float]] | None = None
    """Of a load that is shared: waits until every process is ready, and returns the monotonic seconds at which all begin."""
    outlast: Callable[[bool], Awaitable[bool]] | None = None
    """Of a load that is shared: see `may_remove`."""
    owed: float | None = None
    """Seconds since the run's start from when on operations were due that nobody began, since the process before this one died."""


async def may_remove(context: LoadContext, *, sound: bool) -> bool:
    """Say whether a load may remove what it made: if nothing was wrong with it, in no process; then True in one of them.

    That one waits some seconds for the others, who use it too.
    """
    return sound if context.outlast is None else await context.outlast(sound)


class Load(Kind):
    """Something that uses the system continuously."""

    counters: ClassVar[tuple[str, ...]] = ()
    """What it counts besides operations, as it happens: thresholds know these names, and take silence of a load at work for 0."""
    settled: ClassVar[tuple[str, ...]] = ()
    """What it counts and only knows once it has looked: 0 is 0 only if the load has said so (`recorder.count(name, 0)`)."""

    @abstractmethod
    async def run(self, context: LoadContext) -> None:
        """Use the system until `context.stop` is set, then return within a few seconds.

        Cancelled: end at once, leaving nothing behind. An exception restarts the load under `supervision`.
        """
        raise NotImplementedError

    def reports(self, counter: str) -> bool:
        """Whether it counts something of this name, so that a threshold on it means something."""
        return counter in (*self.counters, *self.settled)

    def problems(self, base: Path) -> list[str]:  # noqa: ARG002  # for kinds that have something to look at
        """What would keep this load from starting, in words for the user. Touches nothing."""
        return []
