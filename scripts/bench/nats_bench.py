"""What the benchmarks of NATS loads share: a server, a responder in a process of its own, a load that runs for some seconds."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from supervisor.broker.connection import Connections, open_connections
from supervisor.broker.options import Broker
from supervisor.histogram import Histogram
from supervisor.journal.base import Log
from supervisor.journal.events import Event, LoadWindow
from supervisor.journal.timeline import Timeline
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.recorder import Recorder

BINARY = Path(sys.executable).with_name("nats-server")
RESPONDER = """
import anyio, nats, sys
async def main():
    client = await nats.connect(sys.argv[1])
    async def answer(msg):
        await client.publish(msg.reply, msg.data)
    await client.subscribe(sys.argv[2], cb=answer)
    await client.flush()
    print("ready", flush=True)
    await anyio.sleep_forever()
anyio.run(main, backend_options={"use_uvloop": True})
"""


@dataclass
class Done:
    """What a load did."""

    ok: int = 0
    failures: int = 0
    late: int = 0
    dropped: int = 0
    seconds: float = 0.0
    """From the first operation to the last one's start."""
    response: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    """By how much operations began late."""

    @property
    def rate(self) -> float:
        """Operations a second that were ok."""
        return self.ok / self.seconds


class Nowhere:
    """A log that keeps nothing."""

    def write(self, data: bytes) -> None:
        """Drop it."""


@dataclass
class Windows:
    """A journal that adds windows up."""

    done: Done = field(default_factory=Done)

    def emit(self, event: Event) -> None:
        if not isinstance(event, LoadWindow):
            return
        self.done.late += event.late
        self.done.dropped += event.dropped
        self.done.lag.merge(Histogram.unpack(event.lag))
        for piece in event.slices:
            self.done.ok += piece.ok
            self.done.failures += piece.failed + piece.indeterminate
            self.done.response.merge(Histogram.unpack(piece.response))
            self.done.service.merge(Histogram.unpack(piece.service or piece.response))

    def log(self, name: str, **_: int) -> Log:  # noqa: ARG002  # as the journal has it
        return Nowhere()


@dataclass
class Bench:
    """A server and connections to it."""

    url: str
    server: int
    """Its process id."""
    connections: Connections

    async def run(self, load: Load, seconds: float) -> Done:
        """Run a load for so long, from its first operation on: whoever it is compared with has connected before, too."""
        journal = Windows()
        context = context_of(journal, self.connections)
        async with anyio.create_task_group() as group:
            group.start_soon(load.run, context)
            with anyio.fail_after(10):
                while not context.recorder.open and context.recorder.next_due is None:  # noqa: ASYNC110  # it tells nobody
                    await anyio.sleep(0.001)
            begin = time.monotonic()
            await anyio.sleep(seconds)
            context.stop.set()
            journal.done.seconds = time.monotonic() - begin
        return journal.done


def context_of(journal: Any, connections: Connections | None = None) -> LoadContext:
    """What a load is given, with a journal that only adds up."""
    timeline = Timeline()
    return LoadContext(
        name="bench",
        run="run",
        base=Path(),
        directory=Path(),
        start=time.monotonic(),
        seed=1,
        journal=journal,
        timeline=timeline,
        recorder=Recorder("bench", journal, timeline),
        stop=anyio.Event(),
        connections=connections,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Start a server with JetStream, its files on disk."""
    with tempfile.TemporaryDirectory() as store:
        url = f"127.0.0.1:{free_port()}"
        command = [str(BINARY), "-a", "127.0.0.1", "-p", url.partition(":")[2], "-js", "-sd", store]
        server = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            broker = Broker.model_validate({"servers": url})
            async with open_connections(broker, Windows()) as connections:  # type: ignore[arg-type]
                await (await connections.handle()).wait_connected(5)
                yield Bench(url, server.pid, connections)
        finally:
            server.terminate()
            await server.aclose()


@asynccontextmanager
async def responder(setup: Bench, subject: str) -> AsyncIterator[None]:
    """Somebody who echoes, in a process of its own."""
    process = await anyio.open_process([sys.executable, "-c", RESPONDER, setup.url, subject], stderr=None)
    try:
        if process.stdout:
            await process.stdout.receive()
        yield
    finally:
        process.terminate()
        await process.aclose()
