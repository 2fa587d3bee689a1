"""The fault that is made, and undone, by the user's own commands."""

from __future__ import annotations

import os
import random
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal, Self

import anyio
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from supervisor.engines.process import Text, words
from supervisor.engines.program import run_program
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, Fault, Layout, Site, UndoError, World
from supervisor.faults.units import choose
from supervisor.journal.events import FaultIntent, Target

NONE = "none"
_HERE: Final = Path()


class CommandFailed(Exception):  # noqa: N818  # what happened is in the name
    """A command did not end as it should; the text says how, with its last output."""


def _argv(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0].strip():
        raise ValueError("expected a program and its arguments, found nothing")
    return command


def _undo(written: object) -> object:
    return written if written == NONE else words(written)


Argv = Annotated[
    tuple[Text, ...],
    BeforeValidator(words, json_schema_input_type=str | Annotated[list[Text], Field(min_length=1)]),
    AfterValidator(_argv),
]


class Command(Fault):
    """Run a command, hold, and run another one that takes it back. Both end with exit code 0, or have failed.

    Both are told `SOAKD_EPISODE`, by which inject can name what it makes and undo finds it, and `SOAKD_UNITS`. Undo may come without
    inject, after half of it, twice, and after the death of soakd: it has to be harmless then. What a command leaves running in its
    process group ends with it.
    """

    key: ClassVar[str] = "command"
    renews: ClassVar[bool] = True
    undo_needs_engines: ClassVar[bool] = False

    command: Argv = Field(
        description="What injects the fault: a program and its arguments. No shell is involved."
    )
    undo_command: Literal["none"] | Argv = Field(
        alias="undo", description="What takes it back, or none if nothing can or has to."
    )
    units: Selector | None = Field(
        None, description="The units it acts on, so that no other fault has them at the same time."
    )
    cwd: Path = Field(Path(), description="Working directory, seen from the soak file.")
    env: dict[str, Text] = Field(
        default_factory=dict, description="Variables besides soakd's own environment."
    )

    @model_validator(mode="after")
    def _something_to_hold(self) -> Self:
        if self.hold and self.undo_command == NONE:
            raise ValueError("hold: with undo: none nothing is taken back after it, leave hold out")
        return self

    def selects(self) -> Selector | None:
        """The units, if it names any."""
        return self.units

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:  # noqa: ARG002  # it is about programs alone
        """Programs and a working directory that are not there."""
        for argv in (self.command, self.undo_command):
            if argv != NONE and (why := absent(tuple(argv), site.base / self.cwd, self.env)):
                yield why

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose the units, if there are any."""
        units = await choose(world.fleet, self.units, rng) if self.units else ()
        observed = {unit: world.fleet.status(unit).observed for unit in units}
        return Aim(tuple(Target(unit=unit, incarnation=seen.incarnation) for unit, seen in observed.items()))

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Run the command; CommandFailed if it does not end with 0."""
        await run(self.command, world, intent, self.inject_timeout, cwd=self.cwd, env=self.env)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Run the other command."""
        if self.undo_command == NONE:
            return
        argv = tuple(self.undo_command)
        try:
            await run(argv, world, intent, self.undo_timeout, cwd=self.cwd, env=self.env)
        except CommandFailed as error:
            raise UndoError(again(error, argv, intent)) from error


def absent(argv: tuple[str, ...], folder: Path, env: Mapping[str, str] = MappingProxyType({})) -> str:
    """Say what is not there of a command that runs in a folder; empty if all is. Blocks."""
    if not folder.is_dir():
        return f"cannot run {argv[0]} in {folder}: there is no such directory; it is seen from the soak file"
    name = str(folder / argv[0]) if "/" in argv[0] else argv[0]
    if shutil.which(name, path=env.get("PATH")):
        return ""
    return f"cannot run {argv[0]}: there is no such program on PATH or it is not executable; install it, or write its path"


def again(error: CommandFailed, argv: tuple[str, ...], intent: FaultIntent) -> str:
    """Say of a command that should have taken something back how to do so by hand."""
    by_hand = f"SOAKD_EPISODE={shlex.quote(intent.episode)} {shlex.join(argv)}"
    return f"{error}; mend the cause and run `soakd recover`, or by hand: {by_hand}"


async def run(
    argv: tuple[str, ...],
    world: World,
    intent: FaultIntent,
    timeout: float,
    *,
    cwd: Path = _HERE,
    env: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run a command of the user's, told the episode and its units; CommandFailed if it does not end with 0 in time."""
    own = {"SOAKD_EPISODE": intent.episode, "SOAKD_UNITS": " ".join(t.unit for t in intent.targets)}
    folder = world.base / cwd
    try:
        ended = await run_program(
            argv,
            cwd=folder,
            env={**os.environ, **world.environment, **env, **own},
            output=_ignore,
            timeout=timeout,
            stop=anyio.Event(),
        )
    except OSError as error:
        raise CommandFailed(f"cannot run {argv[0]} in {folder}: {error.strerror or error}") from error
    if not ended.ok:
        how = "took too long" if ended.why == "timeout" else f"ended with {ended.status}"
        raise CommandFailed(f"{shlex.join(argv)} {how}: {ended.tail.strip() or 'it wrote nothing'}")


def _ignore(_: bytes) -> None:
    """Take output that only matters if the command fails: `Ended` keeps its end."""
