"""What an event is, how it is kept, and its place in the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

PART = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")
"""How events and their parts are kept. JSON has no infinity: as a string it comes back as what it was, not as null."""


class Event(BaseModel):
    """One thing that happened. Subclasses name their kind; `durable` ones are fsynced before anybody acts on them."""

    model_config = PART

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    durable: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    """True: above the byte budget, records of this kind may be folded into coarser ones."""

    def __init_subclass__(
        cls, kind: str = "", durable: bool = False, folds: bool = False, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        cls.kind, cls.durable, cls.folds = kind, durable, folds
        if kind:
            KINDS[kind] = cls


KINDS: dict[str, type[Event]] = {}


class OpenEvent(Event):
    """An event of a kind this code has no class for, kept as it came."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its place in the journal."""

    sequence: int
    """1, 2, 3 ... without a gap over all segments of a run."""
    wall: float
    """Seconds since the epoch."""
    mono: float
    """Seconds of the host's monotonic clock: the one to measure with, comparable within one boot."""
    event: Event


def decode(kind: str, version: int, data: bytes) -> Event:
    """Return the event that JSON data of a kind stands for, an `OpenEvent` if no class here can read it.

    ValueError if the data is no JSON. This is the place to lift the data of older versions.
    """
    cls = KINDS.get(kind)
    if cls is not None and version == cls.version:
        try:
            return cls.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]  # it makes a cls
        except ValidationError:
            pass
    return OpenEvent(name=kind, data=json.loads(data))
