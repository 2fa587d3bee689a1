"""The load of workers that claim jobs from one queue, each of which must go to one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, ClassVar, Self

import anyio
from pydantic import Field, StringConstraints, model_validator

from supervisor.journal.events import LoadStopped
from supervisor.kinds import Strict
from supervisor.loads.base import LoadContext, may_remove
from supervisor.loads.claim_book import Book
from supervisor.loads.claimers import Flow
from supervisor.loads.claims import COUNTERS
from supervisor.loads.clients import CONNECT, SEEN, open_client
from supervisor.loads.endpoint import Endpoint, HttpQueue
from supervisor.loads.executor import Executor
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.made import bucket, make, remove
from supervisor.loads.nats_load import NatsLoad
from supervisor.loads.publishing import subject_prefix
from supervisor.loads.questions import Questions
from supervisor.loads.queues import BucketQueue, Queue, StreamQueue, make_consumer
from supervisor.loads.web import HttpRequest, Status, open_browser
from supervisor.supervision import nursery
from supervisor.values import Duration, Share

_Name = Annotated[str, StringConstraints(pattern=r"^[-\w]{1,64}$")]


class HttpEndpoint(HttpRequest):
    """An endpoint that hands out jobs: the request that claims one, and the others."""

    job: str = Field("id", min_length=1, description="The path of the job's name in the answer to a claim.")
    empty: tuple[Status, ...] = Field((204, 404), description="Statuses that say that there is no job.")
    finish: HttpRequest | None = Field(
        None, description="What finishes `{job}`; left out: a claim is the end of it."
    )
    submit: HttpRequest | None = Field(
        None, description="What submits `{job}`; left out: the system has jobs itself."
    )
    submitted: str | None = Field(
        None, description="The path of the job's name in the answer to `submit`, if it is not `{job}`."
    )

    @model_validator(mode="after")
    def _knows_what_it_says(self) -> Self:
        if self.has("job"):
            raise ValueError(
                "{job} is not known before the system has given one: expected it in submit or finish, and here {worker}"
            )
        if self.submit and self.submit.has("worker"):
            raise ValueError(
                "submit: {worker} is not known before a job is claimed: expected {job}, or nothing"
            )
        return self


class ClaimFrom(Strict):
    """What is claimed from: one of stream, bucket or http."""

    stream: _Name | None = Field(None, description="A work queue stream, made by the load.")
    bucket: _Name | None = Field(
        None, description="A key-value bucket, made by the load, in which a claim creates a key."
    )
    http: HttpEndpoint | None = Field(None, description="An endpoint of the system's that hands out jobs.")
    replicas: int = Field(1, ge=1, le=5, description="Of a stream or bucket.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("stream", "bucket", "http") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of stream, bucket or http, found {' and '.join(given) or 'none'}")
        return self


class ClaimLoad(NatsLoad):
    """Workers that claim jobs from one queue, each claim an operation.

    It is ok if the queue gives a job, or says that there is none (`empty`). A job is worked on for `work` and then finished;
    a worker of a closed loop (`workers`) claims the next one after that.
    Counters: `claims`, `empty`, `contended`; `double_claims` (given to one though another has it or has finished it), `orphans`
    (claimed, and for `patience` neither finished nor given to another), `stuck` (submitted, and not claimed for `patience`),
    `taken_over`, `late_claims`, `unconfirmed`, `abandoned`.
    """

    key: ClassVar[str] = "claim"
    shareable: ClassVar[bool] = True
    counters: ClassVar[tuple[str, ...]] = (
        *COUNTERS,
        *("claims", "taken_over", "late_claims", "abandoned", "contended", "empty"),
        *("not_submitted", "unconfirmed", "unchecked", "undecided"),
        *SEEN.values(),
    )

    claim: ClaimFrom = Field(description="What is claimed from.")
    work: Duration = Field(0.0, description="How long a worker works on a job before it finishes it.")
    lease: Duration | None = Field(
        None,
        gt=0,
        description="How long a job belongs to who claimed it; then another may have it. Left out: 10s; of an endpoint, for ever.",
    )
    patience: Duration = Field(
        30.0,
        gt=0,
        description="How long a job may wait for its claim, or be held, before it is stuck or orphaned.",
    )
    jobs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="How many jobs wait to be claimed; left out: 100, or twice as many as claim at once.",
    )
    abandon: Share = Field(
        0.0, description="The share of jobs that are claimed and never finished, as by a worker that died."
    )

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.held_for is not None and self.work >= self.held_for:
            raise ValueError("work: expected less than lease, or a job is another's before it is finished")
        if self.held_for is not None and self.patience <= self.held_for:
            raise ValueError(
                "patience: expected more than lease, after which an abandoned job is given out again"
            )
        if self.abandon and self.held_for is None:
            raise ValueError(
                "abandon: say by lease after how long the system gives an abandoned job to another"
            )
        return self

    def book(self, context: LoadContext) -> Book:
        """Return what sees the claims of all processes."""
        return Book(self, context)

    @property
    def on_nats(self) -> bool:
        """Whether it needs the broker."""
        return self.claim.http is None

    @property
    def held_for(self) -> float | None:
        """Seconds that a job belongs to who claimed it; None: for ever."""
        return self.lease if self.lease is not None or not self.on_nats else 10.0

    @property
    def backlog(self) -> int:
        """How many jobs wait to be claimed."""
        at_once = max((stage.workers for stage in self.crew()), default=self.burst.size if self.burst else 0)
        return self.jobs or max(100, 2 * at_once)

    async def run(self, context: LoadContext) -> None:
        """Claim until the load is to stop, then finish what is worked on."""
        async with AsyncExitStack() as stack:
            flow = Flow(self, context)
            flow.queue = await stack.enter_async_context(self._open(context, flow))
            flow.group = group = await stack.enter_async_context(nursery())
            group.start_soon(flow.look)
            if flow.queue.supplies:
                group.start_soon(flow.supply)
                await flow.wait_supplied()
            open_ = await Executor(self, context, flow.operate, flow.rest if self.workers else None).run()
            await flow.finish_all()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))

    @asynccontextmanager
    async def _open(self, context: LoadContext, flow: Flow) -> AsyncGenerator[Queue]:
        """Open the queue; what is made for it is removed again unless a job was claimed twice, stuck or orphaned."""
        identity = Identity.new(context.run, context.name, context.process)
        shared = context.exchange is not None
        whose = f"{identity.writer + 1}-{identity.epoch}-" if shared else ""

        def job(n: int) -> str:
            return f"job-{whose}{n}"

        if self.claim.http is not None:
            async with open_browser() as browser:
                prefix = f"{identity.run}-{identity.load}-{whose or f'{identity.epoch}-'}"
                yield HttpQueue(browser, _endpoint(self.claim.http), prefix=prefix, timeout=self.timeout)
            return
        async with open_client(context, self.client, self.connection) as client, nursery() as group:
            assert context.connections is not None  # noqa: S101  # `open_client` has looked
            handle = await context.connections.handle(self.connection)
            await handle.wait_connected(CONNECT)
            questions = Questions(client, self.timeout, lambda *_: None)
            await questions.open()
            group.start_soon(questions.run)
            lease = self.held_for or 0.0
            if self.claim.stream is not None:
                name, subject = self.claim.stream, f"soak.{self.claim.stream}"
                with anyio.fail_after(CONNECT):
                    await make(handle, context.run, self._stream(subject))
                    await make_consumer(handle, name, "workers", lease)
                pull = f"{handle.api_prefix}.CONSUMER.MSG.NEXT.{name}.workers"
                yield StreamQueue(
                    client,
                    questions,
                    Writer(identity, self.size),
                    subject=subject,
                    pull=pull,
                    timeout=self.timeout,
                    lease=lease,
                    name=job,
                )
            else:
                name = f"KV_{self.claim.bucket}"
                config = bucket(
                    str(self.claim.bucket),
                    replicas=self.claim.replicas,
                    max_age=max(600.0, 10 * self.patience),
                )
                with anyio.fail_after(CONNECT):
                    await make(handle, context.run, config)
                epoch = context.exchange.epoch if context.exchange else identity.epoch
                yield BucketQueue(
                    questions,
                    flow.count,
                    prefix=f"{subject_prefix(handle)}$KV.{self.claim.bucket}.{epoch}.",
                    name=job,
                    expired=flow.expired,
                    doubt=flow.doubt,
                )
            if may_remove(context, sound=flow.sound):
                await remove(context, handle, name)

    def _stream(self, subject: str) -> dict[str, Any]:
        return {
            "name": self.claim.stream,
            "subjects": [subject],
            "retention": "workqueue",
            "num_replicas": self.claim.replicas,
            "max_age": int(3600e9),
        }


def _endpoint(http: HttpEndpoint) -> Endpoint:
    return Endpoint(http, http.job, http.empty, http.finish, http.submit, http.submitted)
