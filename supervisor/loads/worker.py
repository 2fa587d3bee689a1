"""One process of a load that is shared by several: the same load on the same executor, told everything over its standard input.

It knows the open episodes before anything is injected, since its load's run waits until every process has said so. It ends by itself
when its standard input does: then there is no run any more.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Final, cast

import anyio
import uvloop

from supervisor.broker.connection import open_connections
from supervisor.journal.base import Journal
from supervisor.journal.events import Event, LoopLag
from supervisor.kinds import take_in
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.executor import CRASHED
from supervisor.loads.made import Leftovers
from supervisor.loads.messages import (
    Begin,
    Ended,
    Go,
    Happened,
    Leaves,
    Left,
    Noted,
    Ping,
    Ready,
    Save,
    Saved,
    Stop,
    Told,
    messages,
    pack,
)
from supervisor.loads.shares import CountedRecorder, Ledger
from supervisor.loads.unworkable import unworkable
from supervisor.supervision import nursery, what
from supervisor.telemetry.lag import Lag, keep_prompt
from supervisor.telemetry.logging import plain

LAGS: Final = 10
"""Reports from one that tells how late the event loop was to the next."""
LAST: Final = 5.0
"""Seconds that the last messages may take."""
PULSE: Final = 0.05
"""Seconds from one word to the load's book to the next, if only that nothing has happened."""


class Among:
    """What a load's process tells the others, and hears of them."""

    def __init__(self, epoch: int, writer: asyncio.StreamWriter) -> None:
        self.epoch = epoch
        self._writer, self._listeners = writer, list[Callable[[Any], None]]()
        self._notes: list[Any] = []
        self._loop = asyncio.get_running_loop()

    def tell(self, note: Any) -> None:
        """Tell a note with the others of this turn of the event loop."""
        if not self._notes:
            self._loop.call_soon(self.flush)
        self._notes.append(note)

    def hear(self, listener: Callable[[Any], None]) -> None:
        """Hear what others tell from now on."""
        self._listeners.append(listener)

    def flush(self) -> None:
        """Send what there is, and that there is no more by now."""
        notes, self._notes = tuple(self._notes), []
        self._writer.write(pack(Noted(notes, time.monotonic())))

    def take(self, notes: Sequence[Any]) -> None:
        """Hand over what others have told."""
        for note in notes:
            for listener in self._listeners:
                listener(note)

    async def run(self) -> None:
        """Say how far we are, for ever."""
        while True:
            self.flush()
            await anyio.sleep(PULSE)


class LogsAbove:
    """The logs of the broker's servers, which the run saves."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._asked: dict[int, anyio.Event] = {}
        self._files: dict[int, Mapping[str, str]] = {}

    async def save(self, title: str, since: float, until: float) -> Mapping[str, str]:
        """Have them saved, as the protocol says."""
        n = len(self._asked)
        self._asked[n] = anyio.Event()
        self._writer.write(pack(Save(n, title, since, until)))
        await self._asked[n].wait()
        return self._files.pop(n)

    def saved(self, message: Saved) -> None:
        """Take where they are."""
        self._files[message.n] = message.files
        self._asked[message.n].set()


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
    worker = _Worker(await anext(incoming), writer, Ledger(totals))
    async with nursery() as group:
        group.start_soon(worker.listen, incoming)
        group.start_soon(worker.report)
        group.start_soon(worker.lag.run)
        if worker.among:
            group.start_soon(worker.among.run)
        await worker.work()
        with anyio.move_on_after(LAST):
            await writer.drain()
            writer.close()
            await writer.wait_closed()


class _Worker:
    """The work of this process, and what it tells of it."""

    def __init__(self, begin: Begin, writer: asyncio.StreamWriter, ledger: Ledger) -> None:
        self.lag = Lag()
        self._begin, self._writer, self._journal = begin, writer, Upstream(writer)
        self._recorder = CountedRecorder(begin.name, self._journal, begin.timeline)
        self._recorder.ledger = ledger
        self.among = None if begin.epoch is None else Among(begin.epoch, writer)
        self._logs = LogsAbove(writer) if begin.logs else None
        self._stop, self._go = anyio.Event(), anyio.Event()
        self._at = 0.0

    async def work(self) -> None:
        """Run the load, and say how it ended."""
        error = why = ""
        try:
            async with _context(self._begin, self._recorder, self._journal, self._stop) as context:
                if self._begin.file:
                    take_in(*self._begin.file)
                load: Load = pickle.loads(self._begin.load)  # noqa: S301  # from our own run
                left = Leftovers()
                keep_prompt()
                await load.run(
                    replace(
                        context,
                        together=self._together,
                        leave=self._leave,
                        leftovers=left,
                        exchange=self.among,
                        server_logs=self._logs,
                    )
                )
                for _, stream in left.streams:
                    self._writer.write(pack(Leaves(stream)))
        except Exception as raised:  # noqa: BLE001  # the run decides: it is told, and raises it there
            why = unworkable(raised, worked=self._recorder.worked)
            self._recorder.forsake(CRASHED, reason := what(raised))
            error = f"{traceback.format_exc()}\n{reason}"  # the last line of a group's traceback says nothing
        self._recorder.close()
        self._tell_lag()
        if self.among:
            self.among.flush()
        self._writer.write(pack(Ended(error, why)))

    async def _together(self) -> float:
        if self.among:
            self.among.flush()  # the book has to count on us before anything happens here
        self._writer.write(pack(Ready()))
        await self._go.wait()
        return self._at

    def _leave(self, sound: bool) -> None:  # as `LoadContext` has it
        self._writer.write(pack(Left(sound)))

    async def listen(self, incoming: AsyncIterator[Any]) -> None:
        """Do as the run says, for as long as there is one."""
        async for message in incoming:
            self._hear(message)
        os._exit(1)  # the run is gone: whatever is under way here is nobody's any more

    def _hear(self, message: Any) -> None:
        if isinstance(message, Happened):
            self._begin.timeline.apply(message.record)
        elif isinstance(message, Noted) and self.among:
            self.among.take(message.notes)
        elif isinstance(message, Saved) and self._logs:
            self._logs.saved(message)
        elif isinstance(message, Ping):
            self._writer.write(pack(message))
        elif isinstance(message, Go):
            self._at = message.at
            self._go.set()
        elif isinstance(message, Stop):
            self._stop.set()

    async def report(self) -> None:
        """Tell what was counted, for ever."""
        for n in count(1):
            await anyio.sleep(self._begin.report)
            self._recorder.flush()
            if not n % LAGS:
                self._tell_lag()

    def _tell_lag(self) -> None:
        _, times = self.lag.take()
        if times.count:
            self._journal.emit(LoopLag(times=tuple(times.pack()), load=self._begin.name))


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
            scheduled=begin.scheduled,
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
