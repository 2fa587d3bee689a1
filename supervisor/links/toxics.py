"""What can be done to the bytes of a link, and what several such things add up to.

On their way through a link bytes first travel (latency), then are let through or not (blackhole), then go at a pace (bandwidth) and in
pieces (slice). Whatever is on it, a link keeps their order, and delivers what it has accepted unless the connection itself is reset.
Standard library and anyio only: the process of the links has to start quickly.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Literal

import anyio

Way = Literal["up", "down", "both"]
"""up: from the clients to the server; down: from the server to the clients."""
WAYS: Final[tuple[Way, Way]] = ("up", "down")

PIECE: Final = 256 * 1024
"""Bytes that are sent at once where nothing asks for fewer."""
STEP: Final = 0.01
"""Seconds of a limited link's time that one piece takes."""
CATCH_UP: Final = 1.0
"""Seconds by which a busy machine may wake us late without any bandwidth being lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """One thing that is done to a link. `way` says to which direction."""

    kind: ClassVar[str]
    way: Way = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Toxic):
    """Everything arrives `delay` seconds later, more or less by up to `jitter`, drawn evenly for each piece; never out of order."""

    kind: ClassVar[str] = "latency"
    delay: float
    jitter: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(Toxic):
    """All connections of the link together carry at most `rate` bytes a second, in each direction."""

    kind: ClassVar[str] = "bandwidth"
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Toxic):
    """Bytes go in pieces of at most `size`, with `gap` seconds after each."""

    kind: ClassVar[str] = "slice"
    size: int
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackhole(Toxic):
    """Nothing arrives, and nothing is closed. What was accepted arrives once it is over."""

    kind: ClassVar[str] = "blackhole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Toxic):
    """Connections are reset (RST to both ends), those there are and those that come."""

    kind: ClassVar[str] = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Toxic):
    """New connections are refused, as if nobody listened. Those there are go on."""

    kind: ClassVar[str] = "refuse"


_KINDS: Final[Mapping[str, type[Toxic]]] = {
    cls.kind: cls for cls in (Latency, Bandwidth, Slice, Blackhole, Reset, Refuse)
}


def encode(toxic: Toxic) -> dict[str, Any]:
    """Return a toxic as JSON."""
    return {"kind": toxic.kind, **asdict(toxic)}


def decode(data: Mapping[str, Any]) -> Toxic:
    """Return the toxic that `encode` wrote."""
    return _KINDS[data["kind"]](**{key: value for key, value in data.items() if key != "kind"})


class Pace:
    """What keeps a direction to a rate: bytes are lined up on a clock that runs `rate` bytes a second."""

    def __init__(self, rate: float) -> None:
        self.piece = max(1, min(PIECE, int(rate * STEP)))
        self._rate, self._free = rate, 0.0

    def book(self, size: int, ready: float) -> float:
        """Return the monotonic time at which so many bytes, ready to go at another, have passed; they are booked.

        The line is busy from when they were ready on, however late a busy machine lets us get here.
        """
        self._free = max(self._free, ready, time.monotonic() - CATCH_UP) + size / self._rate
        return self._free

    def give_back(self, size: int) -> None:
        """Take back the booking of bytes that could not go."""
        self._free -= size / self._rate


class Shape:
    """What the toxics on one direction of a link add up to. Replaced, never changed; whoever waits for `changed` looks anew."""

    def __init__(self, toxics: Iterable[Toxic] = (), paces: Iterable[Pace] = ()) -> None:
        toxics, self._paces = list(toxics), list(paces)
        self.blocked = any(isinstance(one, Blackhole) for one in toxics)
        self._delays = [(one.delay, one.jitter) for one in toxics if isinstance(one, Latency)]
        slices = [one for one in toxics if isinstance(one, Slice)]
        self.gap = max((one.gap for one in slices), default=0.0)
        self.piece = min([PIECE, *(one.size for one in slices), *(pace.piece for pace in self._paces)])
        self.plain = not (self.blocked or self._delays or slices or self._paces)
        """Nothing is done to the bytes."""
        self._made = time.monotonic()
        self.changed = anyio.Event()

    def delay(self, chance: float) -> float:
        """Return the seconds that something is on its way; `chance` from -1 to 1 says how the jitter fell."""
        return sum(max(0.0, delay + chance * jitter) for delay, jitter in self._delays)

    async def until(self, instant: float) -> bool:
        """Wait until a monotonic time; return False, at once, if the shape has been replaced."""
        while not self.changed.is_set() and (left := instant - time.monotonic()) > 0:
            with anyio.move_on_after(left):
                await self.changed.wait()
        return not self.changed.is_set()

    async def booked(self, size: int, ready: float) -> bool:
        """Wait until so many bytes may go; return False, with nothing booked, if the shape has been replaced meanwhile."""
        ready = max(ready, self._made)
        instant = max((pace.book(size, ready) for pace in self._paces), default=0.0)
        if await self.until(instant):
            return True
        self.give_back(size)
        return False

    def give_back(self, size: int) -> None:
        """Take back the booking of bytes that could not go."""
        for pace in self._paces:
            pace.give_back(size)


def chance() -> float:
    """Draw how the jitter falls for one piece."""
    return random.uniform(-1.0, 1.0)  # noqa: S311  # nothing secret
