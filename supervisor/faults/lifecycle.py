"""Faults in the life of units."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import ClassVar, Final, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Desired, Fleet, Held, Protected
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, Fault, UndoError, World
from supervisor.journal.events import FaultIntent, Target

HURRY: Final = 2.0
"""Seconds that a unit still has which was told to stop when inject was cut short: a stop once begun is not to be taken back."""


class Restart(Fault):
    """Stop units in order, all together, and start them again as soon as all are down.

    Inject ends when all processes run; whether they are ready, and the system with them, is for the steady state to say. Units that
    are not up when it is their turn are left alone: they are their watchdog's.
    """

    key: ClassVar[str] = "restart"

    restart: Selector = Field(description="The units to restart.")

    @model_validator(mode="after")
    def _no_hold(self) -> Self:
        if self.hold:
            raise ValueError("hold: a restart is over once the units run again, leave hold out")
        return self

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose those of the units that are up."""
        units = await choose(world.fleet, self.restart, rng)
        targets = [target for unit in units if (target := _up(world.fleet, unit))]
        if not targets:
            raise CannotAim(f"none of {', '.join(units)} is up and free")
        return Aim(tuple(targets))

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # a selector names its own
        """Name the units, or say what only the run can tell."""
        return ", ".join(self.restart.draw(self.restart.of, rng)) if self.restart.of else str(self.restart)

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take all units over, stop them, start them, let them go."""
        fleet, by, units = world.fleet, intent.episode, [target.unit for target in intent.targets]

        async def take_down(unit: str) -> None:
            await fleet.hold(unit, by=by, desired=Desired.DOWN)
            await fleet.stop(unit, by=by)

        await together(units, lambda unit: fleet.hold(unit, by=by, desired=Desired.UP))
        await together(units, take_down)
        await together(units, lambda unit: bring_back(fleet, unit, by=by))

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Start what inject left down. What it has let go again is not its business any more."""
        fleet, by = world.fleet, intent.episode
        units = [target.unit for target in intent.targets if target.unit in fleet.ids]
        ours = units if world.recovering else [unit for unit in units if fleet.status(unit).holder == by]

        async def mend(unit: str) -> None:
            if fleet.status(unit).desired is Desired.DOWN:
                await fleet.stop(unit, by=by, timeout=HURRY)
            await bring_back(fleet, unit, by=by)

        try:
            await together(ours, mend)
        except EngineError as error:
            raise UndoError(
                f"units are still down: {error}; mend the cause and run `soakd recover`, or start them by hand"
            ) from error


async def choose(fleet: Fleet, selector: Selector, rng: random.Random) -> tuple[str, ...]:
    """Resolve a fault's selector; CannotAim if it means nothing that may be a target now."""
    try:
        return await fleet.resolve(selector, rng, targets=True)
    except (EngineError, Protected) as error:
        raise CannotAim(str(error)) from error


async def bring_back(fleet: Fleet, unit: str, *, by: str) -> None:
    """Start a unit and let it go. It is meant to be up from before its start on, so that an exit from then on is a crash."""
    await fleet.hold(unit, by=by, desired=Desired.UP)
    await fleet.start(unit, by=by)
    await fleet.release(unit, by=by)


async def together(units: Iterable[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Act on all units at once and to the end, whichever fails; EngineError names all that did."""
    failures: dict[str, str] = {}

    async def act_on(unit: str) -> None:
        try:
            await act(unit)
        except (EngineError, Held, Protected) as error:
            failures[unit] = str(error)

    units = tuple(units)
    async with anyio.create_task_group() as group:
        for unit in units:
            group.start_soon(act_on, unit)
    if failures:
        raise EngineError("; ".join(failures[unit] for unit in units if unit in failures))


def _up(fleet: Fleet, unit: str) -> Target | None:
    status = fleet.status(unit)
    free = status.holder is None and status.observed.state is UnitState.UP
    return Target(unit=unit, incarnation=status.observed.incarnation) if free else None
