"""The workers of a load `claim`: they claim jobs, work on them and finish them, and what is wrong with their queue is told."""

from __future__ import annotations

import heapq
import random
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from supervisor.loads.base import LoadContext
from supervisor.loads.claim_book import Shared
from supervisor.loads.claims import Claims, Wrongs, note_no_claim
from supervisor.loads.executor import Failure
from supervisor.loads.queues import Queue

if TYPE_CHECKING:
    from supervisor.loads.claim import ClaimLoad

OFFERED: Final = 16
"""Waiting jobs that a worker is told of."""
AT_ONCE: Final = 64
"""Jobs that are submitted at the same time."""
PAUSE: Final = 0.02
"""Seconds before the supply is looked at again."""
RETRY: Final = 0.25
"""Seconds between two attempts to finish a job."""
HELD: Final = 20_000
"""Jobs that are worked on at the same time."""
PATIENCE: Final = 3.0
"""Seconds at the end for jobs that are worked on."""


class Flow:
    """Workers, and the jobs they have."""

    queue: Queue
    group: TaskGroup

    def __init__(self, load: ClaimLoad, context: LoadContext) -> None:
        self._load, self._context = load, context
        self.count = context.recorder.count
        self._wrongs = None if context.exchange else Wrongs(context)
        """None: the book of all processes tells what is wrong."""
        self._claims = self._claims_of(load, context)
        self._backlog = load.share(load.backlog, context)
        self._idle: list[int] = []
        self._workers = 0
        self._at_work = 0
        self._busy: dict[int, anyio.Event] = {}
        """By the task of a worker of a closed loop: set when it has finished the job that it has."""
        self._workers_had_any = False
        self._supplied = anyio.Event()
        draws = f"{context.seed}/{context.name}/abandon/{context.process}"
        self._chance = random.Random(draws)  # noqa: S311  # draws are to be repeatable

    def _claims_of(self, load: ClaimLoad, context: LoadContext) -> Claims:
        if self._wrongs is not None:
            return Claims(self.count, self._wrongs.tell, lease=load.held_for, patience=load.patience)
        assert context.exchange is not None  # noqa: S101  # then there are no wrongs here
        shared = Shared(context.exchange.tell, lease=load.held_for, patience=load.patience)
        context.exchange.hear(shared.hear)
        return shared

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong, as far as can be told here."""
        return not (self._wrongs and self._wrongs.count)

    # --- workers -------------------------------------------------------------------------------------------------------

    async def operate(self) -> Failure | None:
        """Let an idle worker claim a job; it works on it after that, and the operation has ended."""
        worker = self._wake()
        answer = await self.queue.claim(worker, list(islice(self._claims.waiting, OFFERED)))
        if isinstance(answer, Failure):
            heapq.heappush(self._idle, worker)
            if answer.outcome == "ok":
                self.count("empty", 1)
            return answer
        self._workers_had_any = True
        token = answer.token if isinstance(answer.token, int) else 0
        self._claims.claimed(answer.job, worker, answer.asked, time.monotonic(), token)
        if self._chance.random() < self._load.abandon or self._at_work >= HELD:
            self.count("abandoned", 1)
            heapq.heappush(self._idle, worker)
            return None
        self._at_work += 1
        done = anyio.Event()
        if self._load.workers:  # in an open loop nobody would take it out again
            self._busy[anyio.get_current_task().id] = done
        self.group.start_soon(self._work, answer.job, worker, answer.token, done)
        return None

    async def rest(self) -> None:
        """Wait, in a closed loop, until who has just claimed a job has finished it: only then it claims the next one."""
        if done := self._busy.pop(anyio.get_current_task().id, None):
            await done.wait()

    def _wake(self) -> int:
        """Return the first worker that has nothing to do; of several processes each has every so many-th number."""
        if self._idle:
            return heapq.heappop(self._idle)
        self._workers += 1
        return (self._workers - 1) * self._context.processes + self._context.process + 1

    async def _work(self, job: str, worker: int, token: Any, ended: anyio.Event) -> None:
        if self._load.work:
            await anyio.sleep(self._load.work)
        done = await self._finish(job, worker, token)
        if done:
            self._claims.finished(job, worker, time.monotonic())
        else:
            self.count("unconfirmed", 1)
            if done is None:
                self._claims.doubt(job, worker)
        heapq.heappush(self._idle, worker)
        self._at_work -= 1
        ended.set()

    async def _finish(self, job: str, worker: int, token: Any) -> bool | None:
        """Finish a job, as often as its lease allows; False if the queue refused it, None if nobody knows."""
        until, sure = time.monotonic() + (self._load.held_for or self._load.patience), True
        while time.monotonic() < until:
            done = await self.queue.finish(job, worker, token)
            if done is not None:
                return done or (False if sure else None)
            sure = False
            await anyio.sleep(RETRY)
        return None

    # --- the queue -----------------------------------------------------------------------------------------------------

    async def supply(self) -> None:
        """Keep so many jobs waiting, for ever."""
        while True:
            missing = self._backlog - self._claims.ready
            if missing <= 0:
                self._supplied.set()
                await anyio.sleep(PAUSE)
                continue
            failed = False

            async def submit() -> None:
                nonlocal failed
                job = await self.queue.supply()
                if job is None:
                    self.count("not_submitted", 1)
                    failed = True
                else:
                    self._claims.submitted(job, time.monotonic())

            async with anyio.create_task_group() as group:
                for _ in range(min(missing, AT_ONCE)):
                    group.start_soon(submit)
            await anyio.sleep(RETRY if failed else 0)

    async def wait_supplied(self) -> None:
        """Wait until there is something to claim: before that, a burst would meet an empty queue."""
        with anyio.move_on_after(PATIENCE):
            await self._supplied.wait()

    def expired(self) -> tuple[str, int] | None:
        """Name a job whose holder's time is over, each time another, and its token."""
        lease = self._load.held_for
        if lease is None or not self._claims.held:
            return None
        name, job = next(iter(self._claims.held.items()))
        if time.monotonic() < job.since + lease:
            return None
        self._claims.held.move_to_end(name)
        return name, job.token

    def doubt(self, job: str) -> None:
        """Offer a job no more that somebody may have claimed who will never hear of it."""
        self._claims.forget(job)

    # --- what is wrong -------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look once a second for jobs that are stuck or orphaned, for ever."""
        while True:
            await anyio.sleep(min(1.0, self._load.patience / 5))
            self._claims.look(time.monotonic())

    async def finish_all(self) -> None:
        """Wait for the jobs that are worked on, and look a last time."""
        with anyio.move_on_after(PATIENCE):
            while self._at_work:  # noqa: ASYNC110  # they end one by one
                await anyio.sleep(0.02)
        self._claims.look(time.monotonic())
        if not self._workers_had_any and not self._context.exchange:
            note_no_claim(self._context)
