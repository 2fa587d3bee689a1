"""The fault in which links deliver in small pieces."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.faults.links import Chosen, Direction, Toxin
from supervisor.links import toxics
from supervisor.values import Duration, Size


class Slice(Toxin):
    """Everything arrives in pieces of at most `size`, with a `gap` after each, whatever the sender did."""

    key: ClassVar[str] = "slice"

    slice: Chosen = Field(description="The links that cut everything up.")
    size: Size = Field(gt=0, description="How large a piece is at most.")
    gap: Duration = Field(0.01, description="Time from one piece to the next.")
    direction: Direction = "both"

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Slice(size=self.size, gap=self.gap, way=self.direction)
