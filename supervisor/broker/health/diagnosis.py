"""From facts to findings: what is wrong with a cluster, what that means, why it is so, what to do. Pure.

What could not be seen is a finding as well: unknown is not fine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from supervisor.broker.health import cluster_rules, server_rules
from supervisor.broker.health.facts import Facts
from supervisor.broker.health.findings import Diagnosis, Finding, Picture, Severity
from supervisor.broker.health.group import group_of
from supervisor.broker.health.roster import roster

EXPLAINS: Final[Mapping[str, Sequence[str]]] = {
    "10008": (
        "quorum-lost",
        "disk-full",
        "lame-duck",
        "gone",
        "frozen",
        "starting",
        "store-full",
        "stale-consumers",
        "two-leaders",
    ),
    "no-responders": ("jetstream-off", "disk-full", "lame-duck", "starting", "store-full"),
    "silent": (
        "quorum-lost",
        "no-leader",
        "frozen",
        "gone",
        "lame-duck",
        "disk-full",
        "stale-consumers",
        "store-full",
    ),
    "no-leader": ("disk-full", "lame-duck", "gone", "frozen", "starting", "stale-consumers"),
}
"""What may be behind a symptom, the likeliest first."""


def diagnose(facts: Facts) -> Diagnosis:
    """Judge what was seen."""
    nodes = roster(facts)
    picture = Picture(facts, nodes, group_of(facts, nodes))
    found = [finding for rule in cluster_rules.CAUSES for finding in rule(picture)]
    found += [finding for rule in server_rules.RULES for node in nodes for finding in rule(picture, node)]
    found += [finding for rule in cluster_rules.SYMPTOMS for finding in rule(picture)]
    found = [_explained(finding, found) if finding.code in EXPLAINS else finding for finding in found]
    order = list(Severity)
    return Diagnosis(picture, tuple(sorted(found, key=lambda finding: order.index(finding.severity))))


def _explained(symptom: Finding, findings: Iterable[Finding]) -> Finding:
    """Add the likely cause to a symptom; what is to be done about it stands there."""
    by_code: dict[str, Finding] = {}
    for finding in findings:
        by_code.setdefault(finding.code, finding)
    known = next((by_code[code].what for code in EXPLAINS[symptom.code] if code in by_code), None)
    if known is not None:
        return symptom.model_copy(update={"cause": known})
    blind = any(finding.severity is Severity.UNKNOWN for finding in findings)
    cause = "cannot be told from what was seen" if blind else "nothing that was seen explains it"
    return symptom.model_copy(
        update={"cause": cause, "do": symptom.do or "Look for JetStream in the servers' logs."}
    )
