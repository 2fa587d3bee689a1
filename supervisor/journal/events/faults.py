"""Faults and their episodes."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from supervisor.journal.events.base import PART, Event

OPERATOR: Final = "operator"
"""Whoever works on a run by hand: the fault of episodes `operator#n`, in which units are held."""
BY_HAND: Final = "@operator"
"""What the name of a fault has behind it in an episode that was injected by hand: `restart-nats@operator#1`."""


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

    @property
    def written(self) -> str:
        """The fault as the soak file names it, also where it was injected by hand."""
        return self.fault.removesuffix(BY_HAND)


class EpisodeUnheard(Event, kind="episode.unheard"):
    """Processes that share a load did not say in time that they know of an episode, which was injected all the same."""

    episode: str
    loads: tuple[str, ...]
    """What these counted until they knew may lack the episode's mark."""


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


class OperatorActed(Event, kind="operator.acted", durable=True):
    """Somebody did something to the run by hand. What disturbs the system is an episode besides."""

    action: Literal["pause", "resume", "inject", "abort", "hold", "release"]
    what: str = ""
    """What it was done to: a fault, a unit, episodes."""
    seconds: float | None = None
    """Of a pause: for how long; None: until it is resumed."""
