"""The fault that takes units off their networks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import Field

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.capabilities import CanDisconnect
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.units import UnitFault, able, still, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration

NO_NETWORKS: Final = frozenset({"none", "host"})
"""What an engine lists among the networks, though nothing can be taken off them."""


class Disconnect(UnitFault):
    """Take units off a network for `hold`, as a pulled plug does: its devices and addresses are gone, published ports with them.

    It needs no privilege beyond the engine's socket. Afterwards a unit has the names and fixed addresses that it had; an address that
    the engine had chosen may be another one.
    """

    key: ClassVar[str] = "disconnect"
    needs = CanDisconnect
    instead: ClassVar[str] = (
        "local processes share this machine's network; have them meet over a link and break that, or use pause"
    )

    disconnect: Selector = Field(description="The units to take off their networks.")
    network: str | None = Field(
        None, min_length=1, description="The network to take them off; left out: all that they are on."
    )
    hold: Duration = Field(gt=0, description="How long they are off.")

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose the units, and note their networks as they are."""
        aim = await super().aim(world, rng)
        networks: dict[str, Mapping[str, Any]] = {}
        try:
            for unit in sorted(aim.units):
                engine, name = able(world.fleet, unit, CanDisconnect)
                found = await engine.networks(name)
                networks[unit] = {key: value for key, value in found.items() if self._meant(key)}
        except EngineError as error:
            raise CannotAim(str(error)) from error
        targets = tuple(target for target in aim.targets if networks[target.unit])
        if not targets:
            where = f"network {self.network}" if self.network else "any network"
            raise CannotAim(f"none of {', '.join(networks)} is on {where}")
        return Aim(targets, {"networks": {target.unit: networks[target.unit] for target in targets}})

    def _meant(self, network: str) -> bool:
        return network not in NO_NETWORKS and self.network in {None, network}

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take them off, all at once."""

        async def take_off(unit: str) -> None:
            engine, name = able(world.fleet, unit, CanDisconnect)
            for network in intent.undo["networks"][unit]:
                await engine.disconnect(name, network)

        await together([target.unit for target in intent.targets], take_off)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Put them back, as they were; one that was removed meanwhile has nothing to be put back."""
        fleet = world.fleet

        async def put_back(unit: str) -> None:
            engine, name = able(fleet, unit, CanDisconnect)
            for network, settings in intent.undo["networks"][unit].items():
                seen = await fleet.place(unit)[0].observe()
                if name in seen and seen[name].state is not UnitState.ABSENT:
                    await engine.connect(name, network, settings)

        with still("off their networks", "`docker network connect` them"):
            await together([target.unit for target in intent.targets if target.unit in fleet.ids], put_back)
