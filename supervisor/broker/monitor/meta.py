"""Who leads the cluster: what a majority of its servers says, not whoever answers first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from supervisor.broker.handle import Handle
from supervisor.broker.health.system_account import ask_all


async def meta_leader(handle: Handle, deadline: float) -> str | None:
    """Ask all servers through a connection of the system account; see `agreed`. nats.errors.Error and BrokerError as they come."""
    answers = await ask_all(handle, {"jsz": ("JSZ", {})}, deadline)
    return agreed([said["jsz"].get("meta_cluster") or {} for said in answers.values() if "jsz" in said])


def agreed(said: Collection[Mapping[str, Any]]) -> str | None:
    """Return the leader that a majority names, empty if a majority knows of none; None: no majority says the same.

    `said` is what each server that answered has under `meta_cluster`. One that was paused names the leader of its past until it
    hears of another, and is often the first to answer.
    """
    size = max((int(each.get("cluster_size", 0)) for each in said), default=0)
    named = Counter(str(each.get("leader", "")) for each in said if each)
    for leader, count in named.most_common(1):
        if size and 2 * count > size:
            return leader
    return None
