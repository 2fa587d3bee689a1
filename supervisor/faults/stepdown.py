"""The fault that has a leader of JetStream step down."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import anyio
from pydantic import BeforeValidator, Field

from supervisor.broker.connection import BrokerError
from supervisor.broker.control import leader, meta_leader, step_down, system
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.nats import OfAccount, Token
from supervisor.journal.events import FaultIntent, Target
from supervisor.kinds import Strict

META: Final = "meta"
ELECTED: Final = 10.0
"""Seconds that an election may take; one is made within about two on an idle cluster."""


class Group(Strict):
    """A group of replicas: that of a stream, or of one of its consumers."""

    stream: Token
    consumer: Token | None = None


def _lift(written: object) -> object:
    if isinstance(written, str):
        if written != META:
            raise ValueError("expected meta, or a mapping with stream and perhaps consumer")
        return None
    return written


class Stepdown(OfAccount):
    """Have the leader of the cluster, of a stream or of a consumer step down; inject ends when there is one again.

    It may be the same. A stream with one replica has nobody else.
    """

    key: ClassVar[str] = "stepdown"
    over: ClassVar[str] = "is over with the election"

    stepdown: Annotated[Group | None, BeforeValidator(_lift, json_schema_input_type=str | Group)] = Field(
        description="meta, or {stream: ...}, or {stream: ..., consumer: ...}."
    )

    @property
    def needs_system(self) -> bool:
        """The meta leader listens to the system account alone."""
        return self.stepdown is None

    async def aim(self, world: World, rng: random.Random) -> Aim:  # noqa: ARG002  # there is one leader
        """Find who leads."""
        try:
            name = await self._leader(world)
        except BrokerError as error:
            raise CannotAim(str(error)) from error
        if not name:
            raise CannotAim(f"{self} has no leader just now")
        node = world.connections.broker.node_of(name) if world.connections else None
        known = node if node in world.fleet.ids else None
        targets = (
            (Target(unit=known, incarnation=world.fleet.status(known).observed.incarnation),) if known else ()
        )
        return Aim(targets, {"leader": name})

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # only the run knows
        """Say whose leader."""
        return f"the leader of {self}"

    async def inject(self, world: World, intent: FaultIntent) -> None:  # noqa: ARG002  # whoever leads by now
        """Ask for it, and wait for an election."""
        of = self.stepdown
        if of is None:
            await step_down(await system(world.connections))
        else:
            await step_down(await self.handle(world), of.stream, of.consumer or "")
        with anyio.move_on_after(ELECTED):
            while not await self._elected(world):  # noqa: ASYNC110  # nobody tells us of an election
                await anyio.sleep(0.1)
            return
        raise BrokerError(f"{self} has no leader again after {ELECTED:.0f}s")

    async def _elected(self, world: World) -> bool:
        try:
            return bool(await self._leader(world))
        except BrokerError:
            return False

    async def _leader(self, world: World) -> str:
        of = self.stepdown
        if of is None:
            return await meta_leader(await system(world.connections))
        return await leader(await self.handle(world), of.stream, of.consumer or "")

    def __str__(self) -> str:
        if self.stepdown is None:
            return "the meta group"
        of = f"stream {self.stepdown.stream}"
        return f"consumer {self.stepdown.consumer} of {of}" if self.stepdown.consumer else of
