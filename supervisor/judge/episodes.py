"""Episodes as the journal tells them: how each went, and which failures and crashes it explains.

What overlapped an episode counts for it, in the earliest stage that was touched: direct (inject in progress), during (until undo
is done), recovering (until the close). The marks are in the records, set when the operation or the crash happened; an episode
that closed without recovery marks nothing after that, so nothing later is explained by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    EpisodeUnheard,
    Event,
    Evidence,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    LoadWindow,
    Reading,
    Slice,
    UndoFailed,
)
from supervisor.judge.counting import Moment, Some, slot
from supervisor.judge.damage import STAGES, Damage, Stage
from supervisor.judge.episode import Episode, FaultTotals, fault_of, readings_of, split_mark

_TELLING: Final = frozenset(
    {
        FaultIntent,
        DrawSkipped,
        FaultInjected,
        FaultFailed,
        FaultUndone,
        UndoFailed,
        EpisodeClosed,
        EpisodeUnheard,
        Evidence,
    }
)
"""What `apply` takes; everything else is passed over at once, see `tally`."""
LISTED: Final = 1000
"""Episodes that are kept one by one; the totals of their fault hold whatever is more. Good ones are forgotten first."""


class _Touched(NamedTuple):
    """What marks stand for."""

    marks: tuple[str, ...]
    stages: Sequence[Stage] = ()
    """What counts something with these marks, each once, in its earliest stage."""
    episodes: Sequence[tuple[Episode, str]] = ()


@dataclass(slots=True)
class Episodes:
    """The fold of all records that concern episodes."""

    faults: dict[str, FaultTotals] = field(default_factory=dict)
    kinds: dict[str, Damage] = field(default_factory=dict)
    """What overlapped episodes of any fault of a kind, each operation once."""
    _kept: dict[str, Episode] = field(default_factory=dict)
    _open: dict[str, None] = field(default_factory=dict)
    """Ids of the episodes that are not closed, in the order of their beginning."""
    _before: dict[str, list[tuple[str, Reading]]] = field(default_factory=dict)
    """What was seen before episodes whose intent is still to come, the latest few."""
    _touched: _Touched = field(default_factory=lambda: _Touched(()))
    """What the last marks stand for: several windows in a row have the same."""

    def apply(self, event: Event, moment: Moment) -> None:
        """Take one event that is no window; what does not concern episodes is ignored."""
        if type(event) not in _TELLING:
            return
        match event:
            case FaultIntent():
                self._begin(event, moment)
            case DrawSkipped():
                self.fault(event.fault).skipped.add(event.reason)
            case (
                EpisodeUnheard()
                | FaultInjected()
                | FaultFailed()
                | FaultUndone()
                | UndoFailed()
                | EpisodeClosed()
                | Evidence()
            ):
                if episode := self._kept.get(event.episode):
                    self._proceed(episode, event, moment)
                elif isinstance(event, Evidence):
                    self._foresee(event)
            case _:
                pass

    def window(self, window: LoadWindow) -> None:
        """Take what a load did."""
        for piece in window.slices:
            if piece.episodes:
                self._overlap(piece)

    def crashed(self, unit: str, marks: Iterable[str]) -> None:
        """Count a crash for the episodes that were open when it happened."""
        for stage in self._stand_for(tuple(marks)).stages:
            stage.crashed(unit)

    def fault(self, name: str) -> FaultTotals:
        """Return the totals of a fault."""
        if name not in self.faults:
            self.faults[name] = FaultTotals(name)
        return self.faults[name]

    def open(self) -> tuple[str, ...]:
        """Ids of the episodes that are not closed (so far)."""
        return tuple(self._open)

    def listed(self) -> tuple[Episode, ...]:
        """The episodes that were kept one by one, in the order of their beginning."""
        return tuple(self._kept.values())

    @property
    def count(self) -> int:
        """All of them."""
        return sum(fault.episodes for fault in self.faults.values())

    def _begin(self, intent: FaultIntent, moment: Moment) -> None:
        targets = tuple(target.unit for target in intent.targets)
        episode = Episode(intent.episode, intent.fault, intent.type, intent.n, targets, moment)
        episode.evidence += self._before.pop(intent.episode, [])
        self._kept[intent.episode] = episode
        self._open[intent.episode] = None
        self._touched = _Touched(())
        fault = self.fault(intent.fault)
        fault.type = intent.type
        fault.episodes += 1

    def _proceed(self, episode: Episode, event: Event, moment: Moment) -> None:
        fault = self.fault(episode.fault)
        match event:
            case EpisodeUnheard():
                for load in event.loads:
                    fault.unheard.setdefault(load, Some()).add(episode.id)
            case FaultInjected():
                episode.injected = moment
                fault.injected += 1
            case FaultFailed():
                episode.inject_error = event.error
                fault.inject_failed.add(f"{episode.id}: {event.error}")
            case FaultUndone():
                episode.undone = moment
            case UndoFailed():
                if not episode.undo_errors:
                    fault.undo_failed.add(f"{episode.id}: {event.broken or event.error}")
                episode.undo_errors += 1
                episode.broken = event.broken or event.error
            case EpisodeClosed() if episode.closed is None:
                self._close(episode, fault, event, moment)
            case Evidence():
                episode.evidence += readings_of(event)
            case _:
                pass

    def _foresee(self, event: Evidence) -> None:
        if len(self._before) >= LISTED:
            del self._before[next(iter(self._before))]
        self._before.setdefault(event.episode, []).extend(readings_of(event))

    def _close(self, episode: Episode, fault: FaultTotals, event: EpisodeClosed, moment: Moment) -> None:
        self._open.pop(episode.id, None)
        self._touched = _Touched(())
        episode.closed, episode.recovered, episode.recovery = moment, event.recovered, event.recovery
        episode.truncated, episode.failing, episode.unmet = event.truncated, event.failing, event.unmet
        if event.unmet:
            fault.unmet.add(f"{episode.id}: {', '.join(event.unmet)}")
        if event.truncated:
            fault.truncated.add(f"{episode.id}: {event.truncated}")
        if event.recovered is None:
            fault.unseen += 1
        elif event.recovered:
            fault.recovered += 1
            fault.recovery.record(event.recovery or 0.0)
        else:
            fault.not_recovered.add(episode.id)
        if len(self._kept) > LISTED:
            del self._kept[next((e.id for e in self._kept.values() if e.good), episode.id)]

    def _overlap(self, piece: Slice) -> None:
        touched = self._stand_for(piece.episodes)
        for stage in touched.stages:
            stage.overlap(piece)
        for episode, when in touched.episodes:
            if piece.first_failure is not None:
                episode.first_failure = _earlier(episode.first_failure, piece.first_failure)
            if when == "recovering" and piece.first_ok is not None:
                episode.first_ok = _earlier(episode.first_ok, piece.first_ok)

    def _stand_for(self, marks: tuple[str, ...]) -> _Touched:
        if marks != self._touched.marks:
            episodes = [
                (episode, stage)
                for name, stage in map(split_mark, marks)
                if (episode := self._kept.get(name))
            ]
            stages = [damage.at(stage) for damage, stage in self._damages(marks)]
            self._touched = _Touched(marks, stages, episodes)
        return self._touched

    def _damages(self, marks: Iterable[str]) -> Iterator[tuple[Damage, str]]:
        """Yield what counts something with these marks, each once and in its earliest stage."""
        faults: dict[str, str] = {}
        kinds: dict[str, str] = {}
        for mark in marks:
            name, stage = split_mark(mark)
            if episode := self._kept.get(name):
                yield episode.damage, stage
            fault = fault_of(name)
            faults[fault] = _first(stage, faults.get(fault))
            kind = self.fault(fault).type
            kinds[kind] = _first(stage, kinds.get(kind))
        for fault, stage in sorted(faults.items()):
            yield self.fault(fault).damage, stage
        for kind, stage in sorted(kinds.items()):
            key = slot(self.kinds, kind)
            if key not in self.kinds:
                self.kinds[key] = Damage()
            yield self.kinds[key], stage


def _first(stage: str, other: str | None) -> str:
    order = [*STAGES, stage, other]
    return stage if other is None or order.index(stage) < order.index(other) else other


def _earlier(one: float | None, other: float) -> float:
    return other if one is None or other < one else one
