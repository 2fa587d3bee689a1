"""A diagnosis for a person at 3 a.m.: worst first, each with what it means and what to do, then the servers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from supervisor.broker.health.findings import Diagnosis, Finding, Health, Severity, count, size
from supervisor.broker.health.reports import CHECKS
from supervisor.broker.health.roster import SEEN, Node, State

_STATE: Final = {Health.HEALTHY: "bold green", Health.DEGRADED: "bold yellow", Health.UNHEALTHY: "bold red"}
_SIGN: Final = {
    Severity.CRITICAL: ("✖", "bold red"),
    Severity.WARNING: ("▲", "bold yellow"),
    Severity.UNKNOWN: ("?", "bold cyan"),
    Severity.NOTE: ("·", "bold"),
}
UNSEEN: Final = "?"
_WIDEST: Final = 16
"""Columns that a server's name may take."""


def report(diagnosis: Diagnosis) -> Group:
    """Return the whole report for a rich console; it is made for 80 columns and more."""
    parts: list[RenderableType] = [_head(diagnosis), Text()]
    for finding in diagnosis.findings:
        parts += [*_told(finding), Text()]
    if diagnosis.picture.nodes:
        parts += [_servers(diagnosis), Text()]
    parts += [_line(name, text) for name, text in _rest(diagnosis)]
    return Group(*parts)


def summary(diagnosis: Diagnosis) -> str:
    """Return the state and how much there is to read: `unhealthy: 1 critical, 2 warnings`."""
    nouns = {
        Severity.CRITICAL: ("critical", "critical"),
        Severity.WARNING: ("warning", ""),
        Severity.UNKNOWN: ("unknown", "unknown"),
    }
    severities = [finding.severity for finding in diagnosis.findings]
    return ", ".join(count(n, *noun) for severity, noun in nouns.items() if (n := severities.count(severity)))


def _head(diagnosis: Diagnosis) -> Text:
    said = summary(diagnosis)
    if diagnosis.health is Health.HEALTHY:
        said = f"{diagnosis.headline}{f' ({said})' if said else ''}"
    return Text.assemble((diagnosis.health.upper(), _STATE[diagnosis.health]), f"  {said}")


def _told(finding: Finding) -> Iterator[RenderableType]:
    sign, style = _SIGN[finding.severity]
    yield _hanging(sign, Text(finding.what, "bold"), style)
    rest = [
        Text(finding.means),
        Text.assemble(("likely cause: ", "bold"), finding.cause) if finding.cause else Text(),
        Text.assemble(("→ ", "bold green"), finding.do) if finding.do else Text(),
        Text(finding.detail, "dim"),
    ]
    yield from (Padding(text, (0, 0, 0, 2)) for text in rest if text)


def _hanging(sign: str, text: Text, style: str) -> Table:
    """Put a sign before a text, whose further lines begin below its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column()
    grid.add_row(Text(sign, style), text)
    return grid


def _servers(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("server", "answers", "version", "JetStream", "meta group", "healthz"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    table.add_column("store", no_wrap=True, overflow="ellipsis", justify="right")
    for node in diagnosis.picture.nodes:
        style = "" if node.state is State.UP else "yellow"
        table.add_row(
            Text(node.name, "bold"),
            _answers(node),
            node.version or UNSEEN,
            {True: "on", False: "off", None: UNSEEN}[node.jetstream],
            _role(diagnosis, node),
            _checks(node),
            _store(node),
            style=style,
        )
    return table


def _answers(node: Node) -> str:
    if node.state in {State.LEAVING, State.STARTING, State.FROZEN}:
        return node.state
    if node.round_trip is None:
        return {State.GONE: "no"}.get(node.state, UNSEEN)
    return f"{node.round_trip * 1000:.1f} ms"


def _role(diagnosis: Diagnosis, node: Node) -> str:
    group, peer = diagnosis.picture.group, node.peer
    if group is None:
        return "alone" if node.server and node.server.jetstream else UNSEEN
    if node.name == group.leader:
        return "leads"
    if peer is None:
        return UNSEEN if node.state is not State.UP or group.leader else "no leader"
    if peer.offline or peer.silent >= SEEN:
        return "offline" if peer.offline else f"silent {peer.silent:.0f}s"
    if node.name in group.absent:
        return "away"
    return f"{peer.lag} behind" if peer.lag else "current" if peer.current else "not current"


def _checks(node: Node) -> str:
    if node.server is None or not node.server.checks:
        return UNSEEN
    codes = [str(check.status) if (check := node.server.checks.get(name)) else UNSEEN for name in CHECKS]
    return "ok" if set(codes) == {"200"} else " ".join(codes)


def _store(node: Node) -> str:
    store = node.server.store if node.server else None
    if store is None or not node.jetstream:
        return UNSEEN if node.server is None else "-"
    disk = f", disk {size(store.disk_free)} free" if store.disk_free is not None else ""
    return f"{size(store.used)} of {size(store.limit)}{disk}"


def _rest(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    facts = diagnosis.picture.facts
    link = facts.link
    if link.round_trip is not None:
        yield "connection", f"to {link.server}, round trip {link.round_trip * 1000:.1f} ms"
    for account in facts.api.accounts:
        limits = account.limits
        uses = [
            _use(count(account.streams, "stream"), limits.streams, str(limits.streams)),
            _use(count(account.consumers, "consumer"), limits.consumers, str(limits.consumers)),
            _use(f"{size(account.storage)} on disk", limits.storage, size(limits.storage)),
            _use(f"{size(account.memory)} in memory", limits.memory, size(limits.memory)),
        ]
        yield f"account {account.tier}".strip(), ", ".join(uses)


def _use(amount: str, limit: int, text: str) -> str:
    return amount if limit < 0 else f"{amount} (of {text})"


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name:<12}", "dim"), text)
