"""Which episodes are open now, and which were open when: the one place where operations and crashes get their marks.

A mark is `id:stage`, such as `restart-nats#7:during`. The stages follow one another: `direct` from the intent until inject returned,
`during` until undo is done, `recovering` until the episode is closed. An episode that did not recover explains nothing after its
close, since nothing is marked with it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import anyio

from supervisor.journal.events import (
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Record,
)

KEPT: Final = 1024
"""Closed episodes that are remembered: no operation is as long as so many of them."""
HEARD: Final = 1.0
"""Seconds that followers have: one that is slower counts as unexplained what it does not know of, and that is on record."""
_STAGES: Final = ("direct", "during", "recovering")
_TELLING: Final = frozenset({FaultIntent, FaultInjected, FaultFailed, FaultUndone, EpisodeClosed})
"""All others are passed over at once: `isinstance` of another class asks pydantic's metaclass, which takes longer than all else here."""

Heard = Callable[[], Coroutine[object, object, None]]
"""Returns once a follower in another process knows what the timeline does."""


@dataclass(slots=True)
class _Episode:
    intent: FaultIntent
    begins: list[float] = field(default_factory=list)
    """Monotonic start of each stage so far, never falling; a stage that was skipped has the start of the next one."""
    end: float = float("inf")

    def enter(self, stage: int, at: float) -> bool:
        """Begin a stage and those before it; False if it has begun already."""
        if len(self.begins) > stage:
            return False
        at = max(at, self.begins[-1]) if self.begins else at
        self.begins += [at] * (stage + 1 - len(self.begins))
        return True

    @property
    def mark(self) -> str:
        return f"{self.intent.episode}:{_STAGES[len(self.begins) - 1]}"

    def overlap(self, start: float, end: float) -> str | None:
        """Return the mark of the earliest stage that [start, end] overlaps."""
        for index, begin in enumerate(self.begins):
            if begin > end:
                return None
            last = self.begins[index + 1] if index + 1 < len(self.begins) else self.end
            if start < last:
                return f"{self.intent.episode}:{_STAGES[index]}"
        return None


class Timeline:
    """A fold of records. Fed live by `journal.subscribe` or by a replay; memory is bounded."""

    def __init__(self) -> None:
        self._open: dict[str, _Episode] = {}
        self._closed: deque[_Episode] = deque(maxlen=KEPT)
        self._owed: dict[str, FaultIntent] = {}
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._followers: dict[object, tuple[str, Heard]] = {}

    def apply(self, record: Record) -> None:
        """Take the next record; those that say nothing about episodes are ignored."""
        event, changed = record.event, False
        if type(event) not in _TELLING:
            return
        if isinstance(event, FaultIntent):
            self._owed[event.episode] = event
            self._open[event.episode] = episode = _Episode(event)
            changed = episode.enter(0, record.mono)
        elif isinstance(event, FaultInjected | FaultFailed):
            changed = self._enter(event.episode, 1, record.mono)
        elif isinstance(event, FaultUndone):
            self._owed.pop(event.episode, None)
            changed = self._enter(event.episode, 2, record.mono)
        elif isinstance(event, EpisodeClosed) and (closed := self._open.pop(event.episode, None)):
            closed.end = max(record.mono, closed.begins[-1])
            self._closed.append(closed)
            changed = True
        if changed:
            for callback in tuple(self._callbacks.values()):
                callback()

    def _enter(self, episode: str, stage: int, at: float) -> bool:
        return episode in self._open and self._open[episode].enter(stage, at)

    def open_episodes(self) -> tuple[str, ...]:
        """Return the ids of the episodes that are not closed, oldest first."""
        return tuple(self._open)

    def marks(self) -> tuple[str, ...]:
        """Return the marks of this moment, sorted."""
        return tuple(sorted(episode.mark for episode in self._open.values()))

    def overlapping(self, start: float, end: float) -> tuple[str, ...]:
        """Return the sorted marks of all episodes that the interval overlaps (monotonic seconds, both ends belong to it).

        A stage includes its first instant and not its last. An operation that overlaps several stages of one episode counts for
        the earliest.
        """
        marks = [mark for episode in self._open.values() if (mark := episode.overlap(start, end))]
        for episode in reversed(self._closed):  # in the order of their ends
            if episode.end < start:
                break
            if mark := episode.overlap(start, end):
                marks.append(mark)
        return tuple(sorted(marks))

    def intents(self) -> dict[str, FaultIntent]:
        """Return what has to be undone, by episode, oldest first: every intent whose undo is not done."""
        return dict(self._owed)

    def undone(self) -> dict[str, FaultIntent]:
        """Return the intents of the episodes that are undone and not closed, oldest first."""
        return {name: one.intent for name, one in self._open.items() if name not in self._owed}

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever the set of marks has changed; the return value ends that."""
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    # --- timelines of other processes ----------------------------------------------------------------------------------

    def copy(self) -> Timeline:
        """Return one that knows the same and is followed by nobody, to be fed elsewhere."""
        other = Timeline()
        other._open, other._closed = dict(self._open), self._closed.copy()
        other._owed = dict(self._owed)
        return other

    def follow(self, who: str, heard: Heard) -> Callable[[], None]:
        """Enter a follower in another process that counts for a load; the return value ends that."""
        token = object()
        self._followers[token] = who, heard

        def leave() -> None:
            self._followers.pop(token, None)

        return leave

    async def heard(self) -> tuple[str, ...]:
        """Wait, `HEARD` seconds at most, until all followers know which episodes are open: before anything is injected.

        Return the loads of those that have not said so by then.
        """
        waiting = dict(self._followers)

        async def hear(token: object, heard: Heard) -> None:
            await heard()
            del waiting[token]

        with anyio.move_on_after(HEARD):
            async with anyio.create_task_group() as group:
                for token, (_, heard) in tuple(waiting.items()):
                    group.start_soon(hear, token, heard)
        return tuple(sorted({who for who, _ in waiting.values()}))
