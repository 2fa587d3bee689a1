"""The links of a soak file, and how faults ask for what is done to them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, Protocol, Self

from pydantic import AfterValidator, Field, model_validator

from supervisor.kinds import Strict
from supervisor.links.toxics import Toxic

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/@]+)):(\d{1,5})")


class LinkError(Exception):
    """Something could not be done to a link; the text says what, where and what to do."""


class Address(NamedTuple):
    """Where TCP connections go."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port` or `[::1]:port`; ValueError says what was expected."""
        if (match := _ADDRESS.fullmatch(text)) and 0 < int(match[3]) < 65536:
            return cls(match[1] or match[2], int(match[3]))
        raise ValueError(
            "expected host:port, such as 127.0.0.1:5432 or [::1]:5432, with a port from 1 to 65535"
        )

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _check_server(text: str) -> str:
    try:
        return str(Address.parse(text))
    except ValueError as error:
        raise ValueError(f"{error}, or a node of the embedded broker, such as nats1") from None


def _check_listen(text: str) -> str:
    address = Address.parse(text)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ValueError(
            f"expected the number of an address of this machine, such as 127.0.0.1:{address.port}, not a name"
        ) from None
    return str(address)


class Link(Strict):
    """A TCP relay that soakd keeps between clients and a server, so that faults can be put between them."""

    listen: Annotated[str, AfterValidator(_check_listen)] | None = Field(
        None, description="Where clients connect: address:port. Left out: a free port of 127.0.0.1."
    )
    to: Annotated[str, AfterValidator(_check_server)] = Field(
        description="The server: host:port, or a node of the embedded broker."
    )
    public: bool = Field(False, description="Allow an address that other machines may reach.")

    @model_validator(mode="after")
    def _ours(self) -> Self:
        if self.listen and not self.public and not ipaddress.ip_address(self.address.host).is_loopback:
            raise ValueError(
                f"listen: other machines may reach {self.address.host}: listen on 127.0.0.1 or [::1], or add public: true"
            )
        if self.listen and self.address == self.server:
            raise ValueError("to: this is where the link itself listens: expected where the server listens")
        return self

    def problem(self, listening: Collection[int]) -> str:
        """Say what keeps it from starting just now, given the ports that somebody listens on; empty if nothing does."""
        if self.listen and self.address.port in listening:
            return f"port {self.address.port} is in use already; stop who listens there (`ss -tlnp`), or change the port"
        return ""

    def __str__(self) -> str:
        return f"{self.listen or 'a free port of 127.0.0.1'} to {self.to}"

    @property
    def address(self) -> Address:
        """Where it listens; ValueError if that is left to soakd."""
        return Address.parse(self.listen or "")

    @property
    def server(self) -> Address:
        """Where it leads."""
        return Address.parse(self.to)


def variable(name: str) -> str:
    """Return the environment variable that tells a link's address: `SOAKD_LINK_` and its name in capitals."""
    return "SOAKD_LINK_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


class Control(Protocol):
    """How faults act on links. Everything is done in the name of an episode, and acknowledged by the process of the links."""

    async def put(self, episode: str, toxics: Mapping[str, Toxic]) -> None:
        """Do something to links, by name. LinkError if that failed; it may then be in place on some of them."""

    async def take(self, episode: str) -> None:
        """Stop whatever an episode does, on all links; no error if that is nothing. LinkError if something may be left."""

    async def kill(self, link: str, share: float, seed: int) -> int:
        """Reset a share of a link's connections, drawn by `seed`; return how many. LinkError if that failed."""

    async def connections(self) -> Mapping[str, int]:
        """Return how many connections each link has now. LinkError if that cannot be said."""


def told(servers: Sequence[str], links: Mapping[str, tuple[Address, Address]]) -> tuple[str, ...]:
    """Return servers (URLs or host:port) with those replaced to which a link leads, so that clients use the link.

    `links` are (where it listens, where it leads) by name; of several links to one server the first counts.
    """
    ways = {str(server): str(listen) for listen, server in reversed(list(links.values()))}
    found = []
    for server in servers:
        scheme, mark, rest = server.rpartition("://")
        found.append(scheme + mark + ways.get(rest, rest))
    return tuple(found)
