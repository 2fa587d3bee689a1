"""How watchdogs are told that their unit has ended."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from supervisor.journal.events import Cause

KEPT: Final = 64
"""Departures kept for one watchdog; there is one for each start, and watchdogs are the ones that start."""

_log: Final = structlog.get_logger("soakd.fleet")


@dataclass(frozen=True, slots=True)
class Departure:
    """The end of one incarnation of a unit, with its cause."""

    unit: str
    incarnation: str
    code: int | None
    signal: str | None
    oom: bool
    cause: Cause
    by: str | None
    """Who ended it, None for a crash and for somebody outside."""
    mono: float
    """Monotonic seconds at which the engine noticed."""
    uptime: float | None
    wall: float | None = None
    """Where its log ends, if others may have started it again (see `Exit.wall`)."""
    facts: Mapping[str, str] = field(default_factory=dict)


_Streams = dict[str, tuple[MemoryObjectSendStream[Departure], MemoryObjectReceiveStream[Departure]]]


class Departures:
    """A bounded stream for each unit that somebody asked for, which outlives the one who reads it."""

    def __init__(self) -> None:
        self._streams: _Streams = {}
        weakref.finalize(self, _close, self._streams)

    def __contains__(self, unit: str) -> bool:
        return unit in self._streams

    def of(self, unit: str) -> MemoryObjectReceiveStream[Departure]:
        """Return the departures of a unit from the first such call on, to be closed by the reader."""
        if unit not in self._streams:
            self._streams[unit] = anyio.create_memory_object_stream[Departure](KEPT)
        return self._streams[unit][1].clone()

    def end(self, unit: str) -> None:
        """Nobody asks for the departures of a unit any more; who reads them gets those there are, and then the end."""
        if unit in self._streams:
            send, receive = self._streams.pop(unit)
            send.close()
            receive.close()

    def tell(self, departure: Departure) -> None:
        """Pass a departure on; the oldest one is dropped if nobody takes them."""
        if departure.unit in self._streams:
            send, receive = self._streams[departure.unit]
            if send.statistics().current_buffer_used == KEPT:
                lost = receive.receive_nowait()
                _log.warning("nobody took a departure", unit=lost.unit, incarnation=lost.incarnation)
            send.send_nowait(departure)


def _close(streams: _Streams) -> None:
    for send, receive in streams.values():
        send.close()
        receive.close()
