"""The fault that resets a share of the connections there are."""

from __future__ import annotations

import random
from typing import ClassVar

from pydantic import Field

from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.links import Chosen, OfLinks, links_of
from supervisor.journal.events import FaultIntent
from supervisor.links.base import LinkError
from supervisor.values import Share


class ConnectionKill(OfLinks):
    """Reset a share of a link's connections, at both ends and once, one connection at least. Nothing of it stays."""

    key: ClassVar[str] = "connection_kill"
    over: ClassVar[str] = "is over at once (reset lasts)"

    connection_kill: Chosen = Field(description="The links whose connections are reset.")
    share: Share = Field(1.0, gt=0, description="How many of each link's connections; rounded up.")

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose those of the links that have connections, and what the connections will be drawn by."""
        drawn = self.chosen.draw(self.chosen.of, rng)
        try:
            there = await links_of(world).connections()
        except LinkError as error:
            raise CannotAim(str(error)) from error
        links = [name for name in drawn if there.get(name)]
        if not links:
            raise CannotAim(f"there is no connection through {', '.join(drawn)} just now")
        return self.aimed(links, seed=rng.getrandbits(32))

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Reset them."""
        for link in intent.undo["links"]:
            await links_of(world).kill(link, self.share, intent.undo["seed"])
