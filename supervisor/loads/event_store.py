"""The load of an event store: aggregates whose events are appended on condition that nobody else was quicker, and read back."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import anyio
from pydantic import Field, StringConstraints, model_validator

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.journal.events import LoadStopped
from supervisor.loads.base import LoadContext, may_remove
from supervisor.loads.clients import CONNECT, SEEN, open_client
from supervisor.loads.consumers import STALE, Consumers
from supervisor.loads.executor import Executor
from supervisor.loads.history import CONFLICTS, SETTLED, History
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.made import remove
from supervisor.loads.nats_load import NatsLoad, Subject
from supervisor.loads.store import ANSWERS, Store
from supervisor.supervision import nursery
from supervisor.values import Duration, Share

CLEAR: Final = 1.0
"""Seconds at the end to remove what we made."""


class EventStoreLoad(NatsLoad):
    """Events of aggregates on a stream, as an event-sourced system keeps them; each append and each reading is an operation.

    An append looks at the last event of its aggregate and sends the next one with the expectation that nothing came in between
    (`Nats-Expected-Last-Subject-Sequence`). It is ok if the store acknowledges it, or refuses it because somebody was quicker, which
    is what it should do: `conflicts` counts those apart. Refused without reason it has failed. A reading is ok if it could be done
    whole. What it shows is told by counters: `lost`, `gaps`, `forks`, `duplicates`, `reordered`, `unexpected`, and violated
    invariants. `lost` is only reported as 0 if all aggregates could be read at the end.
    """

    key: ClassVar[str] = "event_store"
    counters: ClassVar[tuple[str, ...]] = (
        *(
            "attempts",
            "conflicts",
            "ephemerals",
            "durables",
            "reads_again",
            "stale_reads",
            "lost_to_retention",
        ),
        *ANSWERS.values(),
        *SEEN.values(),
    )
    settled: ClassVar[tuple[str, ...]] = (
        *CONFLICTS,
        *SETTLED,
        "lost_in_stream",
        "lost_in_delivery",
        *STALE,
        "undecided",
    )
    shareable: ClassVar[bool] = True

    event_store: Annotated[str, StringConstraints(pattern=r"^[-\w]{1,64}$")] = Field(
        description="The stream. One that does not exist is made, and removed at the end if nothing was wrong with it."
    )
    subject: Subject | None = Field(
        None,
        description="What the subjects of all aggregates begin with, which the stream has to take with all that follows; "
        "left out: soak.<stream>.",
    )
    aggregates: int = Field(100, ge=1, le=10_000, description="How many there are at once.")
    length: int = Field(
        50, ge=1, le=10_000, description="Events of an aggregate, after which a new one takes its place."
    )
    batch: int = Field(1, ge=1, le=1000, description="Events that one append has, one after the other.")
    reads: Share = Field(
        0.3, description="Share of the operations that read back; one in ten of them an empty aggregate."
    )
    contention: Share = Field(
        0.1,
        description="Share of the appends that two writers attempt at the same time: one of them must lose.",
    )
    durable: Share = Field(
        0.1,
        description="Share of the readings by a durable consumer, whose reader stops in the middle and goes on as another.",
    )
    abandon: Share = Field(
        0.1, description="Share of the other readings that leave their consumer to the server to remove."
    )
    fetch: int = Field(100, ge=1, le=10_000, description="Messages that one fetch asks for.")
    replicas: int = Field(1, ge=1, le=5, description="Of a stream that is made.")
    storage: Literal["file", "memory"] = Field("file", description="Of a stream that is made.")
    max_age: Duration = Field(3600.0, ge=60, description="How long a stream that is made keeps an event.")
    attempt: Duration = Field(2.0, gt=0, description="How long one request may take.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch > self.length:
            raise ValueError(
                f"batch: expected at most length, {self.length}, or no append fits into an aggregate"
            )
        return self

    @property
    def prefix(self) -> str:
        """What the subjects of all aggregates begin with."""
        return self.subject or f"soak.{self.event_store}"

    async def run(self, context: LoadContext) -> None:
        """Append and read until the load is to stop, then read all of it once more."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client(context, self.client, self.connection))
            assert context.connections is not None  # noqa: S101  # `open_client` has looked
            handle = await context.connections.handle(self.connection)
            with anyio.fail_after(CONNECT):
                ours = await self._prepare(handle, context.run)
            writer = Writer(Identity.new(context.run, context.name, context.process), self.size)
            life = f"{writer.identity.epoch}-{writer.identity.writer}"
            name = f"soakd-{context.name.replace('.', '_')}-{life}-"
            consumers = Consumers(name, context.recorder.count)
            store = Store(
                client,
                writer,
                context.recorder.count,
                stream=self.event_store,
                prefix=handle.api_prefix,
                attempt=min(self.attempt, self.timeout),
                fetch=self.fetch,
                consumers=consumers,
            )
            history = History(self, context, store, writer, keeps=self.max_age if ours else 0.0)
            await store.open()
            group = await stack.enter_async_context(nursery())
            group.start_soon(store.questions.run)
            group.start_soon(_watch, consumers, handle, self.event_store)
            open_ = await Executor(self, context, history.operate).run()
            sound = await history.last_look()
            with suppress(BrokerError):
                await consumers.look(handle, self.event_store, CLEAR)
            await self._clear(handle, consumers, history.prefix if sound and not ours else None)
            if may_remove(context, sound=sound) and ours:
                await remove(context, handle, self.event_store)
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))

    async def _prepare(self, handle: Handle, run: str) -> bool:
        """Make the stream if it is missing; return whether it is ours. BrokerError if JetStream does not let us."""
        mark = f"made by soakd, run {run}"
        try:
            info = await api.call(handle, f"STREAM.INFO.{self.event_store}")
        except api.ApiError as error:
            if error.err_code != api.STREAM_NOT_FOUND:
                raise
            info = await api.call(handle, f"STREAM.CREATE.{self.event_store}", self._config(mark))
        return bool(info["config"].get("description") == mark)

    def _config(self, mark: str) -> dict[str, Any]:
        return {
            "name": self.event_store,
            "description": mark,
            "subjects": [f"{self.prefix}.>"],
            "num_replicas": self.replicas,
            "storage": self.storage,
            "max_age": int(self.max_age * 1e9),
            "duplicate_window": int(min(self.max_age, 120.0) * 1e9),
        }

    async def _clear(self, handle: Handle, consumers: Consumers, events: str | None) -> None:
        """Remove what we made, `events` being what the subjects of ours begin with, None if they are evidence.

        A broker that is away keeps it all: consumers end by themselves, events of a stream of ours too.
        """
        with anyio.move_on_after(CLEAR):
            try:
                await consumers.clear(handle, self.event_store, CLEAR)
                if events is not None:
                    await api.call(handle, f"STREAM.PURGE.{self.event_store}", {"filter": f"{events}.>"})
            except BrokerError:
                return


LOOK: Final = 5.0
"""Seconds between two looks at the consumers that should be gone."""
LIST: Final = 2.0
"""Seconds for each page of their list."""


async def _watch(consumers: Consumers, handle: Handle, stream: str) -> None:
    """Count stale consumers, for ever."""
    while True:
        await anyio.sleep(LOOK)
        try:
            await consumers.look(handle, stream, LIST)
        except BrokerError:
            continue  # nothing is said of what cannot be seen; the next look counts them
