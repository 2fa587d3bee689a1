"""The fault that cuts units off from others on their networks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from supervisor.engines.base import EngineError
from supervisor.engines.capabilities import CanPartition, Cut, Reach
from supervisor.engines.fleet import Fleet
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, Layout, Problem, World
from supervisor.faults.units import UnitFault, able, choose, still, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration


class Partition(UnitFault):
    """Drop packets between a group of units and others for `hold`, without a word to either side. Within the group all goes on.

    Left to themselves, the others are all that is on the units' networks. Who comes in from outside of them, over a published port, is
    not cut off: that is what tells it from `disconnect`. A unit that is started anew meanwhile has a new network namespace without any
    of this, which is recorded as cut short.
    """

    key: ClassVar[str] = "partition"
    needs = CanPartition
    instead: ClassVar[str] = (
        "local processes share this machine's network; have them meet over a link and break that, or use pause"
    )

    partition: Selector = Field(description="The units to cut off; they keep in touch with each other.")
    peers: Selector | None = Field(
        None,
        alias="from",
        description="The units that they are cut off from, by their addresses at that moment; left out: all others on their networks.",
    )
    direction: Literal["both", "in", "out"] = Field(
        "both", description="Drop what comes in to them, what goes out from them, or both."
    )
    hold: Duration = Field(gt=0, description="How long they are cut off.")

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """Units, and others, whose engine gives them no network of their own."""
        yield from super().problems(layout)
        if self.peers:
            yield from self.unable(layout, "from", self.peers)
            group, others = layout.selected(self.partition), layout.selected(self.peers)
            drawn = self.partition.pick or self.partition.leader_of
            if others and not drawn and set(others) <= set(group):
                what = f"{', '.join(others)} would be cut off from nobody: all of them are in the group that keeps in touch"
                yield Problem(("from",), f"{what}; name others, or leave from out")

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose the units, and find out where they and the others are."""
        aim = await super().aim(world, rng)
        try:
            own = {unit: await _reach(world.fleet, unit) for unit in sorted(aim.units)}
            others = await self._others(world, rng, aim.units)
        except EngineError as error:
            raise CannotAim(str(error)) from error
        group = [address for reach in own.values() for address in reach.addresses]
        cuts = {
            unit: {
                "peers": list(reach.networks) if others is None else others,
                "spare": [*group, *reach.gateways] if others is None else [],
            }
            for unit, reach in own.items()
        }
        if alone := [unit for unit, cut in cuts.items() if not cut["peers"]]:
            raise CannotAim(f"there is nobody on a network that {', '.join(alone)} could be cut off from")
        return Aim(aim.targets, {"cuts": cuts})

    async def _others(self, world: World, rng: random.Random, group: frozenset[str]) -> list[str] | None:
        """Return the addresses of those that they are cut off from; None: all others."""
        if self.peers is None:
            return None
        units = [unit for unit in await choose(world.fleet, self.peers, rng) if unit not in group]
        return [address for unit in units for address in (await _reach(world.fleet, unit)).addresses]

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Cut them off, all at once."""
        fleet, cuts = world.fleet, intent.undo["cuts"]

        async def cut_off(unit: str) -> None:
            engine, name = able(fleet, unit, CanPartition)
            cut = Cut(**cuts[unit], inbound=self.direction != "out", outbound=self.direction != "in")
            await engine.cut_off(name, intent.episode, cut)

        await together(cuts, cut_off)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Let them through again; where they have begun a new life, or are gone, so is what was done to them."""
        fleet = world.fleet

        async def let_through(unit: str) -> None:
            engine, name = able(fleet, unit, CanPartition)
            await engine.let_through(name, intent.episode)

        with still("cut off", "restart them, which takes the rules away,"):
            await together([unit for unit in intent.undo["cuts"] if unit in fleet.ids], let_through)


async def _reach(fleet: Fleet, unit: str) -> Reach:
    engine, name = able(fleet, unit, CanPartition)
    return await engine.reach(name)
