"""Who has which job: claims of one queue, and which of them cannot be right. Pure but for the counting, and bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

DONE: Final = 100_000
"""Finished jobs that are remembered, and as many of those that wait or are held; beyond them the oldest is forgotten."""
COUNTERS: Final = ("double_claims", "orphans", "stuck")


class Told(Protocol):
    """Is told what is wrong, in words."""

    def __call__(self, what: str, detail: str, job: Job) -> None:
        """`what` is the counter it is counted under."""


@dataclass(slots=True)
class Job:
    """A job that is not finished."""

    name: str
    since: float
    """Monotonic seconds: when it was submitted; once it is claimed, when the claim was asked for."""
    worker: int = -1
    """Who has it; -1: nobody."""
    doubtful: bool = False
    """Whether it is held, or finished, is not known: whoever claims it next may be right."""
    missed: bool = False
    """It was counted as stuck or orphaned."""


class Claims:
    """The jobs of one life of a load."""

    def __init__(
        self, count: Callable[[str, float], None], tell: Told, *, lease: float | None, patience: float
    ) -> None:
        """`lease`: seconds after which a job that is held may be given to another; None: never.

        `patience`: seconds that a job may wait for its claim, or be held, before it counts as stuck or orphaned.
        """
        self._count, self._tell, self._lease, self._patience = count, tell, lease, patience
        self.waiting: OrderedDict[str, Job] = OrderedDict()
        """Submitted and not claimed, oldest first."""
        self._stuck = 0
        self.held: OrderedDict[str, Job] = OrderedDict()
        self._done: OrderedDict[str, int] = OrderedDict()
        for name in COUNTERS:
            count(name, 0)  # a threshold on what never happened needs to see that somebody looked

    @property
    def ready(self) -> int:
        """How many jobs wait, without those that are stuck."""
        return len(self.waiting) - self._stuck

    def submitted(self, name: str, now: float) -> None:
        """A job is certainly in the queue. It may have been claimed already."""
        if name not in self.held and name not in self._done:
            self.waiting[name] = Job(name, now)
            self._bound(self.waiting)

    def claimed(self, name: str, worker: int, asked: float, now: float) -> None:
        """A worker was given a job that it had asked for at `asked`, which is never after the moment it became its own."""
        self._count("claims", 1)
        if name in self._done:
            self._wrong("double_claims", f"finished by worker {self._done[name]}", Job(name, asked, worker))
            return
        before = self.held.pop(name, None)
        waited = self.waiting.pop(name, None)
        self._stuck -= waited is not None and waited.missed
        job = Job(name, asked, worker)
        if before and not before.doubtful:
            if self._lease is None or now < before.since + self._lease:
                held = f"held by worker {before.worker} since {now - before.since:.3f}s"
                self._wrong("double_claims", held, job)
            else:
                self._count("taken_over", 1)
        if (waited or before or job).missed:
            self._count("late_claims", 1)
        self.held[name] = job
        self._bound(self.held)

    def finished(self, name: str, worker: int) -> None:
        """The queue has confirmed that a worker's job is done."""
        job = self.held.get(name)
        if job and job.worker == worker:
            del self.held[name]
        self._done[name] = worker
        if len(self._done) > DONE:
            self._done.popitem(last=False)

    def doubt(self, name: str, worker: int) -> None:
        """Whether a worker's job is done is not known, and it does no more for it."""
        job = self.held.get(name)
        if job and job.worker == worker:
            job.doubtful = True

    def look(self, now: float) -> None:
        """Count what has waited or been held for too long, each once; to be called about once a second."""
        while self.held and (first := next(iter(self.held.values()))).doubtful and self._late(first, now):
            del self.held[first.name]  # done, by all we know
            self._count("undecided", 1)
        for jobs, what, how in (
            (self.waiting, "stuck", "not claimed"),
            (self.held, "orphans", "not finished"),
        ):
            for job in jobs.values():
                if not self._late(job, now):
                    break
                if not job.missed and not job.doubtful:
                    job.missed = True
                    self._stuck += jobs is self.waiting
                    self._wrong(what, f"{how} for {now - job.since:.1f}s", job)

    def _late(self, job: Job, now: float) -> bool:
        return now - job.since >= self._patience

    def _wrong(self, what: str, detail: str, job: Job) -> None:
        self._count(what, 1)
        self._tell(what, detail, job)

    def _bound(self, jobs: OrderedDict[str, Job]) -> None:
        if len(jobs) > DONE:
            _, oldest = jobs.popitem(last=False)
            self._stuck -= jobs is self.waiting and oldest.missed
            self._count("unchecked", 1)
