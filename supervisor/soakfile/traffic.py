"""What no load on NATS can see by itself: whether there is a broker, with the connection that the load takes, and what others claim from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from supervisor.broker.embedded import ENGINE
from supervisor.loads.base import Load
from supervisor.loads.claim import ClaimLoad
from supervisor.loads.event_store import EventStoreLoad
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.kv import KvLoad
from supervisor.loads.nats_load import NatsLoad
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.wording import Finding, did_you_mean, either
from supervisor.values import format_duration

RESERVED: Final = ("$JS.", "$SYS.")
"""Beginnings of subjects that no stream may have."""


def check(_: object, parts: Parts) -> Iterator[Finding]:
    """Yield what is wrong with the loads on NATS of a soak file."""
    queues: dict[str, str] = {}
    servers = _servers(parts)
    for name, load in parts.loads.items():
        if not isinstance(load, NatsLoad) or not load.on_nats:
            continue
        if parts.broker is None and "broker" not in parts.bad:
            what = f"{load.key} needs a broker: add the section broker, with its servers"
            yield Finding(("loads", name), what)
        if parts.broker is not None and load.connection not in (known := parts.broker.names):
            hint = did_you_mean(load.connection, known) or f": expected {either(known)}"
            yield Finding(("loads", name, "as"), f'there is no connection "{load.connection}"{hint}')
        yield from _cannot_make(name, load, servers)
        if isinstance(load, ClaimLoad):
            queue = f"stream {load.claim.stream}" if load.claim.stream else f"bucket {load.claim.bucket}"
            if (other := queues.setdefault(queue, name)) != name:
                what = (
                    f"load {other} claims from {queue} too, and each would take the other's jobs for lost: name another one, or "
                    "have one load with more workers, or processes"
                )
                yield Finding(("loads", name, "claim"), what)
    yield from _made_twice(parts.loads)


def _servers(parts: Parts) -> int | None:
    """Return how many servers the broker has, which is only known of an embedded one."""
    return len(parts.broker.nodes) if parts.broker and ENGINE in parts.engines else None


def _cannot_make(name: str, load: NatsLoad, servers: int | None) -> Iterator[Finding]:
    """Yield what keeps a load from making its stream or bucket, however healthy the broker is."""
    if not (made := _made(load)):
        return
    wanted = load.claim.replicas if isinstance(load, ClaimLoad) else int(made.how["replicas"])
    if servers is not None and wanted > servers:
        where = ("claim", "replicas") if isinstance(load, ClaimLoad) else ("replicas",)
        have = "1 node" if servers == 1 else f"{servers} nodes"
        what = f"{wanted} replicas need as many servers, and broker.embedded has {have}: take fewer, or more nodes"
        yield Finding(("loads", name, *where), what)
    if made.how.get("subject", "").startswith(RESERVED):
        what = "the servers keep subjects that begin with $JS and $SYS to themselves: expected another"
        yield Finding(("loads", name, "subject"), what)


class _Made(NamedTuple):
    """What a load makes if it is not there."""

    what: Literal["stream", "bucket"]
    name: str
    how: dict[str, str]
    """What its keys say of it."""


def _made(load: Load) -> _Made | None:
    if isinstance(load, JetStreamLoad | EventStoreLoad):
        name, subject = (
            (load.jetstream, load.published_to)
            if isinstance(load, JetStreamLoad)
            else (load.event_store, load.prefix)
        )
        how = {"subject": subject, "replicas": str(load.replicas), "storage": load.storage}
        return _Made("stream", name, {**how, "max_age": format_duration(load.max_age)})
    if isinstance(load, KvLoad):
        return _Made("bucket", load.kv, {"replicas": str(load.replicas)})
    if isinstance(load, ClaimLoad):
        stream, bucket = load.claim.stream, load.claim.bucket
        return _Made("stream", stream, {}) if stream else _Made("bucket", bucket, {}) if bucket else None
    return None


def _made_twice(loads: Mapping[str, Load]) -> Iterator[Finding]:
    """Yield loads that would make one stream or bucket, each its own way: whichever comes first wins, and that is another in each run."""
    first: dict[tuple[str, str, str], tuple[str, Load, dict[str, str]]] = {}
    for name, load in loads.items():
        if not isinstance(load, NatsLoad) or not (made := _made(load)):
            continue
        what, which, how = made
        other, maker, wanted = first.setdefault((load.connection, what, which), (name, load, how))
        if maker.key != load.key:
            text = f"load {other} makes {what} {which} too, in the way of {maker.key}: name another {what}"
            yield Finding(("loads", name, load.key), text)
        elif key := next((key for key in how if how[key] != wanted[key]), None):
            text = f"load {other} makes {what} {which} too, with {key} {wanted[key]}: say the same in both, or name another {what}"
            yield Finding(("loads", name, key if key in load.model_fields_set else load.key), text)
