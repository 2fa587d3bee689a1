"""The fault that makes links narrow."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.faults.links import Chosen, Direction, Toxin
from supervisor.links import toxics
from supervisor.values import Throughput


class Bandwidth(Toxin):
    """All connections of a link together carry no more than `rate`, in each direction that is meant."""

    key: ClassVar[str] = "bandwidth"

    bandwidth: Chosen = Field(description="The links that become narrow.")
    rate: Throughput = Field(gt=0, description="How much all connections of a link carry together.")
    direction: Direction = "both"

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Bandwidth(rate=self.rate, way=self.direction)
