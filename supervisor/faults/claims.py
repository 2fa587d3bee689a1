"""Which episode has which units: two never disturb one unit at the same time, and whoever came first goes first."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import anyio


class Claims:
    """Episodes and the units they want, in the order in which they came.

    A claim is granted as soon as no earlier one shares a unit with it. That order is total, so nobody starves and no two wait for
    each other.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, frozenset[str]] = {}
        self._changed = anyio.Event()

    async def take(self, episode: str, units: Iterable[str]) -> bool:
        """Wait until the units are free for this episode; return whether it had to wait. Cancelled: nothing is claimed."""
        self._wanted[episode] = frozenset(units)
        waited = False
        try:
            while self.ahead(episode):
                waited = True
                await self._changed.wait()
        except BaseException:
            self.drop(episode)
            raise
        return waited

    def ahead(self, episode: str) -> tuple[str, ...]:
        """Return the earlier episodes that share a unit with this one."""
        units, earlier = self._wanted[episode], list(self._wanted)
        return tuple(
            other for other in earlier[: earlier.index(episode)] if not units.isdisjoint(self._wanted[other])
        )

    def drop(self, episode: str) -> None:
        """Give the units of an episode back; no error if it has none."""
        if self._wanted.pop(episode, None) is not None:
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
