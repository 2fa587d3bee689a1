"""Who is who: puts together what the sources say of each server, under one name, and says in which state it is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from supervisor.broker.health.facts import Facts, Greeting, Meta, Monitored, Peer, Server

SEEN: Final = 5.0
"""Seconds after which a peer that was not heard of counts as gone (`nats server check jetstream --replica-seen-critical`; it sends a
heartbeat each second)."""


class State(StrEnum):
    """What can be said of a server."""

    UP = "up"
    LEAVING = "leaving"
    """In lame duck mode: it takes no new clients and lets those go that it has."""
    STARTING = "starting"
    FROZEN = "frozen"
    """It accepts connections and says nothing: paused, or out of its mind."""
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Node:
    """One server, from all sources."""

    name: str
    """As it calls itself; what the soak file calls it, if it cannot be asked."""
    state: State
    why: str = ""
    """What is wrong with it, in words."""
    address: str = ""
    unit: str = ""
    greeting: Greeting | None = None
    monitored: Monitored | None = None
    server: Server | None = None
    peer: Peer | None = None
    """As the meta leader sees it, or others if the leader cannot be asked. None: it is the leader, or nobody knows anything."""
    stands_in: bool = False
    """It is one of the members of the meta group that only others know by name; nobody can tell which."""

    @property
    def version(self) -> str:
        """Its version, empty if unknown."""
        return self.server.version if self.server else self.greeting.version if self.greeting else ""

    @property
    def jetstream(self) -> bool | None:
        """Whether its JetStream is on; None: unknown."""
        if self.server is not None:
            return self.server.jetstream
        return self.greeting.jetstream if self.greeting and self.greeting.outcome == "greets" else None

    @property
    def round_trip(self) -> float | None:
        """Seconds until it greeted, else until its monitoring port answered."""
        if self.greeting is not None and self.greeting.outcome == "greets":
            return self.greeting.took
        return self.monitored.took if self.monitored and self.monitored.server else None


def roster(facts: Facts) -> tuple[Node, ...]:
    """Return all servers that anything is known of, in the soak file's order."""
    servers = {server.name: server for server in facts.system.servers} if facts.system else {}
    servers |= {look.server.name: look.server for look in facts.monitored if look.server}
    metas = [server.meta for server in servers.values() if server.meta]
    named = {
        name: None for meta in metas for name in (*(peer.name for peer in meta.peers), meta.leader) if name
    }
    leader = meta_leader(servers.values())
    if leader and leader.meta:
        peers = {peer.name: peer for peer in leader.meta.peers}
    else:  # the others know only whom they hear, and who said goodbye
        known = (peer for meta in metas for peer in meta.peers if peer.offline or takes_part(peer))
        peers = {peer.name: peer for peer in known}
    nodes = [
        Node(
            name=name,
            state=State.UNKNOWN,
            address=greeting.address if greeting else "",
            unit=unit,
            greeting=greeting,
            monitored=look,
        )
        for name, unit, greeting, look in _listed(facts)
    ]
    here = {node.name for node in nodes}
    others = [name for name in named if name not in here and name not in servers]
    heard_of = [name for name in others if name in peers and takes_part(peers[name])]
    nodes += [Node(name, State.UNKNOWN) for name in servers if name not in here]
    nodes += [Node(name, State.UNKNOWN) for name in heard_of]
    nodes = _adopt(nodes, [name for name in others if name not in heard_of], named)
    nodes = [replace(node, server=servers.get(node.name), peer=peers.get(node.name)) for node in nodes]
    leaving = facts.link.server if facts.link.lame_duck else None
    return tuple(_judged(node, leaving=node.name == leaving) for node in nodes)


def meta_leader(servers: Iterable[Server]) -> Server | None:
    """Return the server that leads the meta group; of several that think so, the one that heard most of its peers lately.

    A leader that is cut off takes some ten seconds to notice that it no longer leads.
    """
    claims = [server for server in servers if server.meta and server.meta.leader == server.name]
    return max(claims, key=lambda server: heard(server.meta), default=None)


def heard(meta: Meta | None) -> int:
    """Return how many members take part as far as a leader can tell, itself included."""
    return 1 + sum(takes_part(peer) for peer in meta.peers) if meta else 0


def takes_part(peer: Peer) -> bool:
    """Say whether a peer was heard of lately."""
    known = peer.current or peer.silent > 0
    return known and not peer.offline and peer.silent < SEEN


