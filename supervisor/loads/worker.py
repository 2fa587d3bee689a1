"""One process of a load that is shared by several: the same load on the same executor, told everything over its standard input.

It knows the open episodes before anything is injected, since its load's run waits until every process has said so. It ends by itself
when its standard input does: then there is no run any more.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, cast

import anyio
import uvloop

from supervisor.broker.connection import open_connections
from supervisor.journal.base import Journal
from supervisor.journal.events import Event
from supervisor.loads.base import LoadContext
from supervisor.loads.shares import (
    Begin,
    CountedRecorder,
    Ended,
    Happened,
    Ledger,
    Ping,
    Stop,
    Told,
    messages,
    pack,
)
from supervisor.supervision import nursery
from supervisor.telemetry.logging import plain

REPORT: Final = 1.0
"""Seconds from one report of what was counted to the next."""
LAST: Final = 5.0
"""Seconds that the last messages may take."""


class Upstream:
    """What a load's process has for a journal: events go to the run's own."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def emit(self, event: Event) -> None:
        """Send an event; never blocks. The run always reads, so this stays small."""
        self._writer.write(pack(Told(event)))


async def main(totals: int) -> None:
    """Work until told to stop, or until nobody is there any more."""
    reader, writer = await _pipes()
    incoming = messages(reader.read)
    begin: Begin = await anext(incoming)
    recorder = CountedRecorder(begin.name, Upstream(writer), begin.timeline)
    recorder.ledger = Ledger(totals)
    stop, error = anyio.Event(), ""

    async def listen() -> None:
        async for message in incoming:
            if isinstance(message, Happened):
                begin.timeline.apply(message.record)
            elif isinstance(message, Ping):
                writer.write(pack(message))
            elif isinstance(message, Stop):
                stop.set()
        os._exit(1)  # the run is gone: whatever is under way here is nobody's any more

    async def report() -> None:
        while True:
            await anyio.sleep(REPORT)
            recorder.flush()

    async with nursery() as group:
        group.start_soon(listen)
        group.start_soon(report)
        try:
            async with _context(begin, recorder, Upstream(writer), stop) as context:
                await begin.load.run(context)
        except Exception:  # noqa: BLE001  # the run decides: it is told, and raises it there
            error = traceback.format_exc()
        recorder.close()
        writer.write(pack(Ended(error)))
        with anyio.move_on_after(LAST):
            await writer.drain()
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def _context(
    begin: Begin, recorder: CountedRecorder, journal: Upstream, stop: anyio.Event
) -> AsyncGenerator[LoadContext]:
    async with AsyncExitStack() as stack:
        connections = None
        if begin.broker is not None:
            connections = await stack.enter_async_context(open_connections(begin.broker, journal))
        yield LoadContext(
            name=begin.name,
            run=begin.run,
            base=begin.base,
            directory=begin.directory,
            start=begin.start,
            seed=begin.seed,
            journal=cast("Journal", journal),  # loads of single operations only tell what happened
            timeline=begin.timeline,
            recorder=recorder,
            stop=stop,
            connections=connections,
            environment=begin.environment,
            process=begin.process,
            processes=begin.processes,
            owed=begin.owed,
        )


async def _pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return our ends of standard input and output; whoever prints from now on prints to standard error."""
    loop = asyncio.get_running_loop()
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb"))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(sink, "wb")
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


if __name__ == "__main__":
    plain()
    uvloop.run(main(int(sys.argv[1])))
