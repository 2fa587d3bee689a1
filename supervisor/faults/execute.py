"""The fault that is made, and undone, by programs that run inside units."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar, Final, Literal, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.capabilities import CanExecute
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.command import NONE, Argv
from supervisor.faults.units import UnitFault, able, still, together
from supervisor.journal.events import FaultIntent

SHOWN: Final = 500
"""Bytes of a program's last output in the message that says how it failed."""
_LOOK: Final = 0.1
"""Seconds between two looks at a unit that is to come up."""


class Execute(UnitFault):
    """Run a program inside units, hold, and run another one there that takes it back. Both end with exit code 0, or have failed.

    In a container it runs as the container's user, with its files and network; of a local process, which shares this machine, in its
    directory with its environment. What it leaves behind stays with a container that is started anew, and is gone with one that is made anew.
    """

    key: ClassVar[str] = "exec"
    needs = CanExecute
    stays: ClassVar[bool] = True

    exec: Selector = Field(description="The units that it runs in, all at the same time.")
    run: Argv = Field(
        description="What injects the fault: a program of the unit's and its arguments. No shell is involved."
    )
    undo_command: Literal["none"] | Argv = Field(
        alias="undo", description="What takes it back, or none if nothing can or has to."
    )

    @model_validator(mode="after")
    def _something_to_hold(self) -> Self:
        if self.hold and self.undo_command == NONE:
            raise ValueError("hold: with undo: none nothing is taken back after it, leave hold out")
        return self

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Run the program in all of them; EngineError if it does not end with 0."""
        units = [target.unit for target in intent.targets]
        await together(units, lambda unit: self._run(world, unit, self.run, intent, self.inject_timeout))

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Run the other program in those that are still there, once they are up. In recovery nobody else starts what has crashed."""
        if self.undo_command == NONE:
            return
        argv, fleet = tuple(self.undo_command), world.fleet
        lives = {target.unit: target.incarnation for target in intent.targets if target.unit in fleet.ids}

        async def take_back(unit: str) -> None:
            while (seen := (await fleet.look(unit)).observed).state is not UnitState.ABSENT:
                if seen.state is UnitState.DOWN and world.recovering:
                    await fleet.start(unit, by=intent.episode)
                elif seen.state is UnitState.DOWN:
                    await anyio.sleep(_LOOK)
                elif not self.is_in(seen.incarnation, lives[unit]) or await tried(unit, seen.incarnation):
                    return

        async def tried(unit: str, incarnation: str | None) -> bool:
            try:
                await self._run(world, unit, argv, intent, self.undo_timeout)
            except EngineError:
                if (await fleet.look(unit)).observed.incarnation == incarnation:
                    raise
                return False  # it ended in the middle: once more in its next life
            return True

        with still("changed", f"run {shlex.join(argv)} in them"):
            await together(lives, take_back)

    async def _run(
        self, world: World, unit: str, argv: Sequence[str], intent: FaultIntent, timeout: float
    ) -> None:
        engine, name = able(world.fleet, unit, CanExecute)
        code, said = await engine.execute(name, argv, timeout, {"SOAKD_EPISODE": intent.episode})
        if code:
            text = said[-SHOWN:].decode(errors="replace").strip()
            raise EngineError(
                f"{shlex.join(argv)} in {unit} ended with exit code {code}: {text or 'it wrote nothing'}"
            )
