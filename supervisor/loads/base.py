"""The seam every kind of load fills."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

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


class Exchange(Protocol):
    """What the processes of a load tell each other; all of it also comes to the load's `book`."""

    epoch: int
    """Which life of the whole load it is: alike in all processes, and in each life of theirs."""

    def tell(self, note: Any) -> None:
        """Tell all others, soon; `note` has the monotonic seconds of now as its first item. Never blocks."""

    def hear(self, listener: Callable[[Any], None]) -> None:
        """Hear what others tell from now on."""


class Book(Protocol):
    """What all that the processes of a load tell each other is put together in, in the run's own process."""

    def take(self, process: int, notes: Sequence[Any], upto: float) -> None:
        """Take what a process tells. What it tells later, happens after `upto`, in monotonic seconds."""

    def left(self, process: int, *, well: bool) -> None:
        """A process has ended; not `well`: without its last word."""

    def finish(self) -> bool:
        """Nothing more comes: decide on the rest, and say whether nothing was wrong. May be called again."""


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
    leave: Callable[[bool], None] | None = None
    """Of a load that is shared: see `may_remove`."""
    owed: float | None = None
    """Seconds since the run's start from when on operations were due that nobody began, since the process before this one died."""
    scheduled: int = 0
    """Of a load that is shared: operations that earlier lives of this process have scheduled."""
    exchange: Exchange | None = None
    """Of a load that is shared and has to put together what its processes see."""


def may_remove(context: LoadContext, *, sound: bool) -> bool:
    """Say whether a load may have removed what it made, which is if it is `sound`: nothing was wrong with it here.

    What processes share is removed once all of them have ended, if nothing was wrong with it in any.
    """
    if context.leave is not None:
        context.leave(sound)
    return sound


class Load(Kind):
    """Something that uses the system continuously."""

    counters: ClassVar[tuple[str, ...]] = ()
    """What it counts besides operations, as it happens: thresholds know these names, and take silence of a load at work for 0."""
    logs: ClassVar[bool] = False
    """Whether it writes `<load>.log` into the run directory."""
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
