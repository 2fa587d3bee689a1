"""Handles as tests use them."""

from __future__ import annotations

from nats_servers import until

from supervisor.broker.connection import Handle
from supervisor.journal.events import BrokerChanged

WITHIN = 20.0
"""Seconds after which a handle must be usable again on a busy machine; what nats-py does wrong lasts for as long as the disturbance."""


async def usable(handle: Handle) -> None:
    """The promise: soon a canary is answered, and so it stays."""
    await handle.wait_connected(WITHIN)
    await handle.canary(WITHIN)


async def down(handle: Handle) -> None:
    """Wait until it is down, and cannot be up again so soon that nobody would see it: its only server is away."""
    await until(lambda: not handle.connected)


def states(changes: list[BrokerChanged]) -> list[str]:
    return [change.state for change in changes]
