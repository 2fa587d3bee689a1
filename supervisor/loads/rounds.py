"""The lives of a load program that tells its operations line by line: started, listened to, and started again."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import anyio

from supervisor.engines.program import Ended, run_program
from supervisor.journal.events import CUT_OFF
from supervisor.loads.base import LoadContext
from supervisor.loads.books import CRASHES, ENDS, Books
from supervisor.loads.iterations import Output, Task
from supervisor.loads.lines import BOM, Splitter
from supervisor.supervision import nursery

FIRST: Final = 0.1
LONGEST: Final = 10.0
"""Seconds before a program that crashed is started again: the first pause, doubled with each crash in a row up to the longest."""
STABLE: Final = 10.0
"""A program that ran for so many seconds is stable: its next crash is the first in a row."""
_LOOK: Final = 0.1


class Rounds:
    """Runs the program once for each call of `next`, and counts what it tells."""

    def __init__(self, task: Task, context: LoadContext, descriptor: int, silence: float) -> None:
        """`descriptor`: where the program writes its lines; 1 is its standard output. `silence`: seconds it may say nothing."""
        self.count = self.open = 0
        self._context, self._silence = context, silence
        self._mixed = descriptor == 1
        self._task = task if self._mixed else replace(task, argv=moved(task.argv, descriptor))
        self._shown = shlex.join(task.argv)
        self._output = Output(context, "start")
        self._in_a_row = 0
        context.recorder.count(CRASHES, 0)

    async def next(self) -> float:
        """Run the program until it ends or the load is to stop; return after how many seconds it may be started again."""
        self.count = self._output.count = self.count + 1
        task, books, splitter = self._task, Books(self._context.recorder, self._task.timeout), Splitter()
        self._output.say(self._shown)
        end = anyio.Event()

        def take(data: bytes) -> None:
            for line in splitter.lines(data):
                self._take(books, line)

        try:
            async with nursery() as tasks:
                tasks.start_soon(self._watch, books, end)
                ended = await run_program(
                    task.argv,
                    cwd=task.cwd,
                    env=task.env,
                    output=self._output.write,
                    timeout=math.inf,
                    stop=end,
                    reports=take,
                )
        except OSError as error:
            self._output.say(f"cannot be started: {error}")
            return self._crashed("cannot be started", str(error), 0.0)
        if ended.why == "exit":  # else we have cut it off
            for line in splitter.end():
                self._take(books, line)
        return self._judge(ended, books)

    async def _watch(self, books: Books, end: anyio.Event) -> None:
        """Give up what does not end, and set `end` when the program is to."""
        stop = self._context.stop
        while not stop.is_set() and time.monotonic() - books.heard < self._silence:
            books.expire()
            with anyio.move_on_after(_LOOK):
                await stop.wait()
        end.set()

    def _take(self, books: Books, line: bytes) -> None:
        if not (line := line.strip().removeprefix(BOM)):
            return
        if self._mixed and not line.startswith(b"{"):
            self._output.write(line + b"\n")
        elif why := books.take(line):
            self._output.say(f"malformed line: {why}: {line[:200]!r}")

    def _judge(self, ended: Ended, books: Books) -> float:
        lived = ended.end - ended.start
        if self._context.stop.is_set():
            self._output.say(f"ended with the run after {lived:.3f}s")
            self.open = books.open
            books.end(CUT_OFF)
            return 0.0
        if ended.why == "stop":
            status = "silent"
            self._output.say(f"has told nothing for {self._silence:g}s: taken to hang, and ended")
        elif ended.ok and not books.told:
            status = "no operations"
        else:
            status = ended.status
        self._output.say(f"{ended.status} after {lived:.3f}s")
        books.end(status if status != "exit 0" else "no outcome", ended.tail)
        if status == "exit 0":
            self._context.recorder.count(ENDS)
            self._in_a_row = 0
            return 0.0
        return self._crashed(status, ended.tail, lived)

    def _crashed(self, error: str, detail: str, lived: float) -> float:
        """Count a crash of the program, which is a failure of its own: nobody knows what it would have seen."""
        recorder, now = self._context.recorder, time.monotonic()
        recorder.scheduled()
        recorder.started()
        recorder.count(CRASHES)
        recorder.record(
            intended=now,
            start=now,
            end=now,
            outcome="failed",
            error=error,
            detail=detail,
            name=f"program {self.count}",
        )
        self._in_a_row = 1 if lived >= STABLE else self._in_a_row + 1
        return min(FIRST * 2.0 ** min(self._in_a_row - 1, 20), LONGEST)


def moved(argv: Sequence[str], descriptor: int) -> tuple[str, ...]:
    """Return a command whose standard output is given to it as `descriptor`, and that writes to its standard error instead."""
    return ("/bin/sh", "-c", f'exec {descriptor}>&1 >&2; exec "$@"', "sh", *argv)
