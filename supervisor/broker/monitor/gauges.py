"""The monitor's numbers as gauges, few enough for a time series database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from supervisor.broker.monitor.snapshot import Consumers, Stream

SERIES: Final = 30
"""Streams with series of their own, the greatest ones; the rest is added up under `other`."""
OTHER: Final = "other"


def gauges(
    names: Collection[str],
    streams: Mapping[str, Stream],
    consumers: Mapping[str, Consumers],
    live: Mapping[str, int],
) -> dict[str, float]:
    """Return gauges by name and labels; `live` has the keys with a value by bucket."""
    values: dict[str, float] = {
        "soakd_broker_streams": len(names),
        "soakd_broker_messages": sum(stream.messages for stream in streams.values()),
        "soakd_broker_stored_bytes": sum(stream.bytes for stream in streams.values()),
        "soakd_broker_streams_without_quorum": sum(not stream.quorum for stream in streams.values()),
        "soakd_broker_replica_lag_messages": max((stream.lag for stream in streams.values()), default=0),
    }
    sums = consumers.values()
    for kind in ("durable", "ephemeral"):
        count = sum(getattr(each, kind) for each in sums)
        values[f'soakd_broker_consumers{{type="{kind}"}}'] = count
    values["soakd_broker_consumers_idle"] = sum(each.idle for each in sums)
    values["soakd_broker_consumer_pending_messages"] = sum(each.pending for each in sums)
    values["soakd_broker_consumer_unacknowledged_messages"] = sum(each.ack_pending for each in sums)
    values["soakd_broker_consumer_redelivered_messages"] = sum(each.redelivered for each in sums)
    values |= {f'soakd_broker_kv_entries{{bucket="{bucket}"}}': count for bucket, count in live.items()}
    return values | _by_stream(streams)


def _by_stream(streams: Mapping[str, Stream]) -> dict[str, float]:
    ranked = sorted(streams.values(), key=lambda stream: (-stream.messages, stream.name))
    values: dict[str, float] = {}
    for stream in ranked if len(ranked) <= SERIES else ranked[: SERIES - 1]:
        values[_series(stream.name)] = stream.messages
    if rest := ranked[len(values) :]:
        values[_series(OTHER)] = sum(stream.messages for stream in rest)
    return values


def _series(stream: str) -> str:
    return f'soakd_broker_stream_messages{{stream="{stream}"}}'
