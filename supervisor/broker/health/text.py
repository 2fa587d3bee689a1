"""A diagnosis for a person at 3 a.m.: worst first, each with what it means and what to do, then the servers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from supervisor.broker.health.facts import Peer
from supervisor.broker.health.findings import Diagnosis, Finding, Health, Severity, count, listed, size
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
    yield _Hanging(Text(finding.what, "bold"), Text(f"{sign} ", style))
    rest = [
        Text(finding.means),
        Text.assemble(("likely cause: ", "bold"), finding.cause) if finding.cause else Text(),
        Text.assemble(("→ ", "bold green"), finding.do) if finding.do else Text(),
        Text(finding.detail, "dim"),
    ]
    yield from (_Hanging(text) for text in rest if text)


class _Hanging:
    """A text whose lines all begin in the third column, the first one behind a sign."""

    def __init__(self, text: Text, sign: Text | None = None) -> None:
        self._text, self._sign = text, sign or Text("  ")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Wrap it, without padding the lines."""
        for number, line in enumerate(self._text.wrap(console, options.max_width - 2)):
            line.rstrip()
            yield Text.assemble(self._sign if number == 0 else "  ", line)


def _servers(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("server", no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    for heading in ("answers", "JS", "meta group", "healthz"):
        table.add_column(heading, no_wrap=True)
    for heading in ("stored", "disk free"):
        table.add_column(heading, no_wrap=True, justify="right")
    for node in diagnosis.picture.nodes:
        table.add_row(
            Text(node.name, "bold"),
            _answers(node),
            {True: "on", False: "off", None: UNSEEN}[node.jetstream],
            role(diagnosis, node),
            _checks(node),
            *_store(node),
            style="" if node.state is State.UP else "yellow",
        )
    return table


def _answers(node: Node) -> str:
    if node.state in {State.LEAVING, State.STARTING, State.FROZEN}:
        return node.state
    if node.round_trip is None:
        return "yes" if node.server else "no" if node.state is State.GONE else UNSEEN
    return f"{node.round_trip * 1000:.1f} ms"


def role(diagnosis: Diagnosis, node: Node) -> str:
    """Return what a server is in the meta group, in a word or two."""
    group = diagnosis.picture.group
    if group is None:
        return UNSEEN if node.server is None else "alone" if node.server.jetstream else "-"
    if node.name == group.leader:
        return "leads"
    if node.peer is not None and (said := _said_of(node.peer, gone=node.name in group.absent)):
        return said
    if node.name in group.absent:
        return "away"
    return UNSEEN if group.leader else "no leader"


def _said_of(peer: Peer, *, gone: bool) -> str:
    """Return what the leader says of a peer; nothing if it has not noticed yet that the peer is gone."""
    if peer.offline:
        return "left"
    if peer.silent >= SEEN:
        return f"silent {peer.silent:.0f}s"
    if gone:
        return ""
    return f"{peer.lag} behind" if peer.lag else "current" if peer.current else "not current"


def _checks(node: Node) -> str:
    if node.server is None or not node.server.checks:
        return UNSEEN
    codes = [str(check.status) if (check := node.server.checks.get(name)) else UNSEEN for name in CHECKS]
    return "ok" if set(codes) == {"200"} else " ".join(codes)


def _store(node: Node) -> tuple[str, str]:
    if node.server is None:
        return UNSEEN, UNSEEN
    store = node.server.store
    if store is None or not node.jetstream:
        return "-", "-"
    free = UNSEEN if store.disk_free is None else size(store.disk_free)
    return f"{size(store.used)} of {size(store.limit)}", free


def _rest(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    facts = diagnosis.picture.facts
    versions: dict[str, list[str]] = {}
    for node in sorted(diagnosis.picture.nodes, key=lambda node: node.version, reverse=True):
        versions.setdefault(node.version or "unknown", []).append(node.name)
    alike = len(versions) == 1
    yield "version", ", ".join(v if alike else f"{v} on {listed(names)}" for v, names in versions.items())
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
