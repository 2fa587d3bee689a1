"""When something comes: the keys that every fault and the nemesis have."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from supervisor.kinds import Strict
from supervisor.values import Duration


class Schedule(Strict):
    """When something comes."""

    every: Duration | None = Field(None, description="Time from the close of one episode to the next inject.")
    between: tuple[Duration, Duration] | None = Field(
        None, description="The same, drawn evenly from this range."
    )
    at: tuple[Duration, ...] | None = Field(None, description="Times since the start of the soak.")
    times: int | None = Field(None, ge=1, description="At most so many episodes.")
    only_when: Literal["steady"] | None = Field(
        None, description="Wait for the steady state before each inject, however long that takes."
    )

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        given = [name for name in ("every", "between", "at") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of every, between or at, found {' and '.join(given)}")
        if self.between and self.between[0] > self.between[1]:
            raise ValueError("between: the first time is longer than the second, swap them")
        return self

    @property
    def scheduled(self) -> bool:
        """Whether it says when it comes."""
        return any(given is not None for given in (self.every, self.between, self.at))
