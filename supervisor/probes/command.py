"""The probe that is a command: it says how things are by its exit code."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Annotated, ClassVar, Final

import anyio
import anyio.to_thread
from pydantic import BeforeValidator, Field

from supervisor.engines.spawn import Child, spawn
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Timeout, View

TAIL: Final = 2_000
"""Bytes of the output's end that are kept."""
CHUNK: Final = 65_536


def _words(written: object) -> object:
    """Split a command in one line as a shell would, without being one."""
    if isinstance(written, str):
        try:
            return shlex.split(written)
        except ValueError as error:
            raise ValueError(f"cannot split the command into words: {error}") from error
    return written


class CommandLook(Strict):
    """A command, and what is expected of it."""

    command: Annotated[tuple[str, ...], BeforeValidator(_words, json_schema_input_type=str | list[str])] = (
        Field(
            min_length=1, description="Program and arguments, as a list or in one line. No shell is involved."
        )
    )
    exit: int = Field(0, ge=0, le=255, description="The exit code that is ok.")
    timeout: Timeout = Field(
        10.0, description="How long it may take; then its whole process group is killed."
    )
    cwd: str = Field(".", description="Where it runs, seen from the soak file's folder.")


def _lift(written: object) -> object:
    return {"command": written} if isinstance(written, str | list) else written


class Command(Probe):
    """A command ends with the expected exit code."""

    key: ClassVar[str] = "command"

    command: Annotated[
        CommandLook, BeforeValidator(_lift, json_schema_input_type=str | list[str] | CommandLook)
    ]

    @property
    def title(self) -> str:
        """The command and its exit code."""
        return f"command {shlex.join(self.command.command)} == {self.command.exit}"

    @property
    def deadline(self) -> float:
        """Seconds that it may take."""
        return self.command.timeout

    async def see(self, view: View) -> Seen:
        """Run it once. The value is its exit code."""
        words, cwd = self.command.command, view.base / self.command.cwd
        try:
            environment = {**os.environ, **view.environment}
            child = await anyio.to_thread.run_sync(spawn, words, Path(cwd), environment)
        except OSError as error:
            raise CannotSee(f"cannot run {words[0]} in {cwd}: {error.strerror or error}") from error
        output = bytearray()
        try:
            await _wait(child, output)
        finally:
            code, ended_by = await _end(child, output)
        text = output.decode(errors="replace").strip()[-300:]
        if code is None:
            raise CannotSee(f"it was ended by {ended_by}: {text}")
        return Seen(
            code == self.command.exit, code, "" if code == self.command.exit else f"exit code {code}: {text}"
        )


async def _wait(child: Child, output: bytearray) -> None:
    """Wait until the process has ended, and take its output meanwhile."""

    async def take_all() -> None:
        while _take(child, output):
            await anyio.wait_readable(child.output)

    async with anyio.create_task_group() as group:
        group.start_soon(take_all)
        await anyio.wait_readable(child.pidfd)
        group.cancel_scope.cancel()


async def _end(child: Child, output: bytearray) -> tuple[int | None, str | None]:
    """End what is left of the process group, reap it and take what is left in the pipe (64 KiB: one chunk)."""
    with anyio.CancelScope(shield=True):
        child.send_group(signal.SIGKILL)
        await anyio.wait_readable(child.pidfd)
    ended = child.reap()
    _take(child, output)
    child.close()
    return ended


def _take(child: Child, output: bytearray) -> bool:
    """Take a chunk of what is in the pipe, keeping the end of it all; False: nobody can write to it any more."""
    try:
        chunk = os.read(child.output, CHUNK)
    except BlockingIOError:
        return True
    output += chunk
    del output[:-TAIL]
    return bool(chunk)
