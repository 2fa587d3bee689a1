"""A diagnosis as JSON, for machines; the facts it was made from are part of it, so that it can be judged again."""

from __future__ import annotations

from typing import Any

from supervisor.broker.health.findings import Diagnosis
from supervisor.broker.health.roster import Node
from supervisor.broker.health.text import role


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what `soakd health --json` prints. Times are seconds, sizes bytes; null is unknown."""
    picture = diagnosis.picture
    group = picture.group
    return {
        "health": diagnosis.health,
        "headline": diagnosis.headline,
        "findings": [finding.model_dump() for finding in diagnosis.findings],
        "meta_group": group
        and {
            "leader": group.leader or None,
            "size": group.size,
            "needed": group.needed,
            "present": group.present,
            "absent": group.absent,
        },
        "servers": [_server(diagnosis, node) for node in picture.nodes],
        "facts": picture.facts.model_dump(),
    }


def _server(diagnosis: Diagnosis, node: Node) -> dict[str, Any]:
    server, peer = node.server, node.peer
    return {
        "name": node.name,
        "unit": node.unit or None,
        "address": node.address or None,
        "state": node.state,
        "why": node.why,
        "round_trip": node.round_trip,
        "version": node.version or None,
        "jetstream": node.jetstream,
        "role": role(diagnosis, node),
        "peer": peer and peer.model_dump(),
        "healthz": server and {name: check.model_dump() for name, check in server.checks.items()},
        "store": server and server.store and server.store.model_dump(),
        "consumers": server and server.consumers,
        "stale_consumers": server and server.counted and server.counted.stale,
    }
