"""The load of messages on a stream: published with acknowledgement, read by a durable consumer, and none of them may be lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

import anyio
from pydantic import Field, StringConstraints, model_validator

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.journal.events import LoadStopped
from supervisor.loads.acked import Acked
from supervisor.loads.audit import Audit
from supervisor.loads.base import LoadContext, may_remove
from supervisor.loads.clients import CONNECT, SEEN, LoadClient, open_client
from supervisor.loads.executor import TIMEOUT, Executor, Failure
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.ledger import Ledger
from supervisor.loads.losses import Losses
from supervisor.loads.made import remove
from supervisor.loads.nats_load import NatsLoad, Subject
from supervisor.loads.publishing import publish
from supervisor.loads.pull import Pull
from supervisor.loads.questions import Questions
from supervisor.supervision import nursery
from supervisor.values import Duration

RETRY: Final = 0.25
"""Seconds between two attempts of one publish."""
PATIENCE: Final = 2.0
"""Seconds at the end for what is still to be delivered."""
LAST_LOOK: Final = 2.5
"""Seconds after that to decide on what did not come, and as long once more to look at a sample of what did."""
CONSUMER_LIVES: Final = 300.0
"""Seconds after which the server removes our consumer if soakd is gone."""
LOST: Final = ("lost", "lost_in_stream", "lost_in_delivery", "lost_prefix", "lost_middle", "lost_postfix")
"""What is only known when the last look at the end was complete."""
_ACKS: Final = {"duplicates": "double_acks", "late_answers": "late_acks", "unexpected": "unexpected_acks"}


class JetStreamLoad(NatsLoad):
    """Messages on a stream, each publish an operation.

    It is ok if the stream acknowledges it within `timeout`, in as many attempts as that takes, all with the same `Nats-Msg-Id`;
    indeterminate if any attempt went unanswered, else failed. A durable pull consumer reads everything back. Counters: `attempts`;
    `lost` (acknowledged, and not delivered or not kept: `lost_in_stream` or `lost_in_delivery`), `lost_to_retention` (which is no loss),
    `duplicates` (one message at two places of the stream), `redelivered` (legal), `unexpected`, `consumers_lost`. `lost` is
    only reported as 0 if the last look at the end was complete.
    """

    key: ClassVar[str] = "jetstream"
    counters: ClassVar[tuple[str, ...]] = (
        *(
            "attempts",
            "duplicates",
            "redelivered",
            "unexpected",
            "lost_to_retention",
            "consumers_lost",
            "backward_acks",
        ),
        *_ACKS.values(),
        *SEEN.values(),
    )
    settled: ClassVar[tuple[str, ...]] = LOST
    shareable: ClassVar[bool] = True

    jetstream: Annotated[str, StringConstraints(pattern=r"^[-\w]{1,64}$")] = Field(
        description="The stream. One that does not exist is made, and removed at the end if nothing was lost."
    )
    subject: Subject | None = Field(None, description="What is published to; left out: soak.<stream>.")
    replicas: int = Field(1, ge=1, le=5, description="Of a stream that is made.")
    storage: Literal["file", "memory"] = Field("file", description="Of a stream that is made.")
    max_age: Duration = Field(3600.0, ge=60, description="How long a stream that is made keeps a message.")
    attempt: Duration = Field(2.0, gt=0, description="How long one attempt to publish may take.")
    settle: Duration = Field(
        30.0, gt=0, description="How long after its acknowledgement a message may be delivered."
    )

    @model_validator(mode="after")
    def _lives_long_enough(self) -> Self:
        if self.max_age <= self.settle:
            raise ValueError(
                "max_age: expected more than settle, or messages are gone before they are missed"
            )
        return self

    @property
    def published_to(self) -> str:
        """The subject of every message, but for what `_Place` says."""
        return self.subject or f"soak.{self.jetstream}"

    async def run(self, context: LoadContext) -> None:
        """Publish until the load is to stop, then look what became of all that was acknowledged."""
        async with AsyncExitStack() as stack:
            sender = await stack.enter_async_context(open_client(context, self.client, self.connection))
            reader = await stack.enter_async_context(
                open_client(context, self.client, self.connection, "reader")
            )
            assert context.connections is not None  # noqa: S101  # `open_client` has looked
            handle = await context.connections.handle(self.connection)
            identity = Identity.new(context.run, context.name, context.process)
            consumer = f"soakd-{context.name.replace('.', '_')}-{identity.epoch}-{identity.writer}"
            with anyio.fail_after(CONNECT):
                place = await self._prepare(handle, context, consumer)
            flow = _Flow(self, context, Writer(identity, self.size), sender, place.subject)
            audit = Audit(
                handle,
                flow.ledger,
                stream=self.jetstream,
                consumer=consumer,
                writer=flow.writer,
                remake=partial(self._remake, handle, context, consumer, place.only),
            )
            flow.suspect = audit.keeping.suspects
            flow.losses = Losses(self, context, audit, flow.ledger, prefix=flow.prefix, subject=place.subject)
            pull = Pull(
                reader, f"{handle.api_prefix}.CONSUMER.MSG.NEXT.{self.jetstream}.{consumer}", flow.take
            )
            await flow.questions.open()
            await pull.open()
            stack.push_async_callback(await audit.follow())
            group = await stack.enter_async_context(nursery())
            group.start_soon(flow.questions.run)
            group.start_soon(pull.run)
            async with nursery() as watching:  # ended before the last look, which has suspects of its own
                watching.start_soon(flow.watch, audit)
                open_ = await Executor(self, context, flow.publish).run()
            complete = await flow.last_look(audit)
            await self._clear(handle, consumer)
            if may_remove(context, sound=complete and flow.sound) and place.ours:
                await remove(context, handle, self.jetstream)
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))

    async def _prepare(self, handle: Handle, context: LoadContext, consumer: str) -> _Place:
        """Make what is missing; return where we publish. BrokerError if JetStream does not let us."""
        mark = f"made by soakd, run {context.run}"
        try:
            info = await api.call(handle, f"STREAM.INFO.{self.jetstream}")
        except api.ApiError as error:
            if error.err_code != api.STREAM_NOT_FOUND:
                raise
            info = await api.call(handle, f"STREAM.CREATE.{self.jetstream}", self._config(mark))
        subject, only = self.published_to, f"{self.published_to}.{context.process}"
        if self.processes == 1 or not any(_takes(one, only) for one in info["config"].get("subjects", ())):
            only = ""
        await self._consume(handle, consumer, only, info["state"]["last_seq"] + 1)
        return _Place(info["config"].get("description") == mark, only or subject, only)

    async def _remake(
        self, handle: Handle, context: LoadContext, consumer: str, only: str, start: int
    ) -> None:
        """Make the consumer again that the broker no longer has, though it is durable, so that what is owed can still arrive."""
        context.recorder.count("consumers_lost")
        await self._consume(handle, consumer, only, start)

    async def _consume(self, handle: Handle, consumer: str, only: str, start: int) -> None:
        config: dict[str, Any] = {
            "durable_name": consumer,
            "ack_policy": "explicit",
            "ack_wait": int(5e9),
            "max_ack_pending": 20_000,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "inactive_threshold": int(CONSUMER_LIVES * 1e9),
        }
        if only:
            config["filter_subject"] = only
        body = {"stream_name": self.jetstream, "config": config}
        await api.call(handle, f"CONSUMER.DURABLE.CREATE.{self.jetstream}.{consumer}", body)

    def _config(self, mark: str) -> dict[str, Any]:
        return {
            "name": self.jetstream,
            "description": mark,
            "subjects": [self.published_to, *([f"{self.published_to}.*"] if self.processes > 1 else [])],
            "num_replicas": self.replicas,
            "storage": self.storage,
            "max_age": int(self.max_age * 1e9),
            "duplicate_window": int(min(self.max_age, 120.0) * 1e9),
            "allow_direct": True,  # so that each replica can be asked what it holds
        }

    async def _clear(self, handle: Handle, consumer: str) -> None:
        """Remove our consumer; with a broker that is away it ends by itself."""
        with anyio.move_on_after(1), suppress(BrokerError):
            await api.call(handle, f"CONSUMER.DELETE.{self.jetstream}.{consumer}")


class _Place(NamedTuple):
    """Where one process publishes.

    Of several each has a subject of its own below the load's, where the stream takes that, and reads back nothing else. Where the
    stream is not ours and does not, all publish to the one subject, read everything, and pass over what others wrote.
    """

    ours: bool
    """The stream was made by this run."""
    subject: str
    only: str
    """What the consumer reads; empty: all."""


def _takes(pattern: str, subject: str) -> bool:
    """Say whether a stream's subject, which may have wildcards, takes a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">" and len(given) >= len(wanted):
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(
        one in {"*", other} for one, other in zip(wanted, given, strict=True)
    )


