"""What may be wrong with a cluster as a whole, and with what we get of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from supervisor.broker.api import NOT_AVAILABLE
from supervisor.broker.health.facts import Account
from supervisor.broker.health.findings import Finding, Picture, Severity, count, listed, size
from supervisor.broker.health.reports import PILE
from supervisor.broker.health.roster import Node, State
from supervisor.broker.health.server_rules import NEARLY, critical, note, unknown, warning

STREAM_LIMIT: Final = 1_000
"""Consumers that nats-server allows a stream which says nothing else (`default_max_consumers`, since 2.15)."""
NOT_ENABLED: Final = 10039
"""A server says that the account has no JetStream."""

Rule = Callable[[Picture], Iterator[Finding]]


def unreachable(picture: Picture) -> Iterator[Finding]:
    """Our own connection does not work."""
    link = picture.facts.link
    if not link.error:
        return
    found = partial(critical, subject="connection", detail=link.error)
    greeting = [node.name for node in picture.nodes if node.greeting and node.greeting.outcome == "greets"]
    if _is_refusal(link.error):
        yield found(
            code="refused",
            what="the servers refuse our credentials",
            means="soakd cannot speak with the broker, and clients with the same settings cannot either.",
            do="Compare user, password, token or creds in the broker section with the servers' configuration.",
        )
    elif greeting:
        yield found(
            severity=Severity.WARNING,
            code="connection-lost",
            what=f"our connection fails at the moment, though {listed(greeting)} would take us",
            means="Whether JetStream answers could not be asked.",
            do="Look again: soakd moves to another server within 3 s.",
        )
    else:
        yield found(
            code="unreachable",
            what="no server can be used",
            means="soakd cannot speak with the broker, and clients with the same settings cannot either.",
            do="Start the servers, or see whether `servers` in the broker section names the right ones.",
        )


def _is_refusal(error: str) -> bool:
    return "uthoriz" in error or "uthentic" in error


def quorum_lost(picture: Picture) -> Iterator[Finding]:
    """Too few members of the meta group take part."""
    group = picture.group
    if group is None or group.quorum or (group.guessed and not _borne_out(picture)):
        return
    there = group.size - len(group.absent)
    who = f" ({listed(group.present)})" if group.present else ""
    away = [node for node in picture.nodes if node.name in group.absent]
    yield critical(
        code="quorum-lost",
        subject="cluster",
        what=f"quorum is lost: {there} of {count(group.size, 'server')}{' of the soak file' if group.guessed else ''}{who} "
        f"{'takes' if there == 1 else 'take'} part, {group.needed} are needed",
        means="Nothing can be created, changed or elected, replicated streams take no messages, and what is read may be old. "
        + ("" if picture.facts.api.outcome != "answered" else "Error 10008 follows within 20 s."),
        do=f"{_bring_back(away, group.needed - there)} A leader is elected within 10 s.",
    )


def _borne_out(picture: Picture) -> bool:
    """Say whether what we get agrees with a guess: the soak file need not name all servers, and an election is silence as well."""
    nobody = picture.group is not None and not picture.group.present
    return nobody or picture.facts.api.outcome == "error"


def _bring_back(away: list[Node], enough: int) -> str:
    verbs = {State.FROZEN: "continue", State.UP: "look into"}
    all_of_them = enough >= len(away)
    steps: dict[str, list[str]] = {}
    for node in away:
        steps.setdefault(verbs.get(node.state, "start"), []).append(node.name)
    word = "and" if all_of_them else "or"
    text = f", {word} ".join(f"{verb} {listed(names, word)}" for verb, names in steps.items())
    which = "" if all_of_them else f" ({'one is' if enough == 1 else f'{enough} of them are'} enough)"
    return f"{text[:1].upper()}{text[1:]}{which}."


def leaderless(picture: Picture) -> Iterator[Finding]:
    """Enough members take part, but none leads."""
    group = picture.group
    if group is None or group.leader or not group.quorum or group.guessed:
        return
    if picture.facts.api.outcome != "answered":
        yield critical(
            code="no-leader",
            subject="cluster",
            what=f"there is no meta leader, though {len(group.present)} of {count(group.size, 'server')} take part",
            means="An election is under way, which takes 4 to 9 s, or the servers do not hear each other.",
            do="Wait 10 s; if there is still none, look at the routes between the servers, and at their logs.",
        )


def two_leaders(picture: Picture) -> Iterator[Finding]:
    """Two servers take themselves for the meta leader."""
    group = picture.group
    if group is not None and len(group.claims) > 1:
        yield warning(
            code="two-leaders",
            subject="cluster",
            what=f"{listed(group.claims)} each take themselves for the meta leader",
            means="One was cut off and has not noticed yet, which takes 10 to 20 s; what it says may be old.",
            do="Wait; if it lasts, look at the routes between the servers.",
        )


def jetstream_off(picture: Picture) -> Iterator[Finding]:
    """No server has JetStream."""
    known = [node for node in picture.nodes if node.jetstream is not None and node.state is State.UP]
    if known and not any(node.jetstream for node in known):
        yield critical(
            code="jetstream-off",
            subject="cluster",
            what=f"JetStream is off on {'all servers that answer' if len(known) > 1 else known[0].name}",
            means="There are no streams, consumers and buckets.",
            do="Put `jetstream {}` into the servers' configuration; if it is there, their logs say why it was switched off.",
        )


def stale_consumers(picture: Picture) -> Iterator[Finding]:
    """Ephemeral consumers that nobody listens to have piled up."""
    counted = [node.server.counted for node in picture.nodes if node.server and node.server.counted]
    stale = sum(one.stale for one in counted)
    if stale < PILE:
        return
    stream = max(counted, key=lambda one: one.stale).stream
    yield warning(
        code="stale-consumers",
        subject="cluster",
        what=f"{stale:,} ephemeral consumers are stale, most of them of stream {stream}",
        means="Nobody listens to them; they cost memory and make elections and the API slow, up to 10008 and timeouts. "
        f"A stream takes {STREAM_LIMIT:,} unless told otherwise.",
        do=f"Find the client that leaves them behind and delete them: `nats consumer report {stream}`.",
    )


def api(picture: Picture) -> Iterator[Finding]:
    """JetStream does not answer our account as it should: 10008 and "no responders" are told apart."""
    answer = picture.facts.api
    if picture.facts.link.error:
        return  # it is the connection that is silent
    found = partial(critical, subject="account", detail=answer.detail if answer.outcome == "error" else "")
    match answer.outcome:
        case "error" if answer.code == NOT_AVAILABLE:
            yield found(
                code="10008",
                what="error 10008: a server answers, but there is no meta leader",
                means="The network is well and JetStream is on; it only has nobody to decide.",
            )
        case "error" if answer.code == NOT_ENABLED:
            yield found(
                code="10039",
                what="error 10039: JetStream is not enabled for this account",
                means="The servers have JetStream, but not for the account of our user.",
                do="Put `jetstream: enabled` into the account, or use a user of an account that has it.",
            )
        case "error":
            yield found(
                code="api-error",
                what=f"error {answer.code}: JetStream answers with an error",
                means="The network is well and JetStream is on; it refuses to say what our account has.",
                do="The error's own words say more; the servers' logs have it as well.",
            )
        case "nobody":
            yield found(
                code="no-responders",
                what='"no responders": nobody listens for JetStream requests',
                means="The network is well, but no server that we reach runs JetStream for our account and domain. That is not 10008.",
            )
        case "silent":
            yield found(
                code="silent",
                what=f"JetStream does not answer ({answer.took:.1f}s)",
                means="Somebody listens for requests: a leader that is gone, which the others notice within 20 s (then it is 10008), "
                "or overload.",
            )


def account_limits(picture: Picture) -> Iterator[Finding]:
    """What our account may use is used up, or nearly."""
    for account in picture.facts.api.accounts:
        for noun, used, limit in _uses(account):
            if limit < 0 or used < limit * NEARLY or not used:
                continue
            full, tier = used >= limit, f" in tier {account.tier}" if account.tier else ""
            sizes = noun in {"storage", "memory"}
            amount = f"{size(used)} of {size(limit)}" if sizes else f"{used:,} of {limit:,}"
            yield (critical if full else warning)(
                code="account-full" if full else "account-nearly-full",
                subject="account",
                what=f"our account has {'used up' if full else 'nearly used up'} its {noun}{tier}: {amount}",
                means=f"{'Publishing' if sizes else f'Creating {noun}'} {'fails' if full else 'will fail'}.",
                do=f"Delete what is not needed, or raise the account's limit for {noun}.",
            )


def _uses(account: Account) -> Iterator[tuple[str, int, int]]:
    limits = account.limits
    yield "storage", account.storage, limits.storage
    yield "memory", account.memory, limits.memory
    yield "streams", account.streams, limits.streams
    yield "consumers", account.consumers, limits.consumers


def unseen(picture: Picture) -> Iterator[Finding]:
    """Nothing tells what the servers themselves know."""
    facts = picture.facts
    if facts.system is not None and facts.system.error:
        refused = _is_refusal(facts.system.error)
        yield unknown(
            code="system-account",
            subject="connection",
            what="the system account could not be asked",
            means="What only it would tell is unknown.",
            do="Compare `system` in the broker section with the servers' configuration." if refused else "",
            detail=facts.system.error,
        )
    add = "Add `system: {user: ..., password: ...}` or `nodes: {NAME: {monitor: URL}}` to the broker section."
    silent = [n.name for n in picture.nodes if n.state is State.UP and not n.server and not n.monitored]
    if facts.system is None and not facts.monitored:
        yield unknown(
            code="not-looked",
            subject="cluster",
            what="meta leader, peers, stores and /healthz were not looked at",
            means="Only the servers' greeting and our own account were seen.",
            do=add,
        )
    elif silent:
        yield unknown(
            code="partly-looked",
            subject="cluster",
            what=f"the store and /healthz of {listed(silent)} were not seen",
            means="They greet or are heard by their peers, and said no more to us."
            if len(silent) > 1
            else "It greets or is heard by its peers, and said no more to us.",
            do=add if facts.system is None else "",
        )


def versions(picture: Picture) -> Iterator[Finding]:
    """The servers are of different versions."""
    found = sorted({node.version for node in picture.nodes if node.version})
    if len(found) > 1:
        yield note(
            code="versions",
            subject="cluster",
            what=f"the servers are of {len(found)} versions: {listed(found)}",
            means="That is right only while they are being upgraded.",
        )


CAUSES: Final[tuple[Rule, ...]] = (unreachable, quorum_lost, jetstream_off, leaderless)
SYMPTOMS: Final[tuple[Rule, ...]] = (
    api,
    account_limits,
    stale_consumers,
    two_leaders,
    unseen,
    versions,
)
"""In the order in which findings of the same severity are told; those of servers stand between the two."""
