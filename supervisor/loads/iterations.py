"""The iterations of a command load: each runs a program once and counts what came of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio.lowlevel
import anyio.to_thread

from supervisor.engines.program import Ended, run_program
from supervisor.loads.base import LoadContext
from supervisor.loads.junit import JUnitError, Report, read_report
from supervisor.loads.window import Outcome

SPAWN_PAUSE: Final = 1.0
"""Seconds at least between two attempts to start a program that cannot be started."""
SKIPPED: Final = "skipped"
"""Counter of tests that were skipped: they are no operations."""
CUT_OFF: Final = "cut_off"
"""Counter of iterations that the run's own end cut off and that are no operations."""
HANGING: Final = 2.0
"""An iteration that is cut off after more than so many times the longest one before it may have hung."""
HUNG: Final = "may have hung"
"""The error class of one."""
_YIELD_EVERY: Final = 1000
"""Test cases counted before the event loop gets its turn."""


@dataclass(frozen=True, slots=True)
class Task:
    """What each iteration does."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    timeout: float
    report: Path | None
    """Where the program writes its JUnit report; None: the iteration itself is the operation."""


class Output:
    """The log of a load, in which lines of our own stand between the program's."""

    def __init__(self, context: LoadContext, noun: str) -> None:
        """`noun`: what is counted by `count`, such as an iteration."""
        self.count = 0
        self._log, self._who = context.journal.log(f"{context.name}.log"), f"{context.name} {noun}"
        self.write = self._log.write

    def say(self, what: str) -> None:
        """Write a line of our own."""
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
        self.write(f"=== {now} {self._who} {self.count}: {what}\n".encode())


class Iterations:
    """Runs the task once for each call of `next`, and remembers what is needed to judge the one that is cut off."""

    def __init__(self, task: Task, context: LoadContext) -> None:
        self.count = self.open = 0
        self._task, self._context = task, context
        self._output = Output(context, "iteration")
        self._longest = 0.0
        """Seconds of the longest iteration that was not cut off."""

    async def next(self) -> float:
        """Run the program once and count how it went; return after how many seconds it may be started again."""
        self.count = self._output.count = self.count + 1
        task = self._task
        await self._forget_report()
        self._output.say(shlex.join(task.argv))
        start = time.monotonic()
        try:
            ended = await run_program(
                task.argv,
                cwd=task.cwd,
                env=task.env,
                output=self._output.write,
                timeout=task.timeout,
                stop=self._context.stop,
            )
        except OSError as error:
            self._output.say(f"cannot be started: {error}")
            self._record(start, time.monotonic(), "failed", error="cannot be started", detail=str(error))
            return SPAWN_PAUSE
        why = {"exit": "", "timeout": ", ended at its time limit", "stop": ", cut off by the end of the run"}
        self._output.say(f"{ended.status} after {ended.end - ended.start:.3f}s{why[ended.why]}")
        await self._judge(ended)
        return 0.0

    async def _judge(self, ended: Ended) -> None:
        took = ended.end - ended.start
        if ended.why == "stop":
            if 0 < self._longest * HANGING < took:
                self._record(ended.start, ended.end, "indeterminate", error=HUNG, detail=ended.tail)
            else:
                self._context.recorder.count(CUT_OFF)
            return
        self._longest = max(self._longest, took)
        if ended.why == "timeout":
            self._record(ended.start, ended.end, "indeterminate", error="timeout", detail=ended.tail)
        elif self._task.report is not None:
            await self._judge_report(self._task.report, ended)
        elif not ended.ok:
            self._record(ended.start, ended.end, "failed", error=ended.status, detail=ended.tail)
        else:
            self._record(ended.start, ended.end, "ok")

    async def _judge_report(self, path: Path, ended: Ended) -> None:
        """Count the test cases, and the iteration itself where it went wrong in a way that no case tells."""
        trouble, failed = "", False
        try:
            report = await anyio.to_thread.run_sync(read_report, path)
        except JUnitError as error:
            trouble = str(error)
        else:
            failed = await self._count_cases(report, ended)
            self._context.recorder.count(SKIPPED, 0)  # 0 is only 0 where a report was read
            if not report.cases:
                trouble = "there is no test case in the JUnit report"
        await self._forget_report()
        if trouble or not (ended.ok or failed):
            what = "no usable JUnit report" if ended.ok else ended.status
            detail = f"{trouble}\n{ended.tail}".strip()
            self._record(ended.start, ended.end, "failed", error=what, detail=detail)

    async def _count_cases(self, report: Report, ended: Ended) -> bool:
        """Count the cases of a report; return whether any failed."""
        wall_offset = time.time() - time.monotonic()
        failed = False
        for n, (case, start, end) in enumerate(report.lay_out(ended.start, ended.end, wall_offset), 1):
            if case.outcome == "skipped":
                self._context.recorder.count(SKIPPED)
            else:
                failed = failed or case.outcome == "failed"
                self._record(start, end, case.outcome, error=case.error, detail=case.detail, name=case.name)
            if n % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
        return failed

    def _record(
        self,
        start: float,
        end: float,
        outcome: Outcome,
        *,
        error: str = "",
        detail: str = "",
        name: str = "",
    ) -> None:
        recorder = self._context.recorder
        recorder.scheduled()
        recorder.started()
        recorder.record(
            intended=start,
            start=start,
            end=end,
            outcome=outcome,
            error=error,
            detail=detail,
            name=name or f"iteration {self.count}",
        )

    async def _forget_report(self) -> None:
        if self._task.report is not None:
            await anyio.to_thread.run_sync(self._task.report.unlink, True)  # missing_ok
