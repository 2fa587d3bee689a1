"""One run of a program in a process group of its own, which ends with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import anyio
import anyio.to_thread

from supervisor.engines.spawn import Child, spawn
from supervisor.supervision import nursery

GRACE: Final = 1.5
"""Seconds between SIGTERM and SIGKILL."""
REAP: Final = 5.0
"""Seconds in which the kernel ends a process after SIGKILL; one that hangs in a system call for longer is left to the guardian."""
DRAIN: Final = 0.5
"""Seconds for the rest of the output after the end: a process that left the group may hold the pipe open for ever."""
TAIL: Final = 500
"""Bytes of the last output that are kept as the detail of a failure."""
BURST: Final = 1_000_000
RATE: Final = 10_000_000
"""Bytes a second: a program that writes more, in bursts of `BURST`, has to wait for us, as it would for a slow disk."""
SHARE: Final = 0.2
"""Share of the event loop's time that one program's output may take: whoever tells more lines than that has to wait too."""
TURN: Final = 0.001
"""Seconds of work after which that is looked at: far below what makes others late."""
_CHUNK: Final = 65536
_REPORTS: Final = 1024
"""The same for reports, which are read line by line: a chunk takes a fraction of a millisecond."""

Why = Literal["exit", "timeout", "stop"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of a program ended."""

    why: Why
    """It ended by itself, was ended at its time limit, or because the load should stop."""
    code: int | None
    """Exit code, None if a signal ended it."""
    status: str
    """`exit 1` or `SIGSEGV`."""
    start: float
    """Monotonic seconds of the spawn."""
    end: float
    """The same of its end, or of the decision to end it."""
    tail: str
    """The last `TAIL` bytes of its output."""

    @property
    def ok(self) -> bool:
        """Whether it ended as programs do that have nothing to complain about."""
        return self.why == "exit" and self.code == 0


async def run_program(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    output: Callable[[bytes], None],
    timeout: float,
    stop: anyio.Event,
    reports: Callable[[bytes], None] | None = None,
) -> Ended:
    """Run a program until it exits, `timeout` seconds have passed or `stop` is set; OSError if it cannot be started.

    Its standard output and error go to `output`, the former to `reports` instead if that is given. The whole group is ended before
    this returns, also when it is cancelled.
    """
    start, tail = time.monotonic(), bytearray()

    def keep(chunk: bytes) -> None:
        output(chunk)
        tail.extend(chunk[-TAIL:])
        del tail[:-TAIL]

    async with _started(argv, cwd, env, apart=reports is not None) as child, nursery() as tasks:
        drained, over = [anyio.Event()], anyio.Event()
        tasks.start_soon(_pump, child.output, keep, drained[0], over)
        if reports is not None and child.reports is not None:
            drained.append(anyio.Event())
            tasks.start_soon(_pump, child.reports, reports, drained[1], over, _REPORTS)
        why = await _first(child, timeout, stop)
        end = time.monotonic()
        if why != "exit":
            child.send_group(signal.SIGTERM)
            with anyio.move_on_after(GRACE):
                await anyio.wait_readable(child.pidfd)
        child.send_group(signal.SIGKILL)  # whatever is left, also of a program that went in order
        code, status = await _reap(child)
        over.set()
        with anyio.move_on_after(DRAIN):
            for emptied in drained:
                await emptied.wait()
    return Ended(why, code, status, start, end, tail.decode(errors="replace"))


@asynccontextmanager
async def _started(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], *, apart: bool
) -> AsyncGenerator[Child]:
    """Start a program; on the way out, if it was not reaped in order, its group is killed."""
    child = await anyio.to_thread.run_sync(partial(spawn, argv, cwd, env, apart=apart))
    try:
        yield child
    finally:
        if child.process.returncode is None:
            child.send_group(signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await _reap(child)
        child.close()


async def _reap(child: Child) -> tuple[int | None, str]:
    """Collect a process that has ended or was killed; return its exit code, None after a signal, and how it ended."""
    with anyio.move_on_after(REAP):
        await anyio.wait_readable(child.pidfd)
        code, killer = child.reap()
        return code, killer or f"exit {code}"
    return None, signal.SIGKILL.name


async def _first(child: Child, timeout: float, stop: anyio.Event) -> Why:
    """Wait for what comes first: the exit, the time limit or the stop."""
    why: Why = "timeout"

    async def stopped() -> None:
        nonlocal why
        await stop.wait()
        why = "stop"
        tasks.cancel_scope.cancel()

    with anyio.move_on_after(timeout):
        async with nursery() as tasks:
            tasks.start_soon(stopped)
            await anyio.wait_readable(child.pidfd)
            why = "exit"
    return why


async def _pump(
    pipe: int,
    output: Callable[[bytes], None],
    drained: anyio.Event,
    over: anyio.Event,
    size: int = _CHUNK,
) -> None:
    """Hand over output until all ends of the pipe are closed, no faster than `RATE` and `SHARE` allow until it is `over`."""
    taken, used, since = 0, 0.0, time.monotonic()
    while True:
        await anyio.wait_readable(pipe)
        chunk = os.read(pipe, size)
        if not chunk:
            drained.set()
            return
        begun = time.monotonic()
        output(chunk)
        taken, used = taken + len(chunk), used + time.monotonic() - begun
        if taken >= BURST or used >= TURN:
            with anyio.move_on_after(since + max(taken / RATE, used / SHARE) - time.monotonic()):
                await over.wait()
            taken, used, since = 0, 0.0, time.monotonic()
