"""What is known of a stream's messages: which were acknowledged, and which of those have not been delivered yet. Pure, and bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

from supervisor.loads.acked import Acked
from supervisor.loads.checker import Arrival, Checker
from supervisor.loads.kept import Kept

OWED: Final = 100_000
"""Acknowledged messages whose delivery is awaited; beyond them the oldest goes unchecked."""
RECENT: Final = 10_000
"""Delivered messages whose place in the stream is remembered."""

Delivery = Literal["first", "redelivered", "duplicates", "unexpected"]


class Ledger:
    """One writer's messages, from the publish to the delivery."""

    def __init__(self) -> None:
        self.owed: OrderedDict[int, Acked] = OrderedDict()
        """Acknowledged and not delivered, oldest first."""
        self.unchecked = 0
        """How many were forgotten because too many were owed."""
        self.kept = Kept()
        """Acknowledged and delivered."""
        self.acknowledged = 0
        """How many were, in all."""
        self._open: dict[int, int] = {}
        """What is being published, and the highest place that was known to be taken when that began."""
        self._early: dict[int, int] = {}
        """What was delivered before its acknowledgement came, and from which place."""
        self._taken = 0
        self._checker = Checker()
        self._recent: OrderedDict[int, int] = OrderedDict()
        self._highest = 0

    def begin(self, n: int) -> None:
        """A message is about to be published."""
        self._open[n] = self._taken

    def end(self, n: int, acked: Acked | None) -> bool:
        """Its publishing has ended, with an acknowledgement or without; False: with the place of a message that was there before."""
        taken = self._open.pop(n, 0)
        early = self._early.pop(n, None)
        if acked is None:
            return True
        self.acknowledged += 1
        if early is not None:
            self._keep(acked, early)
        else:
            self.owed[n] = acked
            if len(self.owed) > OWED:
                self.owed.popitem(last=False)
                self.unchecked += 1
        return acked.sequence > taken

    def _keep(self, acked: Acked, place: int) -> None:
        """A message was acknowledged and delivered. If not from the same place, nobody has promised to keep it there."""
        if acked.sequence == place:
            self._taken = max(self._taken, place)
            self.kept.add(acked)

    def delivered(self, n: int, sequence: int, written: int, *, again: bool) -> Delivery:
        """Take a delivery; `again`: the server says that it is not the first one of this place in the stream."""
        if n in self._open:
            self._early.setdefault(n, sequence)
        if (acked := self.owed.pop(n, None)) is not None:
            self._keep(acked, sequence)
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
