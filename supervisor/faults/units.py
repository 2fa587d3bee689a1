"""What faults in the life of units share: who is chosen, how several are acted on at once, and how they come back."""

from __future__ import annotations

import random
from abc import ABC
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final, TypeVar

import anyio

from supervisor.engines.base import EngineError, GoneError, UnitState
from supervisor.engines.fleet import Desired, Fleet, Held, Protected
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, Fault, Layout, Problem, Site, UndoError, World
from supervisor.journal.events import FaultIntent, Target

HURRY: Final = 2.0
"""Seconds that a unit still has which was told to stop when inject was cut short: a stop once begun is not to be taken back."""


class UnitFault(Fault, ABC):
    """A fault whose own key selects the units that it acts on; units that are not up and free when it is their turn are left alone."""

    needs: ClassVar[type | None] = None
    """The capability (a protocol of `engines.base`) that it needs of their engine."""
    instead: ClassVar[str] = ""
    """Why an engine may not have it, and what to use there, in words."""

    @property
    def selector(self) -> Selector:
        """The units, as written."""
        written: Selector = getattr(self, self.key)
        return written

    def selects(self) -> Selector:
        """The units, as written."""
        return self.selector

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose those of the units that are up."""
        units = await choose(world.fleet, self.selector, rng)
        targets = [target for unit in units if (target := _up(world.fleet, unit))]
        if not targets:
            states = "; ".join(_state(world.fleet, unit) for unit in units)
            raise CannotAim(f"none of {', '.join(units)} is up and free: {states}")
        return Aim(tuple(targets))

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # a selector names its own
        """Name the units, or say what only the run can tell."""
        return (
            ", ".join(self.selector.draw(self.selector.of, rng)) if self.selector.of else str(self.selector)
        )

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """Units whose engine cannot do this."""
        yield from self.unable(layout, self.key, self.selector)

    def unable(self, layout: Layout, key: str, selector: Selector) -> Iterator[Problem]:
        """Yield which units of a selector, written at a key, have an engine that lacks what this needs."""
        for unit in layout.selected(selector) if self.needs else ():
            engine = layout.engine_of(unit)
            if self.needs and not engine.offers(self.needs):
                why = self.instead or f"its engine, {engine.key}, has no {self.key}"
                yield Problem((key,), f"cannot {self.key} {unit}: {why}")

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:  # noqa: ARG002  # for kinds that look at files
        """What the engines of its units lack for it."""
        for unit in layout.selected(self.selector) if self.needs else ():
            if self.needs and (why := layout.lacks(unit, self.needs)):
                yield f"cannot {self.key} {unit}: {why}"

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Start what inject left down. What it has let go again is not its business any more, nor what others brought up or took away."""
        fleet, by, told = world.fleet, intent.episode, self.told(world, intent)
        before = {target.unit: target.incarnation for target in intent.targets}

        async def mend(unit: str) -> None:
            status = fleet.status(unit)
            left = status.desired is Desired.DOWN and status.observed.incarnation in {None, before[unit]}
            if left or unit in told:
                await fleet.stop(unit, by=by, timeout=HURRY)
            try:
                await bring_back(fleet, unit, by=by)
            except GoneError:
                await fleet.release(unit, by=by)

        with still("down", "start them"):
            await together(ours(world, intent), mend)

    def told(self, world: World, intent: FaultIntent) -> Collection[str]:
        """Return the targets that may have been told to end and live on (`survivors`): here any, since all are told together."""
        return survivors(world, intent)


class AtOnce(UnitFault, ABC):
    """One that is over as soon as inject is: there is nothing to hold."""

    over: ClassVar[str] = "is over at once"


async def choose(fleet: Fleet, selector: Selector, rng: random.Random) -> tuple[str, ...]:
    """Resolve a fault's selector; CannotAim if it means nothing that may be a target now."""
    try:
        return await fleet.resolve(selector, rng, targets=True)
    except (EngineError, Protected) as error:
        raise CannotAim(str(error)) from error


def ours(world: World, intent: FaultIntent) -> list[str]:
    """Return the targets that the episode still holds; in recovery, where nobody holds any more, all that are still there."""
    fleet = world.fleet
    units = [target.unit for target in intent.targets if target.unit in fleet.ids]
    return (
        units if world.recovering else [unit for unit in units if fleet.status(unit).holder == intent.episode]
    )


def survivors(world: World, intent: FaultIntent) -> list[str]:
    """Return the targets that still live, in recovery, the life that was aimed at; in the run itself, where claims say it, none.

    Nobody knows any more which of them was told to end. What is on its way out cannot be called back, may take long, and would go when
    nobody looks any more: an engine starts no container again that it was asked to signal. So these end now, and are started.
    """
    if not world.recovering:
        return []
    before = {target.unit: target.incarnation for target in intent.targets}
    seen = {unit: world.fleet.status(unit).observed.incarnation for unit in ours(world, intent)}
    return [unit for unit, life in seen.items() if life is not None and life == before[unit]]


P = TypeVar("P")


def able(fleet: Fleet, unit: str, power: type[P]) -> tuple[P, str]:
    """Return the engine of a unit as one that has a capability, and the unit's name there; EngineError if it has not."""
    engine, name = fleet.place(unit)
    if not isinstance(engine, power):
        raise EngineError(f"cannot do this to {unit}: its engine does not offer {power.__name__}")
    return engine, name


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


def is_up(fleet: Fleet, unit: str) -> bool:
    """Whether a unit was last seen running, not frozen."""
    return fleet.status(unit).observed.state is UnitState.UP


@contextmanager
def still(what: str, how: str) -> Iterator[None]:
    """Say of what an undo cannot do that units are still so, and how to mend it."""
    try:
        yield
    except EngineError as error:
        raise UndoError(
            f"units are still {what}: {error}; mend the cause and run `soakd recover`, or {how} by hand"
        ) from error


def _up(fleet: Fleet, unit: str) -> Target | None:
    status = fleet.status(unit)
    free = status.holder is None and is_up(fleet, unit)
    return Target(unit=unit, incarnation=status.observed.incarnation) if free else None


def _state(fleet: Fleet, unit: str) -> str:
    status = fleet.status(unit)
    if status.holder is not None:
        return f"{unit} is held {status.desired} by {status.holder}"
    return f"{unit} is {status.observed.state}"
