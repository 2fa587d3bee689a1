"""What is known of a stream's messages: which were acknowledged, and which of those have not been delivered yet. Pure, and bounded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

from supervisor.loads.checker import Arrival, Checker

OWED: Final = 100_000
"""Acknowledged messages whose delivery is awaited; beyond them the oldest goes unchecked."""
RECENT: Final = 10_000
"""Delivered messages whose place in the stream is remembered."""

Delivery = Literal["first", "redelivered", "duplicates", "unexpected"]


@dataclass(frozen=True, slots=True)
class Acked:
    """A message that the stream has acknowledged."""

    n: int
    sequence: int
    """Its place in the stream, as the acknowledgement says."""
    at: float
    """Monotonic seconds of the acknowledgement."""
    server: str
    """host:port that we were connected to."""
    began: float = 0.0
    """Monotonic seconds of the first attempt to publish it."""
    stream: str = ""
    """The stream that the acknowledgement names."""
    duplicate: bool = False
    """The stream said that it had it already, from an attempt before."""


class Ledger:
    """One writer's messages, from the publish to the delivery."""

    def __init__(self) -> None:
        self.owed: OrderedDict[int, Acked] = OrderedDict()
        """Acknowledged and not delivered, oldest first."""
        self.unchecked = 0
        """How many were forgotten because too many were owed."""
        self._open: set[int] = set()
        self._early: set[int] = set()
        self._checker = Checker()
        self._recent: OrderedDict[int, int] = OrderedDict()
        self._highest = 0

    def begin(self, n: int) -> None:
        """A message is about to be published."""
        self._open.add(n)

    def end(self, n: int, acked: Acked | None) -> None:
        """Its publishing has ended, with an acknowledgement or without."""
        self._open.discard(n)
        early = n in self._early
        self._early.discard(n)
        if acked is not None and not early:
            self.owed[n] = acked
            if len(self.owed) > OWED:
                self.owed.popitem(last=False)
                self.unchecked += 1

    def delivered(self, n: int, sequence: int, written: int, *, again: bool) -> Delivery:
        """Take a delivery; `again`: the server says that it is not the first one of this place in the stream."""
        if n in self._open:
            self._early.add(n)
        self.owed.pop(n, None)
        arrival = self._checker.arrived(n, written)
        if arrival is Arrival.UNEXPECTED:
            return "unexpected"
        same = self._recent.get(n)
        highest, self._highest = self._highest, max(self._highest, sequence)
        if arrival is not Arrival.DUPLICATE:
            self._recent[n] = sequence
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            return "first"
        if same is None:  # too long ago to know its place
            return "redelivered" if again or sequence <= highest else "duplicates"
        return "redelivered" if same == sequence else "duplicates"

    def fate(self, n: int) -> str:
        """Say in words what is known of a message of ours."""
        if (place := self._recent.get(n)) is not None:
            return f"delivered, at {place}"
        if (acked := self.owed.get(n)) is not None:
            return f"acknowledged, at {acked.sequence}, not delivered yet"
        return "being published" if n in self._open else "no longer, or never, known"

    def settle(self, upto: int) -> None:
        """Forget the gaps up to a number: what was never acknowledged need not arrive."""
        self._checker.settle(upto)