def _listed(facts: Facts) -> list[tuple[str, str, Greeting | None, Monitored | None]]:
    """Return name, unit, greeting and monitoring of each server that the soak file knows.

    One that is up says its name at both doors. For one that is down, the soak file may call it twice: by address and by unit.
    """
    pairs = _pairs(facts)
    rows: list[tuple[str, str, Greeting | None, Monitored | None]] = []
    for index, greeting in enumerate(facts.greetings):
        look = facts.monitored[pairs[index]] if index in pairs else None
        name = greeting.name or (_own_name(look) if look else greeting.address)
        rows.append((name, look.unit if look else "", greeting, look))
    alone = [look for index, look in enumerate(facts.monitored) if index not in pairs.values()]
    return rows + [(_own_name(look), look.unit, None, look) for look in alone]


def _own_name(look: Monitored) -> str:
    return look.server.name if look.server else look.called or look.unit.rpartition("/")[2]


def _pairs(facts: Facts) -> dict[int, int]:
    """Return which node of the soak file belongs to which of its servers, both by their places.

    They belong together if both say the same name, or the server says the one that the soak file has for the unit. What that leaves over is paired by place,
    provided that there are as many of both and those which could be told stand at the same places.
    """
    looks = dict(enumerate(facts.monitored))
    pairs: dict[int, int] = {}
    for index, greeting in enumerate(facts.greetings):
        for place, look in looks.items():
            if greeting.name and _own_name(look) == greeting.name and place not in pairs.values():
                pairs.setdefault(index, place)
    if len(facts.greetings) == len(looks) and all(index == place for index, place in pairs.items()):
        for index, greeting in enumerate(facts.greetings):
            if index not in pairs and not (greeting.name and looks[index].server):
                pairs[index] = index
    return pairs


def _adopt(nodes: list[Node], others: Sequence[str], named: Collection[str]) -> list[Node]:
    """Add the servers that are known only from what others say; those that cannot say their name may be among them.

    If just as many are nameless as are known by name alone, they are the same ones; which is which is clear only of one.
    """
    silent = [node for node in nodes if (node.greeting or node.monitored) and not _says_its_name(node)]
    nameless = [node for node in silent if node.name not in named]
    if not others or len(nameless) != len(others):
        return nodes + [Node(name, State.UNKNOWN) for name in others]
    if len(others) == 1:
        return [replace(node, name=others[0]) if node is nameless[0] else node for node in nodes]
    return [replace(node, stands_in=True) if node in nameless else node for node in nodes]


def _says_its_name(node: Node) -> bool:
    return bool((node.greeting and node.greeting.name) or (node.monitored and node.monitored.server))


def _judged(node: Node, *, leaving: bool) -> Node:
    """Say in which state a server is: its own word first, then its door, then what its peers think."""
    if leaving:
        state, why = State.LEAVING, "it told its clients to leave"
    else:
        state, why = _by_itself(node) or _by_its_door(node) or _by_its_peers(node) or _unseen(node)
    return replace(node, state=state, why=why)


def _by_itself(node: Node) -> tuple[State, str] | None:
    if node.server is None:
        return None
    plain = node.server.checks.get("plain")
    if plain is not None and "ready for connections" in plain.error:
        if node.server.clients:
            return State.LEAVING, "it takes no new clients and lets the old ones go"
        return State.STARTING, "it does not take clients yet"
    shut = node.greeting is not None and node.greeting.outcome not in {"greets", "tls"}
    return State.UP, _at_the_door(node) if shut else ""


def _by_its_door(node: Node) -> tuple[State, str] | None:
    match node.greeting.outcome if node.greeting else None:
        case "greets":
            return State.UP, ""
        case "mute":
            return State.FROZEN, _at_the_door(node)
        case "refuses" | "unreachable":
            return State.GONE, _at_the_door(node)
    return None


def _by_its_peers(node: Node) -> tuple[State, str] | None:
    if node.peer is None:
        return None
    if takes_part(node.peer):
        return State.UP, ""
    if node.peer.offline:
        return State.GONE, "it said goodbye to the others"
    return State.GONE, f"unheard by the meta leader for {node.peer.silent:.0f}s"


def _unseen(node: Node) -> tuple[State, str]:
    look = node.monitored
    return State.UNKNOWN, f"{look.url}: {look.error}" if look else ""


def _at_the_door(node: Node) -> str:
    if node.greeting is None:
        return ""
    return f"{'' if node.name == node.address else f'{node.address} '}{node.greeting.detail}"
