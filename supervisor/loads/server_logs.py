"""What the broker's servers wrote around a moment, saved as evidence: as far as they are units of the soak, on whatever engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from supervisor.engines.base import EngineError
from supervisor.engines.fleet import Fleet
from supervisor.journal.base import Journal, JournalError

READING: Final = 2.0
"""Seconds for one log."""
KEPT: Final = 500_000
"""Bytes of a log that are kept, half of them from its beginning: what led to the moment, and what came of it."""
_CUT: Final = b"\n... %d bytes are left out here ...\n"


class UnitLogs:
    """The logs of the servers that are units."""

    def __init__(self, fleet: Fleet, units: Iterable[str], journal: Journal) -> None:
        self._fleet, self._units, self._journal = fleet, tuple(units), journal

    async def save(self, title: str, since: float, until: float) -> dict[str, str]:
        """Save them; see `ServerLogs`."""
        saved: dict[str, str] = {}

        async def save(unit: str) -> None:
            saved[unit] = f"its log could not be read within {READING:g}s"
            with anyio.move_on_after(READING):
                try:
                    text = await self._fleet.logs(unit, since=since, until=until, stamped=True)
                    name = f"{title}.{unit.replace('/', '.')}.log"
                    await self._journal.write_file(name, _short(text))
                except (EngineError, JournalError, OSError) as error:
                    saved[unit] = f"its log could not be saved: {error}"
                else:
                    saved[unit] = name

        async with anyio.create_task_group() as group:
            for unit in self._units:
                group.start_soon(save, unit)
        return saved


def _short(text: bytes) -> bytes:
    """Return a log without its middle, if it is too long."""
    if len(text) <= KEPT:
        return text
    half = KEPT // 2
    return text[:half] + _CUT % (len(text) - 2 * half) + text[-half:]
