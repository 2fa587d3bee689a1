"""Faults that go through units one after the other, as a careful operator would."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.fleet import Desired, Fleet
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.units import AtOnce, bring_back, survivors
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration, format_duration


class Rolling(AtOnce, ABC):
    """One unit at a time. Where one of them does not come back as it should, the rollout ends there."""

    over: ClassVar[str] = "is over with its last unit"
    in_targets: ClassVar[bool] = False
    at_once: ClassVar[int | None] = 1

    pause_between: Duration = Field(0.0, description="Time from one unit that is back to the next.")
    inject_timeout: Duration = Field(
        3600.0, gt=0, description="How long all of them together may take before the rollout is undone."
    )

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        pauses = (len(self.selector.of) - 1) * self.pause_between
        if pauses >= self.inject_timeout:
            raise ValueError(
                f"inject_timeout: the pauses alone take {format_duration(pauses)}, "
                f"which do not fit into {format_duration(self.inject_timeout)}"
            )
        return self

    @abstractmethod
    async def turn(self, world: World, unit: str, by: str) -> None:
        """Take one unit down and return once it is back, ready, and nobody's any more."""
        raise NotImplementedError

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Give each unit its turn."""
        for index, target in enumerate(intent.targets):
            if index:
                await anyio.sleep(self.pause_between)
            await self.turn(world, target.unit, intent.episode)

    def told(self, world: World, intent: FaultIntent) -> Collection[str]:
        """Return the one whose turn it was, if it lives on; those after it were never told to go.

        Whether it is ready does not tell: a unit without a check says so at once, and goes later, when nobody looks any more.
        """
        alive = survivors(world, intent)
        for target in intent.targets if world.recovering else ():
            if target.unit in alive:
                return [target.unit]
            if target.unit in world.fleet.ids:
                seen = world.fleet.status(target.unit).observed
                if seen.last is not None and seen.last == target.incarnation:
                    return []  # it is down already
        return []


class RollingRestart(Rolling):
    """Restart units one after the other, each once the one before it is ready again."""

    key: ClassVar[str] = "rolling_restart"

    rolling_restart: Selector = Field(description="The units to restart, in this order.")

    async def turn(self, world: World, unit: str, by: str) -> None:
        """Stop it, start it, wait for its readiness."""
        await world.fleet.hold(unit, by=by, desired=Desired.DOWN)
        await world.fleet.stop(unit, by=by)
        await back_and_ready(world.fleet, unit, by=by)


async def back_and_ready(fleet: Fleet, unit: str, *, by: str) -> None:
    """Start a unit, let it go, and wait until it is ready; EngineError if it never is."""
    await bring_back(fleet, unit, by=by)
    await fleet.wait_ready(unit)
