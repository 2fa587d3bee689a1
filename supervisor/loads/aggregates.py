"""What is known of an event store's aggregates: which events were appended, and what is wrong with those read back. Pure, and bounded.

An event says which it is (n) and which event its writer knew as the last one, on condition of which it was appended. So in a store that
keeps its word each event names the one before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it was read back."""

    sequence: int
    """Its place in the stream."""
    n: int
    """Which it is; not above 0: nobody wrote it."""
    after: int
    """The place of the event that was to be the last one before it, 0 for none."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that the store has acknowledged."""

    sequence: int
    n: int
    after: int
    at: float
    """Monotonic seconds of the acknowledgement."""
    server: str
    """host:port that we were connected to."""


@dataclass(slots=True)
class Findings:
    """What is wrong with one reading of an aggregate, each told once."""

    duplicates: list[Stored] = field(default_factory=list)
    """An event at a second place."""
    forks: list[Stored] = field(default_factory=list)
    """Appended although the last event was another than its writer said: two writers can have won."""
    unexpected: list[Stored] = field(default_factory=list)
    """Nobody wrote it."""
    reordered: list[Stored] = field(default_factory=list)
    """Delivered after one that stands behind it in the stream."""
    gaps: list[int] = field(default_factory=list)
    """Places whose event is gone though another was appended behind it; unless it is in `missing`."""
    missing: list[Appended] = field(default_factory=list)
    """Acknowledged before the reading began, and not read: it is lost, or the reading was not of now."""


class Aggregate:
    """One aggregate: the events of one subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.events: dict[int, Appended] = {}
        """Acknowledged events by their place in the stream, oldest first; as many as an aggregate may have, at most."""
        self.appending = 0
        """Operations that append to it now."""
        self.changes = 0
        """Events that were acknowledged so far."""
        self.verified = 0
        """How many of them some whole reading was to show."""
        self.unsure = False
        """An append of it went unanswered, so that what follows may come at any time."""
        self._told: set[tuple[str, int]] = set()
        self._open = 0
        self._ended = float("-inf")

    @property
    def last(self) -> int:
        """The highest place in the stream that was acknowledged."""
        return max(self.events, default=0)

    @property
    def dirty(self) -> bool:
        """Whether something was acknowledged since it was last read back whole."""
        return self.verified < self.changes

    def begin(self) -> None:
        """An append is about to be sent."""
        self._open += 1

    def end(self, appended: Appended | None, now: float, *, unsure: bool = False) -> None:
        """An append has ended. Whether two have won with one expectation is for a reading to show: one of them may be lost."""
        self._open -= 1
        self.unsure = self.unsure or unsure
        if appended is not None:
            self._ended = now
            self.add(appended)

    def add(self, appended: Appended) -> None:
        """An event is known to be stored."""
        self.changes += 1
        self.events[appended.sequence] = appended

    def explains(self, expected: int, since: float) -> bool:
        """Say whether an append that began `since` then may have been refused, the last event being expected at that place.

        It is asked while that append is open.
        """
        return self._open > 1 or self._ended >= since or self.last > expected or self.unsure

    def forget(self, event: Appended) -> None:
        """An event is lost, and told as such."""
        self.events.pop(event.sequence, None)
        self._told.add(("gap", event.sequence))

    def check(self, read: Sequence[Stored], owed: Mapping[int, Appended], written: int) -> Findings:
        """Compare a whole reading with what was acknowledged when it began; `written` is the highest n so far."""
        found = Findings()
        there, places = {event.sequence: event.n for event in read}, dict[int, int]()
        found.missing = [event for event in owed.values() if there.get(event.sequence) != event.n]
        known = there.keys() | {event.sequence for event in found.missing} | {0}
        order = sorted(there)
        highest = 0
        for event in read:
            before, highest = highest, max(highest, event.sequence)
            if event.sequence <= before:
                found.reordered.append(event)
            elif not 0 < event.n <= written:
                self._tell("unexpected", event.sequence, event, found.unexpected)
            elif places.setdefault(event.n, event.sequence) != event.sequence:
                self._tell("duplicate", event.sequence, event, found.duplicates)
            elif event.after not in known:
                if event.after > order[0]:  # what is older may have been removed by age
                    self._tell("gap", event.after, event.after, found.gaps)
            elif bisect_left(order, event.sequence) > bisect_right(order, event.after):
                self._tell("fork", event.sequence, event, found.forks)
        return found

    def _tell(self, what: str, place: int, thing: T, told: list[T]) -> None:
        """Tell something the first time."""
        if (what, place) not in self._told:
            self._told.add((what, place))
            told.append(thing)
