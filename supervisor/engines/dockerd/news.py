"""What the fleet is told of containers: each end once, and what others decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import Exit, Outside, Unwell
from supervisor.engines.dockerd.container import Container
from supervisor.engines.dockerd.life import Unit

NEWS: Final = 4096
"""Ends that may wait for the fleet, which takes them at once."""
_log: Final = structlog.get_logger("soakd.docker")

News = Exit | Outside | Unwell
Recreated = Callable[[Unit, Container], Awaitable[None]]
"""Told of a unit that came up in another container than before."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What the soak file says about what others do to units."""

    respect: bool
    """What somebody outside stopped stays down until he starts it."""
    unhealthy: bool
    """A unit that its own health check calls unhealthy is restarted."""


class Herald:
    """Takes note of what became of a unit, and tells the fleet. Whoever calls it holds the unit's lock, but for `tell`."""

    def __init__(self, manner: Manner, recreated: Recreated) -> None:
        self.manner, self._recreated = manner, recreated
        self._anew: set[Unit] = set()
        """Who came up in another container, of which `recreated` has still to be told."""
        self._send, self._receive = anyio.create_memory_object_stream[News](NEWS)

    def close(self) -> None:
        """No more news."""
        self._send.close()
        self._receive.close()

    @property
    def news(self) -> MemoryObjectReceiveStream[News]:
        """What the fleet is told, in order."""
        return self._receive.clone()

    def tell(self, news: News) -> None:
        """Tell the fleet, which takes it at once; never waits."""
        try:
            self._send.send_nowait(news)
        except anyio.WouldBlock:
            _log.error("nobody takes what happens to units", unit=news.unit)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            # The fleet has gone, or the engine has put back its units and is being left while the last events come: the run is over.
            _log.debug("nobody wants to know any more", unit=news.unit)

    def stands(self, unit: Unit, *, stays: bool = True) -> None:
        """Tell how a unit stands (see `Outside`)."""
        self.tell(Outside(unit.name, unit.observed(), stays))

    async def arrived(self, unit: Unit, seen: Container, begun: int) -> None:
        """A life has begun, which none of ours did."""
        if unit.last and unit.last.id != seen.id:
            self._anew.add(unit)
        unit.begin(seen, begun)
        self.stands(unit)
        await self.welcome(unit)

    async def welcome(self, unit: Unit) -> None:
        """See to it that whoever wants to know of a new container has heard of it; an ApiError is for the next time."""
        if unit in self._anew and unit.last:
            await self._recreated(unit, unit.last)
            self._anew.remove(unit)

    def ended(
        self, unit: Unit, code: int | None, at: int, seen: Container | None, *, live: bool, note: str = ""
    ) -> None:
        """Take note of the end of the present life (see `Unit.end`)."""
        self._tell_end(unit, unit.end(code, at, seen, live=live, note=note))

    def removed(self, unit: Unit, at: int, how: str) -> None:
        """Take note that the present life went with its container, and that nobody saw how (see `Unit.end`)."""
        note = f"{how}: its container was removed, and its log with it"
        self._tell_end(unit, unit.end(None, at, None, live=True, note=note, removed=True))

    def _tell_end(self, unit: Unit, gone: Exit) -> None:
        if gone.outside and self.manner.respect:
            self.stands(unit)
        self.tell(gone)
