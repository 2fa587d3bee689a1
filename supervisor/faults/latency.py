"""The fault that makes links slow."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from supervisor.faults.links import Chosen, Direction, Toxin
from supervisor.links import toxics
from supervisor.values import Duration


class Latency(Toxin):
    """Everything on a link arrives later, in each direction that is meant: with `both` a round trip takes twice the delay more."""

    key: ClassVar[str] = "latency"

    latency: Chosen = Field(description="The links that become slow.")
    delay: Duration = Field(gt=0, description="By how much later everything arrives.")
    jitter: Duration = Field(
        0.0, description="By how much more or less, drawn evenly for each piece; nothing overtakes."
    )
    direction: Direction = "both"

    @model_validator(mode="after")
    def _less_than_the_delay(self) -> Self:
        if self.jitter > self.delay:
            raise ValueError("jitter: expected no more than delay: nothing arrives before it was sent")
        return self

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Latency(delay=self.delay, jitter=self.jitter, way=self.direction)
