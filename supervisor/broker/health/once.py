"""One look without a run: `soakd health`."""

from __future__ import annotations

import aiohttp

from supervisor.broker.connection import open_connections
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Diagnosis
from supervisor.broker.options import DEFAULT, Broker
from supervisor.journal.events import Event


class _Unheard:
    """Where connections report to while there is no journal."""

    def emit(self, event: Event) -> None:
        """Forget an event."""


async def look_once(broker: Broker) -> Diagnosis:
    """Connect, look and judge, within a few seconds whatever state the cluster is in."""
    async with aiohttp.ClientSession() as http, open_connections(broker, _Unheard()) as connections:
        for name in (DEFAULT, *(["system"] if broker.system else [])):
            await connections.handle(name)  # its first attempt may have to pass by servers that are away
        return diagnose(await examine(connections, http))
