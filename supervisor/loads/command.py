"""The load that runs a program in a loop, and counts the tests in it where the program is pytest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import anyio
from pydantic import Field, field_validator, model_validator

from supervisor.engines.process import Text
from supervisor.journal.events import LoadStopped
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.books import AGAIN, CRASHES, ENDS, LATE, LOST, MALFORMED
from supervisor.loads.cleanup import LAST, Cleaner, Cleanup
from supervisor.loads.iterations import CUT_OFF, SKIPPED, Iterations, Task
from supervisor.loads.pace import PACES
from supervisor.loads.rounds import Rounds
from supervisor.supervision import nursery
from supervisor.values import Duration

PATIENCE: Final = 30.0
"""Seconds that an operation may take that was announced by a line, unless the soak file says otherwise."""
REPORT: Final = "SOAKD_JUNIT_XML"
"""The variable that tells a program where its JUnit report is looked for."""

_QUOTED: Final = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_SHELL: Final = re.compile(r"\|\||&&|[|;<>&`\n]|\$\(")
_REPORT_OPTION: Final = re.compile(r"--junit-?xml(=|$)")


class CommandLoad(Load):
    """A program run in a loop.

    Each iteration is an operation: ok if it exits with 0, else failed with the error class `exit N` or the signal's name;
    indeterminate (`timeout`) if it had to be ended at its time limit. Where the program is pytest, each test case is an operation
    instead, and skipped ones are a counter; an iteration whose report is missing or broken, or that fails although no test does,
    is itself one failed operation.

    An iteration that the end of the run cuts off says nothing about the system: it is no operation, only a counter (`cut_off`), so
    `load.stopped` never has open ones. Had it run far longer than any before it, though, it may have hung: it is indeterminate.

    With `operations` the program runs on and tells its operations itself, line by line (`lines`, `books`, `rounds`).
    """

    key: ClassVar[str] = "command"
    logs: ClassVar[bool] = True
    counters: ClassVar[tuple[str, ...]] = (CUT_OFF, CRASHES, ENDS, MALFORMED, LATE)
    settled: ClassVar[tuple[str, ...]] = (SKIPPED, LOST, AGAIN)

    command: str | tuple[Text, ...] = Field(
        description="A program and its arguments, split as a shell would, or a list."
    )
    shell: bool = Field(False, description="Let /bin/sh run the command: pipes, variables, several lines.")
    cwd: Path = Field(Path(), description="Working directory, seen from the soak file.")
    env: dict[str, Text] = Field(
        default_factory=dict, description="Variables besides soakd's own environment."
    )
    timeout: Duration = Field(
        600.0,
        gt=0,
        description="How long one iteration may take (10m); with operations, how long one that was announced may take (30s).",
    )
    pause: Duration = Field(0.0, description="Time between two iterations.")
    times: int | None = Field(None, ge=1, description="At most so many iterations.")
    junit: bool | None = Field(
        None,
        description="Count test cases from a JUnit report: --junit-xml=<file> is added to the command; with a shell the command "
        f"writes it to ${REPORT}. Left out: yes if the program is pytest.",
    )
    operations: Literal["stdout"] | Annotated[int, Field(ge=3, le=9)] | None = Field(
        None,
        description="The program tells its operations in JSON lines on its standard output, `stdout`, or on a descriptor, 3 to 9.",
    )
    silence: Duration = Field(
        60.0,
        gt=0,
        description="With operations: a program that tells nothing for so long hangs; it is ended, which counts as a crash.",
    )
    cleanup: Cleanup | None = Field(
        None, description="What is removed from the broker between two iterations."
    )

    @model_validator(mode="before")
    @classmethod
    def _paces_itself(cls, entry: Any) -> Any:
        keys = entry if isinstance(entry, Mapping) else {}
        if "processes" in keys:
            raise ValueError(
                "processes: a command is a process of its own already; let the program start more of them, all telling their "
                "operations on one descriptor, or declare several loads"
            )
        if found := next((pace for pace in PACES if pace in keys), None):
            raise ValueError(
                f"{found}: a command sets its own pace, one iteration after the other with `pause` in between; a program that "
                "shall do operations at a rate does that itself, and tells them by `operations`"
            )
        return entry

    @field_validator("command")
    @classmethod
    def _some_command(cls, command: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not command or not (command[0] if isinstance(command, tuple) else command.strip()):
            raise ValueError("expected a program and its arguments, found nothing")
        if "\0" in "".join(command):
            raise ValueError("a command cannot contain a NUL character")
        return command

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in env if not name or "=" in name or "\0" in name + env[name]]:
            raise ValueError(
                f"{wrong[0]!r} cannot be a variable: a name has no = and neither has a NUL in it"
            )
        return env

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.operations is None and "silence" in self.model_fields_set:
            raise ValueError("silence is for programs that tell their operations: add operations: stdout")
        if self.operations is not None and self.junit:
            raise ValueError(
                "operations come from lines or from a JUnit report: leave operations or junit out"
            )
        if self.shell:
            if not isinstance(self.command, str):
                raise ValueError("with shell: true the command is one string, not a list")
            return self
        if isinstance(self.command, str):
            if found := _SHELL.search(_QUOTED.sub("", self.command.strip())):
                what = "a command of several lines" if found[0] == "\n" else found[0]
                raise ValueError(
                    f"{what} needs a shell: add shell: true, or quote it if the program shall get it as it is"
                )
            try:
                shlex.split(self.command)
            except ValueError as error:
                raise ValueError(f"the command cannot be split: {str(error).lower()}") from None
        if self.counts_tests and any(_REPORT_OPTION.match(argument) for argument in self.argv):
            raise ValueError("soakd adds --junit-xml itself: leave it out, or set junit: false")
        return self

    @property
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments as written."""
        if self.shell:
            return ("/bin/sh", "-c", str(self.command))
        return tuple(shlex.split(self.command)) if isinstance(self.command, str) else self.command

    @property
    def counts_tests(self) -> bool:
        """Whether the operations are the test cases of a report."""
        if self.operations is not None:
            return False
        return self.junit if self.junit is not None else not self.shell and _is_pytest(self.argv)

    def reports(self, counter: str) -> bool:
        """A program that tells its operations counts what it likes."""
        return self.operations is not None or super().reports(counter)

    def problems(self, base: Path) -> list[str]:
        """Say if the working directory or the program is not there."""
        cwd, program = base / self.cwd, self.argv[0]
        if not cwd.is_dir():
            return [f"cannot run in {cwd}: there is no such directory; cwd is seen from the soak file"]
        name = str(cwd / program) if "/" in program else program
        if shutil.which(name, path=self.env.get("PATH")):
            return []
        hint = "variables go to env:" if "=" in program else "install it, or write its path"
        return [f"cannot run {program}: there is no such program on PATH or it is not executable; {hint}"]

    async def run(self, context: LoadContext) -> None:
        """Run the program again and again until `context.stop` is set."""
        lives = self._lives(context)
        cleaner = Cleaner(self.cleanup, context) if self.cleanup else None
        if cleaner:
            await _unless(context.stop, cleaner.prepare)
        while not context.stop.is_set() and (self.times is None or lives.count < self.times):
            rest = await lives.next()
            if cleaner:
                await _unless(context.stop, cleaner.clean)
            await _unless(context.stop, anyio.sleep, max(self.pause, rest))
        if cleaner:
            await cleaner.clean(LAST)
        context.recorder.flush()
        context.journal.emit(LoadStopped(load=context.name, open=lives.open))

    def _lives(self, context: LoadContext) -> Iterations | Rounds:
        task = self._task(context)
        if self.operations is None:
            return Iterations(task, context)
        timeout = self.timeout if "timeout" in self.model_fields_set else PATIENCE
        descriptor = self.operations if isinstance(self.operations, int) else 1
        return Rounds(replace(task, timeout=timeout), context, descriptor, self.silence)

    def _task(self, context: LoadContext) -> Task:
        argv, report = self.argv, None
        marks = {"SOAKD_RUN": context.run, "SOAKD_LOAD": context.name}
        if self.counts_tests:
            report = context.directory.absolute() / f".{context.name}.junit.xml"
            marks[REPORT] = str(report)
            argv += () if self.shell else (f"--junit-xml={report}",)
        return Task(
            argv=argv,
            cwd=context.base / self.cwd,
            env={**os.environ, **context.environment, **self.env, **marks},
            timeout=self.timeout,
            report=report,
        )


def _is_pytest(argv: tuple[str, ...]) -> bool:
    """Whether a command is `pytest ...`, or `python -m pytest ...` with whatever interpreter and options."""
    program = Path(argv[0]).name
    if program in ("pytest", "py.test"):
        return True
    return program.startswith("python") and any(pair == ("-m", "pytest") for pair in pairwise(argv[1:]))


async def _unless(stop: anyio.Event, act: Callable[..., Awaitable[None]], *arguments: float) -> None:
    """Do something that may wait, and leave it where it is as soon as `stop` is set."""

    async def watch() -> None:
        await stop.wait()
        group.cancel_scope.cancel()

    async with nursery() as group:
        group.start_soon(watch)
        await act(*arguments)
