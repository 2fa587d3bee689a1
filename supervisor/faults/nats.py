"""What faults of the broker share: the connections they need, and that something must not come from before the run."""

from __future__ import annotations

import re
import time
from abc import ABC
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from supervisor.broker.api import call
from supervisor.broker.connection import Handle
from supervisor.broker.control import account, age
from supervisor.broker.options import DEFAULT
from supervisor.faults.base import CannotAim, Fault, Layout, Problem, World
from supervisor.journal.events import FaultIntent


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]
"""A regular expression that a whole name has to match."""
Token = Annotated[str, Field(pattern=r"^[^\s.*>]+$")]
"""The name of a stream or consumer."""


class OfBroker(Fault, ABC):
    """A fault that is asked for over a connection. Nothing of it stays in place: the broker and its clients go on by themselves."""

    at_once: ClassVar[int | None] = 0
    in_targets: ClassVar[bool] = False
    undo_needs_engines: ClassVar[bool] = False
    of_servers: ClassVar[bool] = False
    """True: it needs the system account."""

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """A broker, or a connection to it, that is not there."""
        if layout.broker is None:
            yield Problem((), f"{self.key} needs a broker: add the section broker, with its servers")
        elif self.needs_system and layout.broker.system is None:
            yield Problem(
                (),
                f"{self.key} needs the system account: add system: {{user: ..., password: ...}} to the section broker",
            )

    @property
    def needs_system(self) -> bool:
        """Whether it needs the system account."""
        return self.of_servers

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Do nothing: there is nothing left of it."""


class OfAccount(OfBroker, ABC):
    """One in an account."""

    connection: str = Field(
        DEFAULT,
        min_length=1,
        description="The connection of the broker section to use, which says the account.",
    )

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """A broker, or a connection to it, that is not there."""
        yield from super().problems(layout)
        if layout.broker and self.connection not in layout.broker.names:
            known = ", ".join(layout.broker.names)
            yield Problem(
                ("connection",), f'there is no connection "{self.connection}": expected one of {known}'
            )

    async def handle(self, world: World) -> Handle:
        """Return the connection; BrokerError if it cannot be used."""
        return await account(world.connections, self.connection)


class Sparing(OfAccount, ABC):
    """One that touches what is stored, which is left alone if it existed before the run, unless that is asked for."""

    existing: bool = Field(False, description="Also what existed before the run.")

    async def info(self, world: World, handle: Handle, question: str, what: str) -> dict[str, Any]:
        """Ask the broker for the info of something; CannotAim if it existed before the run and may not be touched."""
        asked = time.monotonic()
        info = await call(handle, question)
        # The age was true when the server answered. Held against the time of the question, an answer that is late, or taken late, makes
        # nothing younger than it is.
        if not self.existing and age(info) > asked - world.born:
            raise CannotAim(f"{what} existed before the run: add existing: true if it is meant all the same")
        return info


class Irreversible(Sparing, ABC):
    """One that removes something for good. Whoever wants that says so with `undo: none`."""

    over: ClassVar[str] = "is over at once"

    no_undo: Literal["none"] = Field(
        alias="undo", description="Has to be none: what this fault removes does not come back."
    )
