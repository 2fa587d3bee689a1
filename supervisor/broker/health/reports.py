"""What a nats-server reports of itself -> facts. The same JSON comes from its monitoring port and through the system account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from supervisor.broker.health.facts import Account, Check, Consumers, Limits, Meta, Peer, Server, Store

STALE: Final = 5.0
"""Seconds after which nats-server deletes an ephemeral consumer that nobody listens to (its default `inactive_threshold`): one that
is still there was made to stay."""

PILE: Final = 100
"""Consumers on a server from which on it is counted how many of them are stale: a tenth of what nats-server allows a single stream
(`default_max_consumers`, 1,000 since 2.15)."""
MOST: Final = 5_000
"""Consumers on a server up to which they are counted, one by one: about 2 MB of JSON."""
CHECKS: Final = ("plain", "js-enabled-only", "js-server-only")
"""The variants of `/healthz`."""

Json = Mapping[str, Any]


class NoReport(Exception):  # noqa: N818  # it says what came instead
    """The JSON is no report of a nats-server."""


def server(varz: Json, jsz: Json) -> Server:
    """Return what `/varz` and `/jsz` say; NoReport if they are none."""
    try:
        jetstream: Json = varz.get("jetstream") or {}
        config: Json = jetstream.get("config") or {}
        stats: Json = jetstream.get("stats") or {}
        # In lame duck mode /varz goes on as if nothing had happened for a moment; /jsz knows that JetStream has been shut down.
        on = bool(config) and not jsz.get("disabled", False)
        return Server(
            id=varz["server_id"],
            name=varz["server_name"],
            version=varz["version"],
            uptime=varz.get("uptime", ""),
            clients=varz.get("connections", 0),
            jetstream=on,
            meta=_meta(jetstream.get("meta") or {}) if on else None,
            store=_store(config, stats) if config else None,
            streams=jsz.get("streams", 0),
            consumers=jsz.get("consumers", 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoReport(
            f"the answer is not that of a nats-server ({type(error).__name__}: {error})"
        ) from error


def _meta(meta: Json) -> Meta | None:
    if not meta:
        return None
    peers = tuple(
        Peer(
            name=peer["name"],
            current=peer.get("current", False),
            offline=peer.get("offline", False),
            silent=peer.get("active", 0) / 1e9,
            lag=peer.get("lag", 0),
        )
        for peer in meta.get("replicas") or ()
    )
    return Meta(leader=meta.get("leader", ""), size=meta["cluster_size"], peers=peers)


def _store(config: Json, stats: Json) -> Store:
    return Store(
        directory=config.get("store_dir", ""),
        used=stats.get("storage", 0),
        limit=config.get("max_storage", 0),
        memory_used=stats.get("memory", 0),
        memory_limit=config.get("max_memory", 0),
    )


def check(status: int, answer: object) -> Check:
    """Return what a variant of `/healthz` says; through the system account the status is part of the answer."""
    said = answer if isinstance(answer, dict) else {}
    return Check(status=said.get("status_code", status), error=str(said.get("error", "")))


def worth_counting(seen: Server) -> bool:
    """Say whether a server has so many consumers that stale ones would matter, and not too many to look at."""
    return PILE <= seen.consumers <= MOST


def with_consumers(seen: Server, jsz: Json) -> Server:
    """Add the count of consumers, from `/jsz?accounts=true&streams=true&consumers=true&config=true`."""
    try:
        return seen.model_copy(update={"counted": consumers(jsz, seen.name)})
    except NoReport as error:
        return seen.model_copy(update={"uncounted": str(error)})


def consumers(jsz: Json, name: str) -> Consumers:
    """Count the consumers that the server `name` leads, from its `/jsz?consumers=true&config=true`; NoReport if it is none."""
    ephemeral, stale = 0, Counter[str]()
    try:
        now = _seconds(jsz["now"])
        for stream, consumer in _each(jsz):
            if (
                consumer["config"].get("durable_name")
                or consumer.get("cluster", {}).get("leader", name) != name
            ):
                continue
            ephemeral += 1
            alone = not consumer.get("push_bound") and not consumer.get("num_waiting")
            if alone and now - _last_used(consumer) > STALE:
                stale[stream] += 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoReport(f"the consumers could not be counted ({type(error).__name__}: {error})") from error
    most = max(stale, key=lambda stream: stale[stream], default="")
    return Consumers(ephemeral=ephemeral, stale=stale.total(), stream=most)


def _each(jsz: Json) -> Iterator[tuple[str, Json]]:
    for account in jsz.get("account_details") or ():
        for stream in account.get("stream_detail") or ():
            for consumer in stream.get("consumer_detail") or ():
                yield stream["name"], consumer


def _last_used(consumer: Json) -> float:
    times: Iterable[str | None] = (
        consumer.get("created"),
        consumer.get("delivered", {}).get("last_active"),
        consumer.get("ack_floor", {}).get("last_active"),
    )
    return max(_seconds(text) for text in times if text)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def accounts(info: Json) -> tuple[Account, ...]:
    """Return what `$JS.API.INFO` says of our account, one entry for each tier if it has any; NoReport if it is no such answer."""
    try:
        tiers: Mapping[str, Json] = info.get("tiers") or {"": info}
        return tuple(_account(tier, use) for tier, use in tiers.items())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoReport(f"the answer is not that of JetStream ({type(error).__name__}: {error})") from error


def _account(tier: str, use: Json) -> Account:
    limits: Json = use.get("limits") or {}
    return Account(
        tier=tier,
        storage=use["storage"],
        memory=use["memory"],
        streams=use["streams"],
        consumers=use["consumers"],
        limits=Limits(
            storage=limits.get("max_storage", -1),
            memory=limits.get("max_memory", -1),
            streams=limits.get("max_streams", -1),
            consumers=limits.get("max_consumers", -1),
        ),
    )
