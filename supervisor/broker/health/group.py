"""The meta group: who takes part in it, and whether that is enough. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.broker.health.facts import Facts, Meta
from supervisor.broker.health.roster import Node, State, meta_leader, takes_part


@dataclass(frozen=True, slots=True)
class Group:
    """The members of the meta group."""

    size: int
    present: tuple[str, ...]
    """Members that certainly take part."""
    absent: tuple[str, ...]
    """Members that certainly do not. What is neither could not be seen."""
    leader: str = ""
    """Empty: nobody who could be asked knows one that is there."""
    claims: tuple[str, ...] = ()
    """Members that take themselves for the leader: two while one of them is cut off and has not noticed."""
    guessed: bool = False
    """The servers said nothing of a meta group: these are the soak file's servers."""

    @property
    def needed(self) -> int:
        """How many members make a majority."""
        return self.size // 2 + 1

    @property
    def quorum(self) -> bool:
        """Whether there may be a majority; False: there is certainly none."""
        return self.size - len(self.absent) >= self.needed

    @property
    def spare(self) -> int:
        """How many more members may be lost, as far as is certain."""
        return len(self.present) - self.needed


def group_of(facts: Facts, nodes: Sequence[Node]) -> Group | None:
    """Return the meta group; None for a server that stands alone, or if nothing is known of a group."""
    servers = [node.server for node in nodes if node.server]
    metas = [server.meta for server in servers if server.meta]
    leader = meta_leader(servers)
    members = [node for node in nodes if _member(node, metas)]
    if not metas:
        members = [node for node in nodes if node.greeting]
        clustered = any(greeting.cluster for greeting in facts.greetings)
        if len(members) < 2 or not (clustered or all(node.state is State.GONE for node in members)):
            return None
    absent = [node.name for node in members if _absent(node)]
    present = [node.name for node in members if node.name not in absent and node.state is State.UP]
    return Group(
        size=max(meta.size for meta in metas) if metas else len(members),
        present=tuple(present),
        absent=tuple(absent),
        leader=leader.name if leader else _known_leader(metas, nodes),
        claims=tuple(server.name for server in servers if server.meta and server.meta.leader == server.name),
        guessed=not metas,
    )


def _member(node: Node, metas: Sequence[Meta]) -> bool:
    """Say whether a server is a member, as far as anybody says so."""
    named = {peer.name for meta in metas for peer in meta.peers} | {meta.leader for meta in metas}
    return node.name in named or bool(node.server and node.server.meta) or node.stands_in


def _absent(node: Node) -> bool:
    if node.state in {State.GONE, State.FROZEN, State.LEAVING} or node.jetstream is False:
        return True
    return node.peer is not None and not takes_part(node.peer)


def _known_leader(metas: Sequence[Meta], nodes: Sequence[Node]) -> str:
    """Return the leader that members name, if they hear it and it is not known to be away."""
    away = {node.name for node in nodes if _absent(node)}
    heard = (
        peer.name
        for meta in metas
        for peer in meta.peers
        if peer.name == meta.leader and peer.name not in away and takes_part(peer)
    )
    return next(heard, "")
