"""Who has which job: claims of one queue, and which of them cannot be right. Pure but for the counting, and bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from supervisor.journal.events import InvariantViolated

if TYPE_CHECKING:
    from supervisor.loads.base import LoadContext

DONE: Final = 100_000
"""Finished jobs that are remembered, and as many of those that wait or are held; beyond them the oldest is forgotten."""
COUNTERS: Final = ("double_claims", "orphans", "stuck")
TOLD: Final = 20
"""What is wrong is told so often with all its details; the rest is only counted."""


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
    token: int = 0
    """What the queue needs to take it over."""


class Done(NamedTuple):
    """A job that is finished."""

    worker: int
    since: float
    """Monotonic seconds: when the claim was asked for."""
    at: float
    """When it was known to be finished."""


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
        self._done: OrderedDict[str, Done] = OrderedDict()
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

    def claimed(self, name: str, worker: int, asked: float, now: float, token: int = 0) -> None:
        """A worker was given a job that it had asked for at `asked`, which is never after the moment it became its own."""
        self._count("claims", 1)
        if done := self._done.get(name):
            if self._lease is not None and asked < done.at and done.at >= done.since + self._lease:
                self._count("taken_over", 1)  # who had it finished it late, after it was this one's
            else:
                self._wrong("double_claims", f"finished by worker {done.worker}", Job(name, asked, worker))
            return
        before = self.held.pop(name, None)
        waited = self.waiting.pop(name, None)
        self._stuck -= waited is not None and waited.missed
        job = Job(name, asked, worker, token=token)
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

    def finished(self, name: str, worker: int, now: float) -> None:
        """The queue has confirmed that a worker's job is done."""
        job = self.held.get(name)
        if job and job.worker == worker:
            del self.held[name]
        self._done[name] = Done(worker, job.since if job else now, now)
        if len(self._done) > DONE:
            self._done.popitem(last=False)

    def doubt(self, name: str, worker: int) -> None:
        """Whether a worker's job is done is not known, and it does no more for it."""
        job = self.held.get(name)
        if job and job.worker == worker:
            job.doubtful = True

    def forget(self, name: str) -> None:
        """Somebody may have claimed a job that waits, and will never hear of it."""
        if self.waiting.pop(name, None):
            self._count("undecided", 1)

    def gone(self, had: Callable[[int], bool]) -> None:
        """Workers died that `had` knows: they may have finished what they held, and what waits, without a word."""
        for job in self.held.values():
            job.doubtful = job.doubtful or had(job.worker)
        for job in self.waiting.values():
            job.doubtful = not job.missed

    def look(self, now: float) -> None:
        """Count what has waited or been held for too long, each once; to be called about once a second."""
        for jobs, what, how in (
            (self.waiting, "stuck", "not claimed"),
            (self.held, "orphans", "not finished"),
        ):
            for job in list(takewhile(lambda job: self._late(job, now), jobs.values())):
                if job.doubtful:
                    del jobs[job.name]  # done, by all we know
                    self._count("undecided", 1)
                elif not job.missed:
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


class Wrongs:
    """Tells what is wrong with the jobs of a load."""

    def __init__(self, context: LoadContext) -> None:
        self.count = 0
        """Jobs with which something went wrong."""
        self._context = context
        self._log = context.journal.log(f"{context.name}.log")

    def tell(self, what: str, detail: str, job: Job) -> None:
        """Write it to the load's log; a double claim is a violated invariant as well."""
        self.count += 1
        if self.count > TOLD:
            return
        worker = f" by worker {job.worker}" if job.worker >= 0 else ""
        text = f"{job.name}, claimed{worker}: {detail}" if what != "stuck" else f"{job.name}: {detail}"
        self._log.write(f"{what}: {text}\n".encode())
        if what == "double_claims":
            self._context.journal.emit(
                InvariantViolated(
                    invariant="a job belongs to one worker",
                    subject=f"load {self._context.name}",
                    detail=text,
                    data={"job": job.name, "worker": job.worker},
                )
            )


def note_no_claim(context: LoadContext) -> None:
    """Count that no job was ever given as an operation that failed."""
    now, recorder = time.monotonic(), context.recorder
    recorder.scheduled()
    recorder.started()
    recorder.record(intended=now, start=now, end=now, outcome="failed", error="nothing was ever claimed")
