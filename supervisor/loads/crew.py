"""A load that one core cannot carry: several processes run it on the same executor, each its share of the operations.

Results merge exactly: windows add up, and what a process did not report before it died is known from memory that outlives it
(`shares.Ledger`). A process that died is started again under supervision.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import anyio

from supervisor.journal.events import Event, LoadBroken, LoadStopped, LoadWindow
from supervisor.journal.fold import fold_windows
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.executor import CRASHED, CUT_SHORT
from supervisor.loads.made import remove
from supervisor.loads.messages import Noted
from supervisor.loads.nats_load import NatsLoad
from supervisor.loads.pace import Paced
from supervisor.loads.processes import Process, ProcessDied
from supervisor.loads.unworkable import UnworkableError, unworkable
from supervisor.supervision import Supervisor, what


async def run_load(load: Load, context: LoadContext) -> None:
    """Run a load, in as many processes as it wants. If it breaks, that is on record, and what was under way indeterminate.

    Returns where it cannot work by its settings (`unworkable`): that is on record too, and nothing to raise, for it would be tried again.
    What was due between an earlier life of the load that crashed and this one is owed, and counts as dropped.
    """
    if context.recorder.next_due is not None:
        context = replace(context, owed=context.recorder.next_due - context.start)
    try:
        if isinstance(load, Paced) and load.processes > 1:
            await _Crew(load, context).run()
        else:
            await load.run(context)
    except Exception as error:
        if why := unworkable(error, worked=context.recorder.worked):
            _break(context, "unworkable", why)
            return
        _break(context, "raised", what(error))
        raise
    except anyio.get_cancelled_exc_class():
        _break(context, "cut short", "it had not returned when its time was over")
        raise


def _break(context: LoadContext, how: Literal["raised", "cut short", "unworkable"], error: str) -> None:
    recorder = context.recorder
    recorder.forsake(CUT_SHORT if how == "cut short" else CRASHED, error)
    recorder.flush()
    context.journal.emit(LoadBroken(load=context.name, how=how, error=error))


READY: Final = 10.0
"""Seconds after the first process was ready in which the others may become so, for all to begin together."""
TOGETHER: Final = 0.05
"""Seconds from the word to begin until they do: far longer than it takes to arrive."""


class _Crew:
    """The processes of one load."""

    def __init__(self, load: Paced, context: LoadContext) -> None:
        self.load, self.context = load, context
        self._open = 0
        self._windows: list[LoadWindow] = []
        self._beyond_help = ""
        self._unworkable: UnworkableError | None = None
        self._members: list[Process] = []
        self._waiting: set[Process] = set()
        self._left: dict[Process, bool] = {}
        self._streams: list[str] = []
        self._first, self._at = anyio.Event(), 0.0
        """When all began, in monotonic seconds; 0 as long as they have not."""
        self._book = load.book(context)
        """Where what the processes tell each other is put together; None: they tell nothing."""
        self._epoch = None if self._book is None else time.time_ns() // 1_000_000
        self._settled: dict[str, set[int]] = {}
        """What is only known once somebody has looked, and which processes have: 0 is 0 when all of them say so."""

    async def run(self) -> None:
        """Keep all processes up until the load is to stop, and wait for their last words."""
        name, of = self.context.name, self.load.processes
        leave = self.context.recorder.accompany(self._flush)
        try:
            async with anyio.create_task_group() as group:

                def give_up(why: str) -> None:
                    self._beyond_help = why
                    group.cancel_scope.cancel()

                supervisor = Supervisor(group, self.context.journal, give_up)
                for process in range(of):
                    take = partial(self._take, process)
                    member = Process(self.load, self.context, process, take, self, epoch=self._epoch)
                    self._members.append(member)
                    run = partial(self._live, member, group.cancel_scope)
                    supervisor.keep(f"load {name} {member.title}", run)
                await self._begin_together()
        finally:
            sound = self._book is None or self._book.finish()
            leave()
            self._flush()
        if self._unworkable:
            raise self._unworkable
        if self._beyond_help:
            raise ProcessDied(self._beyond_help)
        if sound and len(self._left) == of and all(self._left.values()):
            await self._remove()
        self.context.journal.emit(LoadStopped(load=name, open=self._open))

    async def _live(self, member: Process, all_of_us: anyio.CancelScope) -> None:
        """Let a process live once. If the load cannot work by its settings, none of the others can."""
        try:
            await member.run()
        except UnworkableError as error:
            self._unworkable = error
            all_of_us.cancel()

    async def _begin_together(self) -> None:
        """Wait until all processes are ready, for some time, and let them begin."""
        stop = self.context.stop
        while not (self._at or stop.is_set()):
            with anyio.move_on_after(READY if self._waiting else None) as patience:
                await _either(self._first, stop)
            self._first = anyio.Event()
            if patience.cancelled_caught or len(self._waiting) == len(self._members):
                self._at = time.monotonic() + TOGETHER
        self._at = self._at or time.monotonic()  # the end has come first: they begin, and leave
        for member in self._waiting:
            member.begin(self._at)

    def has_left(self, member: Process, *, sound: bool) -> None:
        """Take that a process needs no more what the load has made."""
        self._left[member] = sound

    def noted(self, member: Process, notes: Noted) -> None:
        """Take what a process tells the others."""
        if self._book:
            self._book.take(member.number, notes.notes, notes.upto)
        if notes.notes:
            for other in self._members:
                if other is not member:
                    other.hear(notes)

    def has_ended(self, member: Process, *, well: bool) -> None:
        """Take that a process is gone."""
        if self._book:
            self._book.left(member.number, well=well)

    def leaves(self, stream: str) -> None:
        """Take that a stream is to be removed unless the run fails."""
        self._streams.append(stream)

    async def _remove(self) -> None:
        """Have the streams removed that the processes made, when it is known how the run ended."""
        load, connections = self.load, self.context.connections
        if self._streams and connections and isinstance(load, NatsLoad):
            handle = await connections.handle(load.connection)
            for stream in dict.fromkeys(self._streams):
                await remove(self.context, handle, stream)

    def is_ready(self, member: Process) -> None:
        """Take that a process waits for the beginning; one that comes later than that begins at once."""
        self._waiting.add(member)
        self._first.set()
        if self._at:
            member.begin(self._at)

    def _take(self, process: int, event: Event) -> None:
        """Take what a process tells."""
        if isinstance(event, LoadWindow):
            self._windows.append(self._settle(process, event))
        elif isinstance(event, LoadStopped):
            self._open += event.open
        else:
            self.context.journal.emit(event)

    def _settle(self, process: int, window: LoadWindow) -> LoadWindow:
        """Keep back that there was nothing of a kind, until all processes have said so."""
        counters = dict(window.counters)
        for name in [name for name in counters if name in self.load.settled]:
            said = self._settled.setdefault(name, set())
            said.add(process)
            if not counters[name] and len(said) < self.load.processes:
                del counters[name]
        return window.model_copy(update={"counters": counters})

    def _flush(self) -> None:
        windows, self._windows = self._windows, []
        if windows:
            for event in fold_windows(windows):
                # Of many processes, but of the same time: nothing is coarser for that.
                self.context.journal.emit(event.model_copy(update={"windows": 1}))


async def _either(*events: anyio.Event) -> None:
    """Wait for the first of several events."""
    async with anyio.create_task_group() as group:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        for event in events:
            group.start_soon(wait, event)
