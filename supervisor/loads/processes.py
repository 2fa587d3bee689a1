"""One process of a load that is shared by several, as its run sees it: started, told what happens, and counted to the end.

Where it dies, operations that had ended but were not reported are counted all the same, from the memory it shared; those under way
are indeterminate; and what was due until another one takes its place is dropped.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from os import environ
from typing import Final, Literal, NamedTuple, Protocol

import anyio
import anyio.abc

from supervisor.engines.survivors import RUN
from supervisor.journal.events import (
    EpisodeClosed,
    Event,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    LoadBroken,
    LoadWindow,
    Record,
)
from supervisor.loads.base import LoadContext
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
from supervisor.loads.pace import Paced
from supervisor.loads.recorder import Recorder
from supervisor.loads.shares import Ledger, Reported
from supervisor.loads.unworkable import UnworkableError

REPORT: Final = 1.0
"""Seconds from one report of a process, of what it has counted, to the next."""
PULSE: Final = 5.0
"""Seconds from one question to a process whether it is well to the next."""
HUNG: Final = 10.0
"""Seconds of silence after which it is not: far longer than a busy one needs."""
_KNOWN: Final = (FaultIntent, FaultInjected, FaultFailed, FaultUndone, EpisodeClosed)
_LAST_WORDS: Final = 4000


class ProcessDied(Exception):  # noqa: N818  # what happened is in the name
    """A process of a load ended before it was told to."""


class Crew(Protocol):
    """Those that share a load."""

    def is_ready(self, member: Process) -> None:
        """A process waits for `begin`."""

    def has_left(self, member: Process, *, sound: bool) -> None:
        """A process needs no more what the load has made."""

    def leaves(self, stream: str) -> None:
        """A stream was made that is to be removed unless the run fails."""

    def noted(self, member: Process, notes: Noted) -> None:
        """A process tells all others something."""

    def has_ended(self, member: Process, *, well: bool) -> None:
        """A process is gone; not `well`: without its last word."""


class Process:
    """One process, life after life."""

    def __init__(
        self,
        load: Paced,
        context: LoadContext,
        process: int,
        take: Callable[[Event], None],
        crew: Crew,
        *,
        epoch: int | None = None,
    ) -> None:
        """`take` is given every event that it tells, and what it left unreported as a window; `epoch` as in `Begin`."""
        self._load, self._context, self._process, self._tell_crew = load, context, process, take
        self._crew, self._epoch = crew, epoch
        self.number = process
        self.title = f"process {process + 1} of {load.processes}"
        self._owed: float | None = None
        self._scheduled = 0
        """Operations that all its lives have scheduled."""
        self._alive = False
        self._reported = Reported()
        self._queue = deque[bytes]()
        self._filled = anyio.Event()
        self._pings = 0
        self._heard: dict[int, anyio.Event] = {}
        self._ended: Ended | None = None
        """Its last word; None as long as it lives, and if it died without one."""

    async def run(self) -> None:
        """Live once; ProcessDied if it ended before it was told to, or told of an exception; UnworkableError if no life is better."""
        context, ledger, said = self._context, Ledger.new(), bytearray()
        if context.stop.is_set():
            return
        self._reported, self._ended = Reported(), None
        code: int | None = None
        try:
            async with await anyio.open_process(
                [sys.executable, "-P", "-m", "supervisor.loads.worker", str(ledger.descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(ledger.descriptor,),
                start_new_session=True,  # Ctrl-C is for the run, which stops its processes in order
                env={**environ, RUN: context.run},
            ) as process:
                await self._talk(process, said)
            code = process.returncode
        finally:
            self._take_rest(ledger)
            self._crew.has_ended(self, well=self._ended_well)
            self._owe(ledger.next_due)
            self._scheduled += ledger.read().scheduled
            ledger.close()
        self._check_workable()
        if last := self._last_words(bytes(said)):
            how: Literal["raised", "killed"] = "raised" if self._ended else "killed"
            error = last.splitlines()[-1] if self._ended else f"it ended with {code}: {last}"
            context.journal.emit(LoadBroken(load=context.name, process=self.title, how=how, error=error))
            raise ProcessDied(f"{self.title} of load {context.name} ended with {code}: {last}")

    def _check_workable(self) -> None:
        if self._ended and self._ended.unworkable:
            raise UnworkableError(self._ended.unworkable)

    def _last_words(self, said: bytes) -> str:
        """Return what is known of why it ended; empty if it ended as told."""
        if self._ended is None:
            return said.decode(errors="replace").strip() or "it said nothing"
        return self._ended.error.strip()

    # --- talking -------------------------------------------------------------------------------------------------------

    async def _talk(self, process: anyio.abc.Process, said: bytearray) -> None:
        """Tell it what to do and what happens, and take what it tells, until it ends."""
        context = self._context
        assert process.stdout and process.stdin and process.stderr  # noqa: S101, PT018  # they are pipes
        self._queue.clear()
        self._tell(self._begin())  # with the present episodes; later ones follow
        async with AsyncExitStack() as stack:
            self._alive = True
            stack.callback(setattr, self, "_alive", False)
            stack.callback(context.journal.subscribe(self._forward))
            stack.callback(context.timeline.follow(context.name, self._has_heard))
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(self._feed, process.stdin.send)
            group.start_soon(self._listen, process.stderr.receive, said)
            group.start_soon(self._stop)
            group.start_soon(self._watch, process.kill, said)
            async for message in messages(partial(_read, process.stdout.receive)):
                if isinstance(message, Save):
                    group.start_soon(self._save, message)
                else:
                    self._take(message)
            for waiting in self._heard.values():
                waiting.set()
            self._heard.clear()
            group.cancel_scope.cancel()

    def begin(self, at: float) -> None:
        """Let it begin at an instant, in monotonic seconds."""
        self._tell(Go(at))

    def hear(self, notes: Noted) -> None:
        """Tell it what another process tells."""
        if self._alive:
            self._tell(notes)

    async def _save(self, wanted: Save) -> None:
        logs = self._context.server_logs
        assert logs is not None  # noqa: S101  # it was told whether there are any
        self._tell(Saved(wanted.n, await logs.save(wanted.title, wanted.since, wanted.until)))

    def _begin(self) -> Begin:
        context = self._context
        return Begin(
            load=pickle.dumps(self._load),
            file=self._load.file(),
            name=context.name,
            run=context.run,
            seed=context.seed,
            start=context.start,
            process=self._process,
            processes=self._load.processes,
            owed=self._owed,
            scheduled=self._scheduled,
            epoch=self._epoch,
            report=REPORT,
            logs=context.server_logs is not None,
            base=context.base,
            directory=context.directory,
            environment=dict(context.environment),
            broker=context.connections.broker if context.connections else None,
            timeline=context.timeline.copy(),
        )

    def _tell(self, message: Begin | Happened | Noted | Saved | Ping | Go | Stop) -> None:
        self._queue.append(pack(message))
        self._filled.set()

    def _forward(self, record: Record) -> None:
        if isinstance(record.event, _KNOWN):
            self._tell(Happened(record))

    async def _has_heard(self) -> None:
        """Return once it knows of everything that was told to it so far, or is gone."""
        self._pings += 1
        self._heard[self._pings] = event = anyio.Event()
        self._tell(Ping(self._pings))
        await event.wait()

    async def _stop(self) -> None:
        await self._context.stop.wait()
        self._tell(Stop())

    async def _watch(self, kill: Callable[[], None], said: bytearray) -> None:
        """Kill it once it does not answer; what is told to it piles up no longer than that."""
        while True:
            await anyio.sleep(PULSE)
            with anyio.move_on_after(HUNG) as patience:
                await self._has_heard()
            if patience.cancelled_caught:
                said += f"soakd: killed, since it did not answer for {HUNG:.0f}s".encode()
                kill()

    async def _feed(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while True:
                while self._queue:
                    await send(self._queue.popleft())
                self._filled = anyio.Event()
                await self._filled.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # it is gone, as the end of its output says

    async def _listen(self, receive: Callable[[int], Awaitable[bytes]], said: bytearray) -> None:
        while data := await _read(receive, 1 << 16):
            said += data
            del said[:-_LAST_WORDS]

    # --- counting ------------------------------------------------------------------------------------------------------

    def _take(self, message: Told | Noted | Ping | Ready | Left | Leaves | Ended) -> None:
        if isinstance(message, Noted):
            self._crew.noted(self, message)
        elif isinstance(message, Ready):
            self._crew.is_ready(self)
        elif isinstance(message, Left):
            self._crew.has_left(self, sound=message.sound)
        elif isinstance(message, Leaves):
            self._crew.leaves(message.stream)
        elif isinstance(message, Ping):
            if waiting := self._heard.pop(message.n, None):
                waiting.set()
        elif isinstance(message, Ended):
            self._ended = message
        else:
            if isinstance(window := message.event, LoadWindow):
                self._reported.take(window)
            self._tell_crew(message.event)

    def _owe(self, next_due: float | None) -> None:
        """Owe what it did not schedule: from long before its end if it hung, from before its life if it never came to that."""
        if next_due is not None:
            self._owed = next_due - self._context.start
        elif self._owed is None:
            self._owed = time.monotonic() - self._context.start

    @property
    def _ended_well(self) -> bool:
        return self._ended is not None and not self._ended.error

    def _take_rest(self, ledger: Ledger) -> None:
        """Count what the process did and did not report, each operation with its own times and episodes."""
        if self._ended_well:
            return  # it has told of all; but not where its load raised
        recorder = Recorder(self._context.name, _Told(self._tell_crew), self._context.timeline)
        self._reported.count_rest(ledger, recorder, self.title)
        recorder.close()


class _Told(NamedTuple):
    """Where windows go: to whoever takes all that a process tells."""

    emit: Callable[[Event], None]


async def _read(receive: Callable[[int], Awaitable[bytes]], size: int) -> bytes:
    try:
        return await receive(size)
    except anyio.EndOfStream:
        return b""
