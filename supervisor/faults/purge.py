"""The fault that removes messages of a stream."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from supervisor.broker.api import call
from supervisor.broker.connection import BrokerError
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.nats import Irreversible, Token
from supervisor.journal.events import FaultIntent
from supervisor.kinds import Strict


class Messages(Strict):
    """Messages of a stream."""

    stream: Token
    filter: str | None = Field(None, min_length=1, description="Only those on subjects that match.")
    keep: int | None = Field(None, ge=1, description="Leave so many of the last ones.")


def _lift(written: object) -> object:
    return {"stream": written} if isinstance(written, str) else written


class Purge(Irreversible):
    """Remove messages of a stream, as an operator does by mistake."""

    key: ClassVar[str] = "purge"

    purge: Annotated[Messages, BeforeValidator(_lift, json_schema_input_type=str | Messages)] = Field(
        description="The stream, or {stream: ..., filter: ..., keep: ...}."
    )

    async def aim(self, world: World, rng: random.Random) -> Aim:  # noqa: ARG002  # it is one stream
        """See that the stream is there, and that it is one of this run."""
        try:
            name, handle = self.purge.stream, await self.handle(world)
            await self.info(world, handle, f"STREAM.INFO.{name}", f"stream {name}")
        except BrokerError as error:
            raise CannotAim(str(error)) from error
        return Aim(())

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # it is one stream
        """Name the stream."""
        return f"stream {self.purge.stream}"

    async def inject(self, world: World, intent: FaultIntent) -> None:  # noqa: ARG002  # it is one stream
        """Purge it."""
        body: dict[str, Any] = {"filter": self.purge.filter, "keep": self.purge.keep}
        given = {key: value for key, value in body.items() if value is not None}
        await call(await self.handle(world), f"STREAM.PURGE.{self.purge.stream}", given)
