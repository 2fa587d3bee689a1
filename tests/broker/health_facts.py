"""Facts that were recorded from real servers, and ways to change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from health_states import RECORDED, recorded

from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.facts import Facts, Server
from supervisor.broker.health.findings import Finding

NAMES = sorted(file.stem for file in RECORDED.glob("*.json"))


def codes(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts).findings]


def only(facts: Facts, code: str) -> Finding:
    diagnosis = diagnose(facts)
    assert [finding.code for finding in diagnosis.findings] == [code]
    return diagnosis.findings[0]


def with_servers(facts: Facts, change: Callable[[Server], Server]) -> Facts:
    """Change what all servers say of themselves, through both doors."""
    monitored = tuple(
        look.model_copy(update={"server": look.server and change(look.server)}) for look in facts.monitored
    )
    system = facts.system and facts.system.model_copy(
        update={"servers": tuple(change(server) for server in facts.system.servers)}
    )
    return facts.model_copy(update={"monitored": monitored, "system": system})


def with_server(facts: Facts, name: str, **update: Any) -> Facts:
    return with_servers(facts, lambda s: s.model_copy(update=update) if s.name == name else s)


def with_peer(facts: Facts, name: str, **update: Any) -> Facts:
    """Change what the others say of a peer."""

    def change(server: Server) -> Server:
        if server.meta is None:
            return server
        peers = tuple(p.model_copy(update=update) if p.name == name else p for p in server.meta.peers)
        return server.model_copy(update={"meta": server.meta.model_copy(update={"peers": peers})})

    return with_servers(facts, change)


def without_leader(facts: Facts) -> Facts:
    return with_servers(
        facts, lambda s: s.model_copy(update={"meta": s.meta and s.meta.model_copy(update={"leader": ""})})
    )


WELL = recorded("well")
LEADER = diagnose(WELL).picture.group.leader  # type: ignore[union-attr]  # it has one
FOLLOWER = next(name for name in ("n1", "n2", "n3") if name != LEADER)
