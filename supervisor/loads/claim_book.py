"""What the processes of a load `claim` tell each other, and the book in which it is put together: only who sees all claims sees a double one."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from supervisor.loads.base import LoadContext
from supervisor.loads.claims import Claims, Wrongs, note_no_claim

if TYPE_CHECKING:
    from supervisor.loads.claim import ClaimLoad


class Note(NamedTuple):
    """What happened to a job in one of the processes. Sorts by time."""

    at: float
    """Monotonic seconds, which all processes of a machine have alike."""
    what: Literal["submitted", "claimed", "finished", "doubted", "forgotten", "died"]
    job: str
    worker: int = 0
    """Its number; of `died` the process."""
    asked: float = 0.0
    token: int = 0


def _apply(note: Note, claims: Claims) -> None:
    """Take it in; by name, since `Shared` would tell it once more."""
    if note.what == "submitted":
        Claims.submitted(claims, note.job, note.at)
    elif note.what == "claimed":
        Claims.claimed(claims, note.job, note.worker, note.asked, note.at, note.token)
    elif note.what == "finished":
        Claims.finished(claims, note.job, note.worker, note.at)
    elif note.what == "doubted":
        Claims.doubt(claims, note.job, note.worker)
    elif note.what == "forgotten":
        Claims.forget(claims, note.job)


class Shared(Claims):
    """The jobs as one of the processes knows them, a moment late: what to claim next. It counts nothing, and tells what happens here."""

    def __init__(self, tell: Callable[[Note], None], *, lease: float | None, patience: float) -> None:
        """`tell` tells all others, and the book."""
        super().__init__(lambda *_: None, lambda *_: None, lease=lease, patience=patience)
        self._note, self._own = tell, set[str]()

    @property
    def ready(self) -> int:
        """How many of the jobs that were submitted here wait, without those that are stuck: each process keeps up its part."""
        self._own.intersection_update(self.waiting)
        return sum(not self.waiting[name].missed for name in self._own)

    def submitted(self, name: str, now: float) -> None:  # noqa: D102  # as in `Claims`
        super().submitted(name, now)
        self._own.add(name)
        self._note(Note(now, "submitted", name))

    def claimed(self, name: str, worker: int, asked: float, now: float, token: int = 0) -> None:  # noqa: D102
        super().claimed(name, worker, asked, now, token)
        self._note(Note(now, "claimed", name, worker, asked, token))

    def finished(self, name: str, worker: int, now: float) -> None:  # noqa: D102
        super().finished(name, worker, now)
        self._note(Note(now, "finished", name, worker))

    def doubt(self, name: str, worker: int) -> None:  # noqa: D102
        super().doubt(name, worker)
        self._note(Note(time.monotonic(), "doubted", name, worker))

    def forget(self, name: str) -> None:  # noqa: D102
        super().forget(name)
        self._note(Note(time.monotonic(), "forgotten", name))

    def hear(self, note: Note) -> None:
        """Take what happened in another process."""
        _apply(note, self)


class Book:
    """All claims of all processes, in the order in which they happened."""

    def __init__(self, load: ClaimLoad, context: LoadContext) -> None:
        self._context, self._processes = context, load.processes
        self._wrongs = Wrongs(context)
        self._any = self._over = False
        self._claims = Claims(self._count, self._wrongs.tell, lease=load.held_for, patience=load.patience)
        self._notes: list[Note] = []
        """What happened after the moment up to which all have told, as a heap."""
        self._upto: dict[int, float] = {}
        self._every, self._looked = min(1.0, load.patience / 5), 0.0

    def take(self, process: int, notes: Sequence[Any], upto: float) -> None:
        """Take what a process tells, and sort in what is older than all they can still tell."""
        for note in notes:
            heapq.heappush(self._notes, note)
        self._upto[process] = upto
        self._sort_in(min(self._upto.values()))

    def left(self, process: int, *, well: bool) -> None:
        """Wait for a process no longer; what one that died had, it may have finished."""
        self._upto.pop(process, None)
        if not well:
            heapq.heappush(self._notes, Note(time.monotonic(), "died", "", process))
        self._sort_in(min(self._upto.values(), default=0.0))

    def finish(self) -> bool:
        """Sort in the rest, look a last time, and say whether nothing was wrong."""
        self._sort_in(inf)
        self._claims.look(time.monotonic())
        if not self._any and not self._over:
            note_no_claim(self._context)
        self._over = True
        return not self._wrongs.count

    def _count(self, name: str, amount: float) -> None:
        self._any = self._any or name == "claims"
        self._context.recorder.count(name, amount)

    def _is_of(self, process: int, worker: int) -> bool:
        """Say whether a worker is of a process, by its number: see `claimers.Flow`."""
        return (worker - 1) % self._processes == process

    def _sort_in(self, upto: float) -> None:
        while self._notes and self._notes[0].at < upto:
            note = heapq.heappop(self._notes)
            if note.what == "died":
                self._claims.gone(partial(self._is_of, note.worker))
            else:
                _apply(note, self._claims)
        if self._looked + self._every <= upto < inf:
            self._looked = upto
            self._claims.look(upto)
