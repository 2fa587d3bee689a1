"""Faults of single clients of the broker: they are kicked, or told that their server is about to leave."""

from __future__ import annotations

import random
import re
from abc import ABC
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import anyio
from pydantic import BeforeValidator, Field

from supervisor.broker.connection import BrokerError
from supervisor.broker.control import ClientConnection, client_connections, system, tell_client
from supervisor.engines.selectors import Pick
from supervisor.faults.base import Aim, CannotAim, World
from supervisor.faults.nats import OfBroker, Pattern
from supervisor.journal.events import FaultIntent
from supervisor.kinds import Strict

OURS: Final = "soakd "
"""How the names of soakd's own connections begin: it does not kick itself."""
AT_ONCE: Final = 32
"""Requests in flight."""


class Clients(Strict):
    """Clients of the broker, by what they say of themselves; soakd's own are never meant."""

    name: Pattern | None = Field(None, description="Regular expression that matches the client's whole name.")
    user: str | None = Field(None, description="The user it is.")
    account: str | None = Field(None, description="The account it belongs to.")
    pick: Pick | None = Field(None, description="How many of them to draw: one, a number, or a share.")

    def choose(self, found: Sequence[ClientConnection], rng: random.Random) -> list[ClientConnection]:
        """Return those that are meant; ValueError if `pick` wants more than there are."""
        meant = sorted((one for one in found if self._means(one)), key=lambda one: (one.server, one.cid))
        if self.pick is None or not meant:
            return meant
        order = sorted(range(len(meant)), key=lambda _: rng.random())
        return [meant[index] for index in sorted(order[: self.pick.size(len(meant))])]

    def _means(self, one: ClientConnection) -> bool:
        return (
            not one.name.startswith(OURS)
            and (self.name is None or re.fullmatch(self.name, one.name) is not None)
            and self.user in {None, one.user}
            and self.account in {None, one.account}
        )

    def __str__(self) -> str:
        given = ", ".join(f"{key} {value}" for key, value in self if value is not None and key != "pick")
        return (
            f"{self.pick or 'all'} of the clients with {given}" if given else f"{self.pick or 'all'} clients"
        )


def _lift(written: object) -> object:
    return {"name": written} if isinstance(written, str) else written


Written = Annotated[Clients, BeforeValidator(_lift, json_schema_input_type=str | Clients)]


class OfClients(OfBroker, ABC):
    """One that servers do to their clients when the system account asks for it."""

    of_servers: ClassVar[bool] = True
    over: ClassVar[str] = "is over at once"
    request: ClassVar[str]
    """What the server is asked."""

    @property
    def clients(self) -> Clients:
        """The clients, as written."""
        written: Clients = getattr(self, self.key)
        return written

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose among the clients there are now."""
        try:
            found = await client_connections(await system(world.connections))
            meant = self.clients.choose(found, rng)
        except (BrokerError, ValueError) as error:
            raise CannotAim(str(error)) from error
        if not meant:
            raise CannotAim(f"there is no client just now that would be one of {self.clients}")
        return Aim(
            (), {"clients": [{"server": one.server, "cid": one.cid, "name": one.name} for one in meant]}
        )

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # only the run knows the clients
        """Say which clients."""
        return str(self.clients)

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Ask for it, client by client; one that is gone by now needs nothing more."""
        handle, rest = await system(world.connections), iter(intent.undo["clients"])

        async def work() -> None:
            for one in rest:
                await tell_client(handle, self.request, one["server"], one["cid"])

        async with anyio.create_task_group() as group:
            for _ in range(min(AT_ONCE, len(intent.undo["clients"]))):
                group.start_soon(work)


class Kick(OfClients):
    """Close connections of clients from the servers' side. Nothing is said before; well-made clients reconnect."""

    key: ClassVar[str] = "kick"
    request: ClassVar[str] = "KICK"

    kick: Written = Field(description="The clients: a regular expression for their names, or more.")


class LameDuck(OfClients):
    """Tell single clients that their server is about to leave, which it is not (from nats-server 2.10 on).

    Nothing happens to a client that ignores it; one that obeys moves to another server.
    """

    key: ClassVar[str] = "lame_duck"
    request: ClassVar[str] = "LDM"

    lame_duck: Written = Field(description="The clients: a regular expression for their names, or more.")
