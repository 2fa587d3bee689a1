"""What no single link of a soak file can see: whether links get in each other's way, and whether faults name links that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_address
from typing import Final

from supervisor.faults.links import OfLinks
from supervisor.links.base import Address, variable
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.wording import Finding, did_you_mean, either


def check(_: object, parts: Parts) -> Iterator[Finding]:
    """Yield all that does not fit together."""
    for rule in _RULES:
        yield from rule(parts)


def _named(parts: Parts) -> Iterator[Finding]:
    known = parts.names("links")
    for name, fault in parts.faults.items():
        if not isinstance(fault, OfLinks) or (not known and "links" in parts.bad):
            continue
        for link in fault.chosen.of:
            if link not in known:
                hint = did_you_mean(link, known) or (
                    f": expected {either(known)}"
                    if known
                    else ": add it to the section links, with where it leads"
                )
                yield Finding(("faults", name, fault.key), f'there is no link "{link}"{hint}')


def _listening(parts: Parts) -> Iterator[Finding]:
    """No two links on one port, nor one on that of a server of the broker."""
    seen: list[tuple[Address, str]] = []
    for server in parts.broker.servers if parts.broker else ():
        address = Address.parse(server.rpartition("://")[2])
        if address.host.replace(".", "").isdigit() or ":" in address.host:
            seen.append((address, "a server of the broker"))
    for name, link in parts.links.items():
        if not link.listen:
            continue
        for address, who in seen:
            if _meet(address, link.address):
                what = f"{who} listens on {address} already: choose another port, or leave listen out"
                yield Finding(("links", name, "listen"), what)
                break
        seen.append((link.address, f"the link {name}"))


def _meet(one: Address, other: Address) -> bool:
    """Say whether nobody can listen on both."""
    hosts = [ip_address(address.host) for address in (one, other)]
    same = hosts[0] == hosts[1] or (
        hosts[0].version == hosts[1].version and any(host.is_unspecified for host in hosts)
    )
    return same and one.port == other.port


def _circles(parts: Parts) -> Iterator[Finding]:
    """Links that lead to each other: a connection would go round until there are no descriptors left."""
    listening = {link.address: name for name, link in parts.links.items() if link.listen}
    ways = {name: {listening[link.server]} for name, link in parts.links.items() if link.server in listening}
    try:
        TopologicalSorter(ways).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        what = f"these links lead to each other, and to no server: {' to '.join(circle)}"
        yield Finding(("links", circle[0], "to"), what)


def _variables(parts: Parts) -> Iterator[Finding]:
    """Two names that are the same in the environment."""
    seen: dict[str, str] = {}
    for name in parts.names("links"):
        if (other := seen.setdefault(variable(name), name)) != name:
            what = f"{other} and {name} would both be told as {variable(name)}: rename one of them"
            yield Finding(("links", name), what, key=True)


_RULES: Final[Sequence[Callable[[Parts], Iterator[Finding]]]] = (_named, _listening, _circles, _variables)
