"""What may be wrong with a server. Each rule looks at one and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from supervisor.broker.health.findings import Finding, Picture, Severity, count, size
from supervisor.broker.health.reports import MOST
from supervisor.broker.health.roster import SEEN, Node, State

NEARLY: Final = 0.9
"""Share of a limit from which on it is nearly reached (the critical one of `nats server check jetstream`)."""
LAG: Final = 200
"""Entries that a peer may be behind (the same, `--replica-lag-critical`)."""
DISK_LEFT: Final = 0.05
"""Share of a disk that should be free: what ext4 keeps for root, and what is left when ordinary users meet a full disk."""
FULL: Final = "no space left on device"

Rule = Callable[[Picture, Node], Iterator[Finding]]

critical = partial(Finding, severity=Severity.CRITICAL)
warning = partial(Finding, severity=Severity.WARNING)
unknown = partial(Finding, severity=Severity.UNKNOWN)
note = partial(Finding, severity=Severity.NOTE)


def away(picture: Picture, node: Node) -> Iterator[Finding]:
    """It is gone, frozen, leaving or not there yet."""
    heard = node.peer is None or node.peer.silent < SEEN or "unheard" in node.why
    silent = "" if heard or node.peer is None else f", unheard for {node.peer.silent:.0f}s"
    found = partial(warning, subject=node.name, means=_loss(picture, node))
    match node.state:
        case State.GONE:
            yield found(
                code="gone",
                what=f"{node.name} is gone: {node.why}{silent}",
                do=f"Start {node.name}; the end of its log says why it stopped.",
            )
        case State.FROZEN:
            yield found(
                code="frozen",
                what=f"{node.name} is frozen: {node.why}{silent}",
                do=f"Continue {node.name} (kill -CONT) if it was paused; else see what starves it, or restart it.",
            )
        case State.LEAVING:
            yield found(
                code="lame-duck",
                what=f"{node.name} is in lame duck mode: {node.why}",
                means=f"Its JetStream is off already; it exits once its clients have moved. {_loss(picture, node)}".strip(),
                do=f"Let it finish and do not kill it; start {node.name} again when it has exited.",
            )
        case State.STARTING:
            yield found(
                code="starting",
                what=f"{node.name} is starting: {node.why}",
                do="Wait; if it takes minutes, its log says what it recovers.",
            )
        case State.UP if node.why:
            yield warning(
                code="door-shut",
                subject=node.name,
                what=f"{node.name} is up, but {node.why}",
                means="Clients cannot use it, though it answers its monitoring port or its peers.",
                do="See whether it listens there, and whether something in between (firewall, proxy) cuts us off.",
            )


def _loss(picture: Picture, node: Node) -> str:
    group = picture.group
    if group is None or node.name not in group.absent or not group.quorum or group.guessed:
        return ""
    there = f"{len(group.present)} of {group.size} servers take part"
    if group.spare > 0:
        return f"{there}; {count(group.spare, 'more loss', 'more losses')} can be borne."
    return f"{there}: with one more loss JetStream stops."


def behind(picture: Picture, node: Node) -> Iterator[Finding]:
    """It takes part, but has not got everything yet."""
    peer = node.peer
    if peer is None or node.state is not State.UP or (picture.group and node.name in picture.group.absent):
        return
    if peer.lag >= LAG or not peer.current:
        lag = f"{count(peer.lag, 'entry', 'entries')} behind" if peer.lag else "not current"
        yield warning(
            code="behind",
            subject=node.name,
            what=f"{node.name} is {lag} as the meta leader sees it",
            means="It is catching up, as after a restart; until then it counts for little.",
            do="Wait; if the lag does not shrink, look at its disk and CPU.",
        )


def unheard(picture: Picture, node: Node) -> Iterator[Finding]:
    """It is up, but the meta leader has not heard of it."""
    peer, group = node.peer, picture.group
    if (
        node.state is State.UP
        and node.jetstream is not False
        and peer
        and group
        and node.name in group.absent
    ):
        said = "it said goodbye" if peer.offline else f"unheard for {peer.silent:.0f}s"
        yield warning(
            code="unheard",
            subject=node.name,
            what=f"the meta leader takes {node.name} for gone, though it is up ({said})",
            means=f"It takes no part in decisions. {_loss(picture, node)}".strip(),
            do="If it has just been started, wait; else look at the routes between the servers.",
        )


def jetstream_off(picture: Picture, node: Node) -> Iterator[Finding]:
    """It runs without JetStream while others have it."""
    if node.jetstream is False and node.state is State.UP and any(other.jetstream for other in picture.nodes):
        yield warning(
            code="jetstream-off",
            subject=node.name,
            what=f"JetStream is off on {node.name}",
            means=f"It stores nothing and takes no part in decisions. {_loss(picture, node)}".strip(),
            do="Put `jetstream {}` into its configuration; if it is there, its log says why it was switched off.",
        )


def storage(_: Picture, node: Node) -> Iterator[Finding]:
    """What it may store is used up, or nearly."""
    if node.server is None or node.server.store is None or node.state is not State.UP:
        return
    store = node.server.store
    for noun, used, limit, key in (
        ("store", store.used, store.limit, "max_file_store"),
        ("memory store", store.memory_used, store.memory_limit, "max_memory_store"),
    ):
        if limit <= 0 or used < limit * NEARLY:
            continue
        amount = f"{size(used)} of {size(limit)}"
        full = used >= limit
        yield (critical if full else warning)(
            code="store-full" if full else "store-nearly-full",
            subject=node.name,
            what=f"the {noun} of {node.name} is {'full' if full else 'nearly full'}: {amount}",
            means='Publishing to its streams fails ("insufficient resources", 10023).'
            if full
            else "Once it is full, publishing to its streams fails.",
            do=f"Purge or delete streams, give them limits (max_age, max_bytes), or raise {key}.",
        )


def disk(_: Picture, node: Node) -> Iterator[Finding]:
    """The disk below the store is full, or nearly."""
    if node.server is None:
        return
    store, where = node.server.store, node.server.store.directory if node.server.store else "its store"
    said = next((check.error for check in node.server.checks.values() if FULL in check.error), "")
    if said:
        yield critical(
            code="disk-full",
            subject=node.name,
            what=f"the disk of {node.name} is full",
            means="The server cannot write: publishing fails, and it may switch its JetStream off.",
            do=f"Free space below {where}, then restart {node.name}.",
            detail=said,
        )
    elif store and store.disk_free is not None and store.disk_free < (store.disk_size or 0) * DISK_LEFT:
        yield warning(
            code="disk-nearly-full",
            subject=node.name,
            what=f"the disk of {node.name} has {size(store.disk_free)} of {size(store.disk_size or 0)} left",
            means="Once it is full, the server cannot write and may switch its JetStream off.",
            do=f"Free space on the disk of {where}.",
        )


def unwell(picture: Picture, node: Node) -> Iterator[Finding]:
    """`/healthz` complains of something that no other rule explains."""
    if node.server is None or node.state is not State.UP:
        return
    for variant, check in node.server.checks.items():
        leaderless = "meta leader" in check.error and (not picture.group or not picture.group.leader)
        if check.status == 200 or FULL in check.error or leaderless or not node.server.jetstream:
            continue
        yield warning(
            code="unwell",
            subject=node.name,
            what=f"{node.name} says it is not well ({_path(variant)} {check.status})",
            means="Load balancers and orchestrators take it for down.",
            do="If it has just been started, wait; else its log says more.",
            detail=check.error,
        )
        return


def _path(variant: str) -> str:
    return "/healthz" if variant == "plain" else f"/healthz?{variant}"


def unmonitored(_: Picture, node: Node) -> Iterator[Finding]:
    """Its monitoring port could not be asked, though it is there."""
    look = node.monitored
    if look is not None and look.server is None and node.state in {State.UP, State.UNKNOWN}:
        known = "its peers and store are seen through the system account" if node.server else ""
        yield unknown(
            code="monitoring-port",
            subject=node.name,
            what=f"the monitoring port of {node.name} is of no use: {look.error}",
            means=f"{known or 'Its store, its peers and its own word on its health are unknown'}.",
            do=f"See `nodes: {{{look.unit}: {{monitor: ...}}}}` ({look.url}) and `http:` in the server's configuration.",
        )


def unseen(_: Picture, node: Node) -> Iterator[Finding]:
    """Only others name it, and they do not say how it is."""
    if node.state is State.UNKNOWN and not (node.server or node.greeting or node.monitored):
        yield unknown(
            code="unseen",
            subject=node.name,
            what=f"nothing shows how {node.name} is, which others name as a member of the cluster",
            means="It is not among `servers` and `nodes`, and did not answer through the system account.",
            do=f"Add {node.name} to `servers` or `nodes` in the broker section, or `system`.",
        )


def uncounted(_: Picture, node: Node) -> Iterator[Finding]:
    """It has so many consumers that stale ones would matter, but they could not be counted."""
    server = node.server
    if server and (server.uncounted or server.consumers > MOST):
        why = server.uncounted or f"more than {MOST:,} are not looked at one by one"
        yield unknown(
            code="consumers-uncounted",
            subject=node.name,
            what=f"{node.name} has {count(server.consumers, 'consumer')}; how many are stale is unknown",
            means=f"They could not be counted: {why}.",
            do="`nats consumer report STREAM` lists those of a stream.",
        )


RULES: Final[tuple[Rule, ...]] = (
    disk,
    storage,
    away,
    jetstream_off,
    unheard,
    behind,
    unwell,
    unmonitored,
    unseen,
    uncounted,
)
"""In the order in which findings of the same severity are told."""
