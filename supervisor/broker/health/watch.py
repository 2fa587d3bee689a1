"""Looks at the cluster's health all along, and journals when it changes."""

from __future__ import annotations

from typing import Final

import aiohttp
import anyio

from supervisor.broker.connection import Connections
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Diagnosis, Severity
from supervisor.journal.base import Emitter
from supervisor.journal.events import HealthChanged

EVERY: Final = 2.0
"""Seconds from the end of one look to the next: a server that is restarted is away for about that long."""
TOLD: Final = 5
"""Findings that an event names; the first ones say why it is as it is."""


class HealthWatch:
    """Keeps the last diagnosis, and tells the journal of every change of state and of what decides it."""

    def __init__(
        self, connections: Connections, http: aiohttp.ClientSession, journal: Emitter, every: float = EVERY
    ) -> None:
        self.last: Diagnosis | None = None
        """None: nobody has looked yet."""
        self._connections, self._http, self._journal, self._every = connections, http, journal, every
        self._told: tuple[str, str] | None = None

    async def run(self) -> None:
        """Look every few seconds. A leaf task."""
        while True:
            self.last = diagnosis = diagnose(await examine(self._connections, self._http))
            self._tell(diagnosis)
            await anyio.sleep(self._every)

    def _tell(self, diagnosis: Diagnosis) -> None:
        weighty = [f for f in diagnosis.findings if f.severity in {Severity.CRITICAL, Severity.WARNING}]
        now = (diagnosis.health.value, weighty[0].code if weighty else "")
        if now == self._told:
            return
        before, self._told = self._told, now
        self._journal.emit(
            HealthChanged(
                state=diagnosis.health.value,
                before=before[0] if before else "",
                reason=diagnosis.headline,
                findings=tuple(f"{f.code} ({f.subject}): {f.what}" for f in weighty[:TOLD]),
            )
        )
