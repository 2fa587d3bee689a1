"""Decides which names are there: unknown is not gone.

A list may lack a name that exists: a meta leader that was paused answers from the past, one that has just started has not caught up,
and pages shift while something is deleted. So a name is gone at once only if its deletion was announced as well; otherwise once it
was missing from every list for longer than a meta leader can be out of date.

A list of ten thousand names takes a while, on a busy machine more than a second with the pause before it. So what was announced is also
asked about by name: the meta leader, which makes the lists, says that there is no such stream, or the stream's own leader describes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

PATIENCE: Final = 25.0
"""Seconds. A leader without a majority notices within 20 (nats-server checks every 10 s for replicas silent for 10 s)."""
GAP: Final = 5.0
"""Seconds without a list after which the wait begins anew: a leader that was paused in between has noticed nothing."""
VALID: Final = 30.0
"""Seconds after which an announcement that no list bore out is forgotten."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a list changed."""

    created: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """There in spite of an announced deletion: created again, or the announcement is late. Ask, and `settle`."""


class Presence:
    """The names that are there, as far as lists and announcements say. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.there: frozenset[str] = frozenset()
        self.doubted: dict[str, float] = {}
        """Names missing from the last list, since when. They count as there."""
        self._announced: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        """Names that are not there, whose creation was announced, and when."""
        self._gone: dict[str, float] = {}
        """Names that were found to be gone by name, and when that was asked: a list that was asked for before may still have them."""
        self._listed: frozenset[str] | None = None
        self._at = float("-inf")

    def announce(self, name: str, now: float) -> None:
        """Take note that somebody announced a deletion. It may be late: the list decides."""
        self._expected.pop(name, None)
        if name in self.there:
            self._announced[name] = now

    def expect(self, name: str, now: float) -> None:
        """Take note that somebody announced a creation; what was there before the first list was not created."""
        if name not in self.there and self._listed is not None:
            self._expected[name] = now

    def appear(self, name: str, asked: float) -> bool:
        """Take a name whose leader described it when asked at a time; return whether it is there by that, being announced before."""
        if self._expected.get(name, math.inf) > asked:
            return False
        del self._expected[name]
        self._gone.pop(name, None)
        self.there |= {name}
        return True

    def lack(self, name: str, asked: float) -> bool:
        """Take the word, asked for at a time, that there is no such name; return whether it is gone, its deletion being announced before."""
        if self._announced.get(name, math.inf) > asked:
            return False
        del self._announced[name]
        self.doubted.pop(name, None)
        self._gone[name] = asked
        self.there -= {name}
        return True

    def settle(self, name: str, asked: float) -> None:
        """Forget an announced deletion: asked later, the name was found to be there."""
        if self._announced.get(name, asked) < asked:
            del self._announced[name]

    def see(self, listed: frozenset[str], *, asked: float, now: float, whole: bool = True) -> Difference:
        """Take a list that was asked for at a time; one that is not `whole` can show names but not their absence."""
        first = self._listed is None
        if now - self._at > GAP:
            self.doubted = dict.fromkeys(self.doubted, now)
        self._at = now
        same = listed is self._listed and len(listed) == len(self.there)
        if same and not self._announced:
            return Difference()
        self._listed = listed
        self._gone = {name: when for name, when in self._gone.items() if when >= asked}
        listed = listed.difference(self._gone) if self._gone else listed
        self._announced = _lately(self._announced, now)
        self._expected = _lately(self._expected, now, listed)
        heard = {name for name, when in self._announced.items() if when <= asked}
        created = [] if first else sorted(listed - self.there)
        gone = self._missing(self.there - listed, heard, now) if whole else []
        for name in self.doubted.keys() & listed:
            del self.doubted[name]
        self.there = listed | (self.doubted.keys() if whole else self.there)
        return Difference(created, gone, sorted(heard & listed))

    def _missing(self, names: Iterable[str], announced: Iterable[str], now: float) -> list[str]:
        """Take note of missing names and return those that are gone."""
        gone = []
        for name in sorted(names):
            since = self.doubted.setdefault(name, now)
            if name in announced or now - since >= PATIENCE:
                gone.append(name)
                del self.doubted[name]
                self._announced.pop(name, None)
        return gone


def _lately(
    announced: Mapping[str, float], now: float, without: AbstractSet[str] = frozenset()
) -> dict[str, float]:
    """Return the announcements that may still be borne out."""
    return {name: when for name, when in announced.items() if now - when < VALID and name not in without}
