"""A load against a real nats-server, and what it counted."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats
from load_bench import Bench, NatsServer, until
from nats.aio.client import Client
from nats.aio.msg import Msg

from supervisor.engines.spawn import stopped
from supervisor.histogram import Histogram
from supervisor.journal.events import InvariantViolated, LoadStopped, LoadWindow
from supervisor.loads.base import Load, LoadContext


@dataclass
class NatsBench:
    """Runs one load at a time, and looks at what it reported."""

    bench: Bench
    server: NatsServer

    @asynccontextmanager
    async def running(self, load: Load) -> AsyncIterator[LoadContext]:
        """Run a load, and stop it on the way out."""
        async with self.bench.under(load) as context:
            yield context

    async def until_ok(self, context: LoadContext, count: int = 1) -> None:
        """Wait until so many operations were ok."""
        await self.bench.until_counted(context, "ok", count)

    @property
    def counts(self) -> dict[str, float]:
        return self.bench.counts

    @property
    def windows(self) -> list[LoadWindow]:
        return self.bench.windows

    @property
    def violations(self) -> list[InvariantViolated]:
        return [event for event in self.bench.events if isinstance(event, InvariantViolated)]

    @property
    def cut_off(self) -> int:
        return sum(event.open for event in self.bench.events if isinstance(event, LoadStopped))

    def latency(self, share: float, *, service: bool = False) -> float:
        whole = Histogram()
        for window in self.windows:
            for piece in window.slices:
                packed = piece.service if service and piece.service else piece.response
                whole.merge(Histogram.unpack(packed))
        return whole.quantile(share) or 0.0

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Let the server stand still."""
        process = self.server._process
        assert process
        process.send_signal(signal.SIGSTOP)
        await until(lambda: stopped(process.pid))
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    @asynccontextmanager
    async def responder(self, subject: str, answer: Answer) -> AsyncIterator[Client]:
        """Subscribe somebody else's program to a subject."""
        broker = self.server.broker
        client = await nats.connect(broker["servers"][0], user=broker["user"], password=broker["password"])

        async def called(msg: Msg) -> None:
            await answer(client, msg)

        await client.subscribe(subject, cb=called)
        await client.flush()
        try:
            yield client
        finally:
            await client.close()


Answer = Callable[[Client, Msg], Awaitable[Any]]


async def honest(_: Client, msg: Msg) -> None:
    await msg.respond(msg.data)
