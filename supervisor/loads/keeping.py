"""Looks whether a stream keeps what it has acknowledged and delivered: by the numbers of its leader, and place by place for some of it."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import anyio
import anyio.lowlevel

from supervisor.broker import api
from supervisor.loads.acked import Acked, Lost
from supervisor.loads.kept import Block, Holes, Kept
from supervisor.loads.terms import Terms

CONFIRM: Final = 1.0
"""Seconds after which a loss that was seen is seen once more before it is one: a leader of the past lacks what came after it."""
DELETED: Final = 20_000
"""Deleted messages that a stream is asked for by their places; of one that has more, only a sample shows those of ours."""
SAMPLE: Final = 1000
"""Messages that are looked at one by one at the end."""


class Gone(NamedTuple):
    """What a look has found."""

    lost: list[Lost]
    changed: dict[Block, list[Acked]]
    """What is left of the blocks in which that was, to be given to `Kept.replace` at the moment when it is told."""


class Keeping:
    """What one life of a load knows of what its stream has to keep."""

    def __init__(self, kept: Kept, stored: Callable[[int], Awaitable[int | None]]) -> None:
        """`stored` returns which of our messages is at a place of the stream, 0 for another one, None for none; BrokerError."""
        self._kept, self._stored = kept, stored
        self._terms, self._last = Terms(), 0
        self._doubt: tuple[float, Holes] | None = None
        self._counted, self._deleted = (0, 0), list[int]()
        self._suspect = math.inf

    @property
    def doubtful(self) -> bool:
        """Whether something seems to be gone that was not looked for long enough."""
        return self._doubt is not None

    @property
    def suspicious(self) -> bool:
        """Whether something may have been overwritten that was not looked at since."""
        return self._suspect < math.inf

    def suspects(self, place: int) -> None:
        """Take that the stream has given out a place twice, so that from there on it may have other messages."""
        self._suspect = min(self._suspect, place)

    def learn(self, state: Mapping[str, Any]) -> bool:
        """Take what the stream says of itself; return whether it has to be asked for the places that it has deleted."""
        if state:
            self._terms = Terms.of(state["config"])
            self._last = max(self._last, state["last_seq"])
        count = state.get("num_deleted", 0) if self._terms.delivered else 0
        seen = count, state.get("first_seq", 0)
        asked = "deleted" in state
        if asked:
            self._deleted, self._counted = sorted((*state["deleted"], *_damaged(state))), seen
        elif not count:
            self._deleted = []
        self._kept.forget(
            self._last - self._terms.newest if self._terms.delivered else math.inf,
            time.monotonic() - self._terms.age,
        )
        return not asked and 0 < count <= DELETED and (seen != self._counted or self.doubtful)

    async def look(self, state: Mapping[str, Any], asked: float, wait: float) -> Gone:
        """Return what has been missing for `wait` seconds, by what the stream's leader was asked for at a moment."""
        holes = self._holes(state)
        since, seen = self._doubt or (asked, holes)
        holes &= seen
        gone = Gone([], {})
        for block in self._kept.touched(holes, since) if self._terms.delivered else ():
            self._find(block, holes, since, _brief(state), gone)
            await anyio.lowlevel.checkpoint()
        if gone.lost and (self._doubt is None or asked - since < max(wait, CONFIRM)):
            self._doubt = since, holes
            return Gone([], {})
        self._doubt = None
        return gone

    def _holes(self, state: Mapping[str, Any]) -> Holes:
        if not state:
            return Holes(math.inf, math.inf)
        deleted = self._deleted if state.get("num_deleted") else ()
        return Holes(0 if self._terms.bytes else state["first_seq"], state["last_seq"], deleted)

    def _find(self, block: Block, holes: Holes, before: float, state: dict[str, Any], gone: Gone) -> None:
        """Add what is missing of a block, of what was acknowledged before a moment."""
        whole = block.high < holes.first or block.low > holes.last
        if gone.lost and whole and block.acked < before and self._must(block.low, block.oldest):
            gone.lost.append(Lost(block.first(), "stream", state, delivered=True, amount=block.count))
            gone.changed[block] = []
            return
        rest = list[Acked]()
        for one in block.read():
            if one.at < before and holes.where(one.sequence) and self._must(one.sequence, one.began):
                gone.lost.append(Lost(one, "stream", state, delivered=True))
            else:
                rest.append(one)
        if len(rest) < block.count:
            gone.changed[block] = rest

    def may_drop(self, acked: Acked) -> bool:
        """Say whether the stream's limits may have removed a message from its beginning, delivered or not."""
        now = time.monotonic()
        return self._terms.bytes or not self._terms.keep(acked.sequence, acked.began, now, self._last)

    def _must(self, place: int, published: float) -> bool:
        terms = self._terms
        return terms.delivered and terms.keep(place, published, time.monotonic(), self._last)

    async def compare(
        self, ask: Callable[[], Awaitable[Mapping[str, Any]]], amount: int = SAMPLE
    ) -> list[Lost]:
        """Return those of some messages at whose places the stream has none, or another one; BrokerError.

        They are those from before each disturbance and those that may have been overwritten, and of all others a sample. `ask` returns
        what the stream says of itself.
        """
        self.learn(await ask())
        if not self._terms.delivered:
            return []
        other, low = await self._others(self._kept.edges), self._suspect
        for lowest in dict.fromkeys((low, 0)):
            for some in self._kept.sample(amount, lowest):
                other += await self._others(some)
        state: Mapping[str, Any] = {}
        if other:
            await anyio.sleep(CONFIRM)
            other = await self._others({one.n: one for one in other}.values())
            self.learn(state := await ask())  # its limits may have come up to some of them meanwhile
        if low == self._suspect:
            self._suspect = math.inf
        gone = self._kept.drop([one for one in other if self._must(one.sequence, one.began)])
        return [Lost(one, "stream", _brief(state), delivered=True) for one in gone]

    async def _others(self, messages: Collection[Acked]) -> list[Acked]:
        other = list[Acked]()

        async def look(one: Acked) -> None:
            found = await self._stored(one.sequence)
            if found != one.n and not (found is None and self._terms.bytes):
                other.append(one)

        await api.each([one for one in messages if self._must(one.sequence, one.began)], look)
        return other


def _brief(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "deleted"}


def _damaged(state: Mapping[str, Any]) -> list[int]:
    """Return the places of what the server itself says it has lost, from a file that it could not read."""
    return list((state.get("lost") or {}).get("msgs") or ())
