"""What faults of links share: which links are meant, and that what is done to them is done in the name of the episode."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from supervisor.engines.selectors import Choice
from supervisor.faults.base import Aim, CannotAim, Fault, UndoError, World
from supervisor.journal.events import FaultIntent, Target
from supervisor.kinds import Name
from supervisor.links.base import Control, LinkError
from supervisor.links.toxics import Toxic
from supervisor.values import Duration

TARGET = "link:"
"""How the names of links begin where they stand among those of units, which have no colon."""

Direction = Annotated[
    Literal["up", "down", "both"],
    Field(description="up: from clients to the server; down: from the server to clients; both."),
]


class Chosen(Choice):
    """Which links are meant: a name, a list of them, or `{of: [...], pick: one}`."""

    expected: ClassVar[str] = "a link, a list of links, or {of: ..., pick: ...}"

    of: tuple[Name, ...] = Field(min_length=1)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        whole = handler.resolve_ref_schema(handler(schema))
        names = whole["properties"]["of"]
        name = names["items"]
        of = {**whole["properties"], "of": {"anyOf": [name, names]}}
        return {
            "description": "Which links are meant.",
            "anyOf": [name, names, {**whole, "properties": of}],
        }


class OfLinks(Fault, ABC):
    """A fault of declared links. Several may be on one link at the same time: what they add up to is said in `links/toxics.py`."""

    at_once: ClassVar[int | None] = 0
    in_targets: ClassVar[bool] = False
    undo_needs_engines: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    @property
    def chosen(self) -> Chosen:
        """The links, as written."""
        written: Chosen = getattr(self, self.key)
        return written

    async def aim(self, world: World, rng: random.Random) -> Aim:  # noqa: ARG002  # the soak file knows all links
        """Choose the links."""
        return self.aimed(self.chosen.draw(self.chosen.of, rng))

    def aimed(self, links: Sequence[str], **more: Any) -> Aim:
        """Return an aim at these links."""
        return Aim(tuple(Target(unit=f"{TARGET}{name}") for name in links), {"links": list(links), **more})

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # they are no units
        """Name the links."""
        return ", ".join(f"{TARGET}{name}" for name in self.chosen.draw(self.chosen.of, rng))

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Take off what is on any link in the name of the episode; after the death of its run, see that the links are plain."""
        if world.links is None:
            return  # there were none when it was injected either
        try:
            await world.links.take(intent.episode)
        except LinkError as error:
            named = ", ".join(intent.undo["links"])
            raise UndoError(
                f"{self.key} may still be on the link {named}: {error}; run `soakd recover`, or end the process whose "
                "command line has `supervisor.links` by hand"
            ) from error


class Toxin(OfLinks, ABC):
    """One that is put on links for a time."""

    hold: Duration = Field(gt=0, description="How long it stays on the links.")

    @abstractmethod
    def toxic(self) -> Toxic:
        """Return what is put on each of them."""
        raise NotImplementedError

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Put it on all of them."""
        await links_of(world).put(intent.episode, dict.fromkeys(intent.undo["links"], self.toxic()))


def links_of(world: World) -> Control:
    """Return the links of a run; CannotAim if it has none."""
    if world.links is None:
        raise CannotAim("this run has no links")
    return world.links
