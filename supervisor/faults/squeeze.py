"""Faults that leave units less of the machine: a share of a processor, less memory."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.capabilities import CanLimit
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.units import UnitFault, able, still, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration, Size, format_size

LEAST_MEMORY: Final = 6 * 1024 * 1024
"""Bytes; a container engine takes no less."""


def _enough(size: int) -> int:
    if size < LEAST_MEMORY:
        raise ValueError(f"expected {format_size(LEAST_MEMORY)} or more")
    return size


class Squeeze(UnitFault, ABC):
    """Lower a limit of units for `hold`. It stays with them when they are started anew meanwhile; a container that is made anew has none.

    Whoever sets another limit in the meantime keeps it: undo takes back what is still as inject left it.
    """

    needs = CanLimit
    stays: ClassVar[bool] = True
    instead: ClassVar[str] = "local processes need control groups for that: set cgroups: true at their engine"

    hold: Duration = Field(gt=0, description="How long the limit holds.")

    @abstractmethod
    async def tightened(self, engine: CanLimit, unit: str) -> Mapping[str, int]:
        """Return the limits to set on a unit, by the engine's name for it; EngineError if it has no more already."""
        raise NotImplementedError

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose those of the units that have more than the limit would leave them, and note what they have."""
        aim, why = await super().aim(world, rng), list[str]()
        before: dict[str, Mapping[str, int]] = {}
        after: dict[str, Mapping[str, int]] = {}
        for target in aim.targets:
            try:
                engine, name = able(world.fleet, target.unit, CanLimit)
                limits = await self.tightened(engine, name)
                before[target.unit] = {
                    key: value for key, value in (await engine.limits(name)).items() if key in limits
                }
                after[target.unit] = limits
            except EngineError as error:
                why.append(str(error))
        if not after:
            raise CannotAim("; ".join(why))
        targets = tuple(target for target in aim.targets if target.unit in after)
        return Aim(targets, {"before": before, "after": after})

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Set the limits, all at once."""

        async def limit(unit: str) -> None:
            engine, name = able(world.fleet, unit, CanLimit)
            await engine.limit(name, intent.undo["after"][unit])

        await together(intent.undo["after"], limit)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Set them back where they are as inject left them; a unit that is gone took its limits with it."""
        fleet = world.fleet

        async def set_back(unit: str) -> None:
            seen = await fleet.place(unit)[0].observe()
            engine, name = able(fleet, unit, CanLimit)
            if name not in seen or seen[name].state is UnitState.ABSENT:
                return
            before, after, now = (
                intent.undo["before"][unit],
                intent.undo["after"][unit],
                await engine.limits(name),
            )
            if ours := {key: before[key] for key in before if now.get(key) == after[key]}:
                await engine.limit(name, ours)

        with still("limited", "give them back what the intent in the journal says they had"):
            await together([unit for unit in intent.undo["before"] if unit in fleet.ids], set_back)


class CpuSqueeze(Squeeze):
    """Leave units so many processors' time, all together or a part of one, as a noisy neighbour does."""

    key: ClassVar[str] = "cpu_squeeze"

    cpu_squeeze: Selector = Field(description="The units to squeeze.")
    cpus: float = Field(
        ge=0.01, description="How many processors' time each of them has left; 0.1 is a tenth of one."
    )

    async def tightened(self, engine: CanLimit, unit: str) -> Mapping[str, int]:
        """Return a quota of processor time."""
        return await engine.tightened(unit, cpus=self.cpus)


class MemorySqueeze(Squeeze):
    """Leave units so much memory, and no swap.

    Where a unit uses more, the kernel takes back what it can, caches first. For the rest version 2 of control groups kills the unit at
    once, which is a crash that the episode explains; version 1 refuses, and inject fails. Either kills a unit that grows beyond it.
    """

    key: ClassVar[str] = "memory_squeeze"

    memory_squeeze: Selector = Field(description="The units to squeeze.")
    memory: Annotated[Size, AfterValidator(_enough)] = Field(
        description="How much memory each of them has left."
    )

    async def tightened(self, engine: CanLimit, unit: str) -> Mapping[str, int]:
        """Return a limit of memory."""
        return await engine.tightened(unit, memory=self.memory)
