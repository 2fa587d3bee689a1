"""The fault that deletes consumers of a stream."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import ClassVar, Final

from pydantic import Field

from supervisor.broker.api import ApiError, call, pages
from supervisor.broker.connection import BrokerError
from supervisor.engines.selectors import Pick
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.nats import Irreversible, Pattern, Token
from supervisor.journal.events import FaultIntent
from supervisor.kinds import Strict

CONSUMER_NOT_FOUND: Final = 10014


class Consumers(Strict):
    """Consumers of a stream."""

    stream: Token
    consumer: Pattern = Field(description="Regular expression that matches the consumer's whole name.")
    pick: Pick | None = Field(None, description="How many of them to draw: one, a number, or a share.")


class DeleteConsumer(Irreversible):
    """Delete consumers, under whoever reads from them. They are not made again: whether the system does so is the question."""

    key: ClassVar[str] = "delete_consumer"

    delete_consumer: Consumers = Field(description="The stream and its consumers.")

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose among the consumers there are; what existed before the run is left out."""
        of = self.delete_consumer
        try:
            handle = await self.handle(world)
            names = await pages(
                handle, f"CONSUMER.NAMES.{of.stream}", {}, lambda answer: answer.get("consumers") or ()
            )
            meant = sorted(name for name in names if re.fullmatch(of.consumer, name))
            if meant and of.pick:
                order = sorted(range(len(meant)), key=lambda _: rng.random())
                meant = [meant[index] for index in sorted(order[: of.pick.size(len(meant))])]
            for name in meant:
                await self.info(world, handle, f"CONSUMER.INFO.{of.stream}.{name}", f"consumer {name}")
        except (BrokerError, ValueError) as error:
            raise CannotAim(str(error)) from error
        if not meant:
            raise CannotAim(f"stream {of.stream} has no consumer just now that matches {of.consumer}")
        return Aim((), {"consumers": meant})

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # only the run knows
        """Say which."""
        of = self.delete_consumer
        return f"{of.pick or 'all'} of the consumers {of.consumer} of stream {of.stream}"

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Delete them; one that is gone by now needs nothing more."""
        handle = await self.handle(world)
        for name in intent.undo["consumers"]:
            try:
                await call(handle, f"CONSUMER.DELETE.{self.delete_consumer.stream}.{name}")
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise
