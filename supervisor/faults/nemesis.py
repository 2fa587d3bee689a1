"""The nemesis: draws from a list of faults, which then have no schedule of their own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from supervisor.faults.schedule import Schedule
from supervisor.kinds import Name
from supervisor.values import Share


def _even(written: object) -> object:
    """Weigh the faults of a plain list alike."""
    if isinstance(written, list | tuple) and all(isinstance(name, str) for name in written):
        if twice := [name for name in dict.fromkeys(written) if written.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice: give it a weight instead")
        return dict.fromkeys(written, 1)
    return written


Weight = Annotated[float, Field(gt=0)]


class Nemesis(Schedule):
    """Which fault comes next is drawn, by weight."""

    of: Annotated[
        dict[Name, Weight], BeforeValidator(_even, json_schema_input_type=dict[Name, Weight] | list[Name])
    ] = Field(
        min_length=1, description="The faults to draw from, each with its weight; a list weighs all alike."
    )
    quiet: Share = Field(
        0.0, description="The share of draws that come to nothing, for the system to breathe."
    )
    overlap: bool = Field(
        False,
        description="Draw on while episodes are open, so that faults meet. Never two on one unit, nor two of one fault.",
    )

    @model_validator(mode="after")
    def _comes(self) -> Self:
        if not self.scheduled:
            raise ValueError("expected one of every, between or at, found none")
        if self.quiet >= 1:
            raise ValueError("quiet: with 100% nothing would ever come")
        return self
