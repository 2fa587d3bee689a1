"""The fault in which links swallow everything, in one direction or both."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.faults.links import Chosen, Direction, Toxin
from supervisor.links import toxics


class Blackhole(Toxin):
    """Nothing that is sent arrives, and nothing is closed. What was accepted by then arrives after it."""

    key: ClassVar[str] = "blackhole"

    blackhole: Chosen = Field(description="The links that swallow everything.")
    direction: Direction = "both"

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Blackhole(way=self.direction)
