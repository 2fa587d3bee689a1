"""Looks at the cluster's health all along, the closer the more happens, and journals when it changes."""

from __future__ import annotations

from typing import Final

import aiohttp
import anyio

from supervisor.broker.connection import Connections
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Diagnosis, Severity
from supervisor.journal.base import Journal
from supervisor.journal.events import BrokerChanged, HealthChanged, Record, UnitExited, UnitReady

EVERY: Final = 2.0
"""Seconds from the end of one look to the next while nothing happens."""
REST: Final = 0.3
"""Seconds that lie between two looks whatever happens. A server that is restarted is away for about a second."""
TOLD: Final = 5
"""Findings that an event names; the first ones say why it is as it is."""


class HealthWatch:
    """Keeps the last diagnosis, and tells the journal of every change of state and of what decides it."""

    def __init__(
        self, connections: Connections, http: aiohttp.ClientSession, journal: Journal, every: float = EVERY
    ) -> None:
        self.last: Diagnosis | None = None
        """None: nobody has looked yet."""
        self._connections, self._http, self._journal, self._every = connections, http, journal, every
        self._told: tuple[str, str] | None = None
        self._happened = anyio.Event()

    async def run(self) -> None:
        """Look every few seconds, and when a unit or a connection comes or goes. A leaf task."""
        unsubscribe = self._journal.subscribe(self._notice)
        try:
            while True:
                self._happened = anyio.Event()
                self.last = diagnosis = diagnose(await examine(self._connections, self._http))
                self._tell(diagnosis)
                await anyio.sleep(REST)
                with anyio.move_on_after(self._every - REST):
                    await self._happened.wait()
        finally:
            unsubscribe()

    def _notice(self, record: Record) -> None:
        if isinstance(record.event, UnitExited | UnitReady | BrokerChanged):
            self._happened.set()

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
