"""The probe that is a command: it says how things are by its exit code."""

from __future__ import annotations

import math
import os
import shlex
from typing import Annotated, ClassVar, Final

import anyio
from pydantic import BeforeValidator, Field

from supervisor.engines.program import run_program
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Timeout, View

TAIL: Final = 2_000
"""Bytes of the output's end that are kept."""


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
        output = bytearray()

        def keep(chunk: bytes) -> None:
            output.extend(chunk)
            del output[:-TAIL]

        try:
            ended = await run_program(
                words,
                cwd=cwd,
                env={**os.environ, **view.environment},
                output=keep,
                timeout=math.inf,  # the probe has a deadline, which cancels this
                stop=anyio.Event(),
            )
        except OSError as error:
            raise CannotSee(f"cannot run {words[0]} in {cwd}: {error.strerror or error}") from error
        text = output.decode(errors="replace").strip()[-300:]
        if ended.code is None:
            raise CannotSee(f"it was ended by {ended.status}: {text}")
        holds = ended.code == self.command.exit
        return Seen(holds, ended.code, "" if holds else f"exit code {ended.code}: {text}")
