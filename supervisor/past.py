"""What the journal of a dead run says of what it has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.faults.registry import FAULTS
from supervisor.journal.events import (
    Cause,
    FaultIntent,
    RunEnded,
    RunStarted,
    UnitExited,
)
from supervisor.journal.replay import ReplayError, replay
from supervisor.journal.timeline import Timeline


class CannotRecover(Exception):  # noqa: N818  # what happened is in the name
    """A run could not be healed, or not all of it; the text says why and what to do."""

    def __init__(self, text: str, done: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.done = tuple(done)
        """What was done all the same, in words."""


class NoBeginning(CannotRecover):
    """A directory has no journal that says what was started there."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the journal of a dead run says."""

    started: RunStarted
    ended: bool
    open: Mapping[str, FaultIntent]
    """Episodes that are to be undone, those included that are undone and may have an effect all the same (`Fault.lingers`)."""
    undone: tuple[str, ...]
    """Other episodes that are undone and not closed."""
    causes: Mapping[str, Cause]
    """Why the last life of each unit ended that has ended, by its incarnation."""


def read_past(directory: Path) -> Past:
    """Read a run's journal; NoBeginning if the directory is no run."""
    timeline, started, ended, exits = Timeline(), None, False, dict[str, UnitExited]()
    try:
        for record in replay(directory):
            timeline.apply(record)
            if isinstance(record.event, RunStarted):
                started = record.event
            elif isinstance(record.event, RunEnded):
                ended = True
            elif isinstance(record.event, UnitExited):
                exits[record.event.unit] = record.event
    except (ReplayError, OSError) as error:
        raise NoBeginning(str(error)) from error
    if started is None:
        raise NoBeginning(
            f"cannot recover {directory}: its journal does not say that a run was started there"
        )
    undone = timeline.undone()
    lingering = {name: one for name, one in undone.items() if _lingers(one)}
    rest = tuple(name for name in undone if name not in lingering)
    causes = {gone.incarnation: gone.cause for gone in exits.values()}
    return Past(started, ended, timeline.intents() | lingering, rest, causes)


def _lingers(intent: FaultIntent) -> bool:
    kind = FAULTS.kinds.get(intent.type)  # those of others are not known here
    return kind is not None and kind.lingers
