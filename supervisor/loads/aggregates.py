"""What is known of an event store's aggregates: which events were appended, and what is wrong with those read back. Pure, and bounded.

An event says which it is (n) and which version of its aggregate it makes: its writer read the one before and appended on condition
that this is still the last. So the versions of an aggregate are 1, 2, 3 ... in any store that keeps its word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it was read back."""

    sequence: int
    """Its place in the stream."""
    n: int
    """Which it is; not above 0: nobody wrote it."""
    version: int


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that the store has acknowledged."""

    sequence: int
    n: int
    version: int
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
    """A second event of one version: two writers won with the same expectation."""
    unexpected: list[Stored] = field(default_factory=list)
    """Nobody wrote it."""
    reordered: list[Stored] = field(default_factory=list)
    """Delivered after one that stands behind it in the stream."""
    gaps: list[int] = field(default_factory=list)
    """Versions that are missing between others though they were there for their successor to be written; unless it is in `missing`."""
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
        self._tell("gap", event.version)

    def check(self, read: Sequence[Stored], owed: Mapping[int, Appended], written: int) -> Findings:
        """Compare a whole reading with what was acknowledged when it began; `written` is the highest n so far."""
        found = Findings()
        places, versions = dict[int, int](), dict[int, int]()
        highest = 0
        for event in read:
            if event.sequence <= highest:
                found.reordered.append(event)
            highest = max(highest, event.sequence)
            if not 0 < event.n <= written:
                if self._tell("unexpected", event.sequence):
                    found.unexpected.append(event)
            elif places.setdefault(event.n, event.sequence) != event.sequence:
                if self._tell("duplicate", event.sequence):
                    found.duplicates.append(event)
            elif versions.setdefault(event.version, event.n) != event.n and self._tell("fork", event.version):
                found.forks.append(event)
        found.missing = [event for event in owed.values() if event.n not in places]
        known = versions.keys() | {event.version for event in found.missing}
        between = range(min(versions, default=0), max(versions, default=0))
        found.gaps = [version for version in between if version not in known and self._tell("gap", version)]
        return found

    def _tell(self, what: str, number: int) -> bool:
        """Return True the first time."""
        if (what, number) in self._told:
            return False
        self._told.add((what, number))
        return True
