"""Selectors: how the soak file points at units.

dispatcher                              one unit
[nats1, nats2]                          these units
{of: [nats1, nats2, nats3], pick: one}  drawn from them: one, a number, 30%, minority or majority
{label: "tier=backend"}                 the units with this label; `pick` draws from them
{leader_of: ORDERS}                     the unit that leads a stream at that moment
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from supervisor.kinds import Strict
from supervisor.values import Written, parse_share

_PICKS: Final = "expected one, a number, a share such as 30%, minority or majority"


@dataclass(frozen=True, slots=True)
class Pick(Written):
    """How many of some units to draw."""

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"enum": ["one", "minority", "majority"]},
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": r"^(\d+|\d+(\.\d+)?\s*%)$"},
        ],
        "description": "How many to draw.",
    }

    text: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `one`, `2`, `30%`, `minority` or `majority`; ValueError says what was expected."""
        if isinstance(text, cls):
            return text
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ValueError(_PICKS)  # noqa: TRY004  # pydantic reports ValueErrors only
        word = str(text).strip()
        if word in {"one", "minority", "majority"} or (word.isascii() and word.isdigit() and int(word) > 0):
            return cls(word)
        try:
            if parse_share(word) > 0:
                return cls(word)
        except ValueError:
            pass
        raise ValueError(_PICKS)

    def size(self, total: int) -> int:
        """Return how many of `total` that is; ValueError if there are not so many, or none.

        A share is rounded down, to one at least: it never takes more than it says unless nothing would be left of it.
        """
        match self.text:
            case "one":
                size = 1
            case "minority":
                size = (total - 1) // 2
            case "majority":
                size = total // 2 + 1
            case share if share.endswith("%"):
                size = max(int(parse_share(share) * total + 1e-9), 1)
            case number:
                size = int(number)
        if not 1 <= size <= total:
            raise ValueError(f"cannot pick {self.text} of {total} {'unit' if total == 1 else 'units'}")
        return size

    def __str__(self) -> str:
        return self.text


class Choice(Strict):
    """Some of what has names: one of them, a list, or `{of: [...], pick: one}`."""

    expected: ClassVar[str]
    """How it may be written, in words."""

    of: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    pick: Pick | None = None

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, written: object) -> object:
        """Bring all ways to write it into the one form of the fields."""
        if isinstance(written, cls):
            return written
        match written:
            case str():
                return {"of": [written]}
            case Sequence():
                return {"of": written}
            case Mapping():
                return {**written, **cls._lift_of(written["of"])} if "of" in written else written
        raise ValueError(f"expected {cls.expected}")

    @classmethod
    def _lift_of(cls, written: object) -> dict[str, object]:
        """Return the fields that the value of `of` stands for."""
        return {"of": [written] if isinstance(written, str) else written}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if twice := [name for name in dict.fromkeys(self.of) if self.of.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice")
        if self.pick and self.of:
            self.pick.size(len(self.of))
        return self

    def draw(self, candidates: Sequence[str], rng: random.Random) -> tuple[str, ...]:
        """Return those of the candidates that are meant, in their order; ValueError if there are too few.

        The same `rng` and candidates give the same draw, on every machine and Python.
        """
        if self.pick is None:
            return tuple(candidates)
        size = self.pick.size(len(candidates))
        order = sorted(
            range(len(candidates)), key=lambda _: rng.random()
        )  # all that Python promises never to change
        return tuple(candidates[index] for index in sorted(order[:size]))


class Selector(Choice):
    """Which units are meant. Who they are is said by `Fleet.resolve`, at the moment of asking."""

    expected: ClassVar[str] = (
        'a unit, a list of units, or {of: ..., pick: ...}, {label: "key=value"}, {leader_of: ...}'
    )

    label: Annotated[str, Field(pattern=r"^[^=\s][^=]*=.*$")] | None = None
    leader_of: Annotated[str, Field(min_length=1)] | None = None

    @classmethod
    def _lift_of(cls, written: object) -> dict[str, object]:
        if isinstance(written, Mapping):
            if set(written) != {"label"}:
                raise ValueError('of: expected a unit, a list of units or {label: "key=value"}')
            return {"of": (), "label": written["label"]}
        return super()._lift_of(written)

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        given = [name for name in ("of", "label", "leader_of") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"expected one of of, label or leader_of, found {found}")
        if self.pick and self.leader_of:
            raise ValueError("a stream has one leader: leave pick out")
        return self

    def names(self) -> tuple[str, ...]:
        """Names of units written in it, to be checked against the units there are."""
        return self.of

    def __str__(self) -> str:
        if self.leader_of:
            return f"the leader of {self.leader_of}"
        units = ", ".join(self.of) or f"label {self.label}"
        return f"{self.pick} of {units}" if self.pick else units

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        name = {"type": "string", "minLength": 1}
        names = {"type": "array", "items": name, "minItems": 1}
        label = {"type": "string", "pattern": "^[^=\\s][^=]*=.*$", "examples": ["tier=backend"]}

        def mapping(key: str, value: object, **more: object) -> dict[str, Any]:
            return {
                "type": "object",
                "properties": {key: value, **more},
                "required": [key],
                "additionalProperties": False,
            }

        labelled = mapping("label", label)
        return {
            "description": "Which units are meant.",
            "anyOf": [
                name,
                names,
                mapping("of", {"anyOf": [name, names, labelled]}, pick=Pick.SCHEMA),
                mapping("label", label, pick=Pick.SCHEMA),
                mapping("leader_of", name),
            ],
        }