class _Flow:
    """Messages on their way through the stream."""

    losses: Losses

    def __init__(
        self, load: JetStreamLoad, context: LoadContext, writer: Writer, client: LoadClient, subject: str
    ) -> None:
        self.ledger = Ledger()
        self.writer = writer
        self._load, self._client = load, client
        self._subject, self._count = subject, context.recorder.count
        identity = writer.identity
        self._wrong = False
        self._shared = context.processes > 1
        """Others may have published where this one has not: all of them have to say what they have seen, for it to be believed."""
        self.suspect: Callable[[int], None] = lambda _: None
        """Takes a place of the stream that was given out twice."""
        self.prefix = f"{identity.run}.{identity.load}.{identity.epoch}.{identity.writer}."
        self.questions = Questions(
            client,
            min(load.attempt, load.timeout),
            lambda name, amount: context.recorder.count(_ACKS[name], amount),
        )

    async def publish(self) -> Failure | None:
        """Publish the next message, in as many attempts as its time allows."""
        payload = self.writer.next()
        n, began = self.writer.n, time.monotonic()
        deadline = began + self._load.timeout
        headers = {"Nats-Msg-Id": f"{self.prefix}{n}"}
        self.ledger.begin(n)
        acked, unsure = None, False
        try:
            while True:
                result = await self._attempt(n, payload, headers, began)
                if isinstance(result, Acked):
                    acked = result
                    return None
                unsure = unsure or result is TIMEOUT
                self.ledger.kept.disturbed()
                if time.monotonic() + RETRY >= deadline:
                    return TIMEOUT if unsure else result
                await anyio.sleep(RETRY)
        finally:
            self._end(n, acked)

    def _end(self, n: int, acked: Acked | None) -> None:
        if self.ledger.end(n, acked) or acked is None:
            return
        self._count("backward_acks", 1)
        self._wrong = True
        self.suspect(acked.sequence)

    async def _attempt(
        self, n: int, payload: bytes, headers: dict[str, str], began: float
    ) -> Acked | Failure:
        self._count("attempts", 1)
        ack = await publish(self.questions, self._subject, payload, headers)
        if isinstance(ack, Failure):
            return ack
        return Acked(n, ack.sequence, time.monotonic(), self._client.server, began, ack.stream, ack.duplicate)

    def take(self, payload: bytes, sequence: int, again: bool) -> None:
        """Take a message that was delivered."""
        n = self.writer.read(payload)
        if n is None:
            return
        what = self.ledger.delivered(n, sequence, self.writer.n, again=again)
        if what != "first":
            self._count(what, 1)
            self._wrong = self._wrong or what in ("duplicates", "unexpected")

    @property
    def sound(self) -> bool:
        """Whether nothing was ever wrong with the stream."""
        return not self._wrong and not self.losses.count

    async def watch(self, audit: Audit) -> None:
        """Look once a second what became of messages that should have been delivered by now, for ever."""
        settled = 0
        while True:
            await anyio.sleep(1)
            self.ledger.settle(settled)
            settled = self.writer.n - self._load.in_flight
            try:
                await self.losses.tell(await audit.look(self._load.settle, self.prefix))
                if audit.keeping.suspicious:
                    await self.losses.tell(await audit.compare())
            except BrokerError:
                continue  # nothing is decided on silence; the last look says so if it stays

    async def last_look(self, audit: Audit) -> bool:
        """Wait for what is still to come and decide on the rest; False if that could not be done for all."""
        with anyio.move_on_after(PATIENCE):
            while self.ledger.owed:  # noqa: ASYNC110  # messages come one by one
                await anyio.sleep(0.02)
        looked = False
        with suppress(BrokerError):
            with anyio.move_on_after(LAST_LOOK):
                await self.losses.tell(await audit.look(0, self.prefix))
                while self.ledger.owed or audit.keeping.doubtful:
                    await anyio.sleep(0.1)  # a loss is seen twice before it is one
                    await self.losses.tell(await audit.look(0, self.prefix))
            with anyio.move_on_after(LAST_LOOK):
                await self.losses.tell(await audit.compare())
                looked = not audit.keeping.doubtful
        undecided = len(self.ledger.owed) + self.ledger.unchecked + (0 if looked else len(self.ledger.kept))
        self._count("undecided", undecided)
        if (self.ledger.acknowledged or self._shared) and not undecided:
            for name in LOST:
                self._count(name, 0)
        return not undecided
