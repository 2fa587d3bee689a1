"""The broker: health, connections, streams, consumers, leaders and entries, and what was cleaned up."""

from __future__ import annotations

from typing import Literal

from supervisor.journal.events.base import Event


class HealthChanged(Event, kind="broker.health"):
    """The broker's health changed, or what decides it did."""

    state: Literal["healthy", "degraded", "unhealthy"]
    before: str = ""
    """Empty at the first look."""
    reason: str = ""
    """What decides it, in one line."""
    findings: tuple[str, ...] = ()
    """The worst, as `code (subject): what`."""


class BrokerChanged(Event, kind="broker.connection"):
    """A connection of ours to the broker changed its state."""

    connection: str
    state: Literal[
        "connected", "disconnected", "reconnected", "lame-duck", "discovered", "rejected", "closed"
    ]
    server: str = ""
    detail: str = ""


class StreamChanged(Event, kind="broker.stream"):
    """Streams changed. Changes of one sort that follow each other quickly are told together."""

    change: Literal["created", "deleted", "recreated", "reappeared", "reset"]
    """`reappeared`: it was taken for deleted and is the same as before. `reset`: kept in memory, its content is gone."""
    count: int = 1
    streams: tuple[str, ...] = ()
    """The first few names."""
    over: float = 0.0
    """Seconds from the first of these changes to this event."""
    detail: str = ""


class ConsumerChanged(Event, kind="broker.consumer"):
    """Consumers changed, those of soakd itself left out."""

    change: Literal["created", "deleted", "max-deliveries"]
    """`max-deliveries`: a message was delivered as often as allowed, and never acknowledged."""
    count: int = 1
    consumers: tuple[str, ...] = ()
    """The first few, as `stream > consumer`."""
    over: float = 0.0
    detail: str = ""


class LeaderChanged(Event, kind="broker.leader"):
    """Groups of replicas elected a leader, or lost their majority."""

    change: Literal["elected", "quorum-lost", "quorum-regained"]
    of: Literal["stream", "consumer", "meta"]
    count: int = 1
    groups: tuple[str, ...] = ()
    """The first few: the name, with the leader if there is one."""
    over: float = 0.0
    detail: str = ""


class EntriesChanged(Event, kind="broker.entries"):
    """Entries of a bucket changed; counts, never an event for each key."""

    bucket: str
    put: int = 0
    deleted: int = 0
    purged: int = 0
    vanished: int = 0
    """Gone without a marker: purged from the stream, or with it."""
    samples: tuple[str, ...] = ()
    """The first few keys."""
    over: float = 0.0


class ViewChanged(Event, kind="broker.view"):
    """The monitor can see all of the broker again, or no longer."""

    complete: bool
    why: str = ""


class CleanedUp(Event, kind="broker.cleaned"):
    """A cleanup of streams and entries, made for a load."""

    load: str
    streams: int
    entries: int
    took: float
    error: str = ""
