"""The load of events: published on core NATS, and expected to arrive once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from typing import ClassVar, Final

import anyio
from nats.aio.msg import Msg
from pydantic import Field

from supervisor.journal.events import LoadStopped
from supervisor.loads.base import LoadContext
from supervisor.loads.clients import SEEN, LoadClient, NotSentError, open_client
from supervisor.loads.deliveries import COUNTERS, SETTLED, Deliveries
from supervisor.loads.executor import Executor, Failure
from supervisor.loads.identity import Identity, Writer
from supervisor.loads.nats_load import NatsLoad, Subject
from supervisor.supervision import nursery
from supervisor.values import Duration

NOT_DELIVERED: Final = Failure("not delivered")
"""Core NATS delivers once or never: there is nobody who could still have it."""
HEARD: Final = 5.0
"""Seconds that the first event may take to come through; after that what does not arrive is lost."""
PATIENCE: Final = 3.0
"""Seconds at the end for what is still on its way."""
_SWEEPS: Final = 50

_Waiting = tuple[int, float, asyncio.Future[bool]]
"""An event on its way: its number, the monotonic seconds when its time is up, and whether it arrived."""


class EventsLoad(NatsLoad):
    """Events on core NATS, each an operation.

    It is ok if it arrives within `timeout`, on a connection of its own; otherwise failed. Counters: `lost` (it had not arrived after
    `settle` though later ones had, or at the end; also as `lost_prefix`, `lost_middle`, `lost_postfix`), `duplicates`, `reordered`,
    `late_arrivals` (after it counted as lost), `unexpected` (never published). Where the client is replaced both receive for a while:
    what comes twice then is `received_twice`. The old one may still send, or hand over, what it had kept: what later events arrive before then is `overtaken`.
    """

    key: ClassVar[str] = "events"
    counters: ClassVar[tuple[str, ...]] = (
        *COUNTERS,
        "received_twice",
        "overtaken",
        "foreign",
        *SEEN.values(),
    )
    settled: ClassVar[tuple[str, ...]] = SETTLED
    shareable: ClassVar[bool] = True

    events: Subject = Field(description="The subject that events are published to.")
    receive: Subject | None = Field(
        None, description="The subject that they arrive on, if the system passes them on; left out: the same."
    )
    settle: Duration = Field(
        10.0, gt=0, description="How long an event may be overtaken by others before it counts as lost."
    )

    async def run(self, context: LoadContext) -> None:
        """Publish until the load is to stop, then wait for what is on its way."""
        async with AsyncExitStack() as stack:
            sender = await stack.enter_async_context(open_client(context, self.client, self.connection))
            receiver = await stack.enter_async_context(
                open_client(context, self.client, self.connection, "receiver")
            )
            writer = Writer(Identity.new(context.run, context.name, context.process), self.size)
            flow = _Flow(self, context, writer, sender, receiver)
            await receiver.subscribe(self.receive or self.events, flow.received)
            group = await stack.enter_async_context(nursery())
            group.start_soon(flow.run)
            await flow.wait_heard()
            open_ = await Executor(self, context, flow.publish).run()
            await flow.run_dry()
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=open_))


class _Flow:
    """Events on their way."""

    def __init__(
        self, load: EventsLoad, context: LoadContext, writer: Writer, sender: LoadClient, receiver: LoadClient
    ) -> None:
        self._load, self._writer, self._sender, self._receiver = load, writer, sender, receiver
        self._recorder, self._loop = context.recorder, asyncio.get_running_loop()
        self._deliveries = Deliveries(load.settle, self._count)
        self._heard = anyio.Event()
        self._open: OrderedDict[bytes, _Waiting] = OrderedDict()
        """Oldest first; by the whole message, as nearly all come back: those need no reading."""

    def _count(self, name: str, amount: float) -> None:
        if name == "duplicates" and not self._receiver.settled:
            name = "received_twice"
        elif name == "reordered" and not (self._sender.settled and self._receiver.settled):
            name = "overtaken"
        self._recorder.count(name, amount)

    async def publish(self) -> Failure | None:
        """Publish the next event and wait until it arrives."""
        payload = self._writer.next()
        n = self._writer.n
        arrived: asyncio.Future[bool] = self._loop.create_future()
        self._open[payload] = n, time.monotonic() + self._load.timeout, arrived
        try:
            await self._sender.publish(self._load.events, payload)
        except NotSentError as error:
            self._open.pop(payload, None)
            self._writer.take_back(n)
            return Failure(f"not sent: {error}")
        return None if await arrived else NOT_DELIVERED

    def received(self, msg: Msg) -> None:
        """Take what arrives on the receiver's subject."""
        waiting = self._open.pop(msg.data, None)
        n = waiting[0] if waiting else self._writer.read(msg.data)
        if n is None:
            if not self._writer.ours(msg.data):
                self._count("foreign", 1)
        elif n == 0:
            self._heard.set()
        else:
            waiting = waiting or self._open.pop(self._writer.message(n), None)
            if waiting and not waiting[2].done():
                waiting[2].set_result(True)
            self._deliveries.arrived(n, self._writer.n)

    async def wait_heard(self) -> None:
        """Wait until the servers, and the system in between, know of our subscription: in a cluster that takes a moment."""
        with anyio.move_on_after(HEARD):
            while not self._heard.is_set():
                with contextlib.suppress(NotSentError):
                    await self._sender.publish(self._load.events, self._writer.message(0))
                with anyio.move_on_after(0.05):
                    await self._heard.wait()

    async def run_dry(self) -> None:
        """Wait for what is still on its way, and give up the rest."""
        with anyio.move_on_after(PATIENCE):
            while not self._deliveries.complete(self._writer.n):  # noqa: ASYNC110  # messages come one by one
                await anyio.sleep(0.02)
        self._deliveries.finish(self._writer.n)

    async def run(self) -> None:
        """End operations whose time is up, and give up what is lost, for ever."""
        step = min(self._load.timeout / _SWEEPS, 0.5)
        second = time.monotonic()
        while True:
            await anyio.sleep(step)
            now = time.monotonic()
            while self._open and next(iter(self._open.values()))[1] <= now:
                _, (_, _, arrived) = self._open.popitem(last=False)
                if not arrived.done():
                    arrived.set_result(False)
            if now >= second:
                second = now + 1
                self._deliveries.tick(self._writer.n)
