"""Which episode has which units: two never disturb one unit at the same time, and whoever came first goes first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import anyio

from supervisor.faults.limits import Bounds, Demand, Limits

LOOK: Final = 0.2
"""Seconds from one look whether there is room to the next."""


class Claims:
    """Episodes and what they would disturb, in the order in which they came.

    A claim is granted as soon as it shares no unit with an earlier one, nor with one that is granted, and fits beside all of them into
    the bounds. That order is total, so nobody starves and no two wait for each other. Who aims at others by then keeps his place: else
    a leader that moves with each rollout would never be had.
    """

    def __init__(self, bounds: Bounds | None = None, down: Callable[[], Iterable[str]] = tuple) -> None:
        """`down` tells the units that are down just now, by whatever cause."""
        self.bounds, self._down = bounds or Bounds(Limits()), down
        self._wanted: dict[str, Demand] = {}
        self._granted: set[str] = set()
        self._changed = anyio.Event()

    async def take(self, episode: str, demand: Demand) -> bool:
        """Wait until there is room for this episode; return whether it had to wait. Cancelled: nothing is claimed.

        What it has claimed already is given back for this claim, in the same place of the order.
        """
        self._granted.discard(episode)
        if episode in self._wanted:
            self._tell()
        self._wanted[episode] = demand
        waited = False
        try:
            while not self._has_room(episode):
                waited = True
                with anyio.move_on_after(LOOK):  # units come up without a word to us
                    await self._changed.wait()
        except BaseException:
            self.drop(episode)
            raise
        self._granted.add(episode)
        return waited

    def take_now(self, episode: str, demand: Demand) -> tuple[str, ...] | None:
        """Claim without waiting; None if that is granted, else the episodes that are in the way (none: the bounds are)."""
        self._wanted[episode] = demand
        if self._has_room(episode):
            self._granted.add(episode)
            return None
        ahead = self.ahead(episode)
        self.drop(episode)
        return ahead

    def _has_room(self, episode: str) -> bool:
        wanted, earlier = self._wanted[episode], [self._wanted[other] for other in self._before(episode)]
        claimed = frozenset[str]().union(*(other.units for other in earlier))
        if not wanted.units.isdisjoint(claimed):
            return False
        return self.bounds.fits(wanted, earlier, frozenset(self._down()) - claimed - wanted.units)

    def _before(self, episode: str) -> list[str]:
        order = list(self._wanted)
        place = order.index(episode)
        return order[:place] + [other for other in order[place + 1 :] if other in self._granted]

    def ahead(self, episode: str) -> tuple[str, ...]:
        """Return the episodes that share a unit with this one, and go before it."""
        units = self._wanted[episode].units
        return tuple(
            other for other in self._before(episode) if not units.isdisjoint(self._wanted[other].units)
        )

    def drop(self, episode: str) -> None:
        """Give the units of an episode back; no error if it has none."""
        if self._wanted.pop(episode, None) is not None:
            self._granted.discard(episode)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Disturbances:
    """Which episodes' disturbances are in place now, from the intent to the end of undo."""

    def __init__(self) -> None:
        self._active: set[str] = set()
        self._last_end = -math.inf
        self._calm = anyio.Event()

    def enter(self, episode: str) -> None:
        """An episode's intent is on disk."""
        self._active.add(episode)

    def leave(self, episode: str) -> None:
        """Its undo is over; no error if that is known already."""
        if episode in self._active:
            self._active.remove(episode)
            self._last_end = time.monotonic()
            if not self._active:
                self._calm.set()
                self._calm = anyio.Event()

    def since(self, instant: float) -> bool:
        """Say whether any was in place after this time (monotonic seconds)."""
        return bool(self._active) or self._last_end > instant

    async def calm(self) -> None:
        """Wait until none is in place."""
        while self._active:
            await self._calm.wait()
