"""What a stream has acknowledged and delivered, and has to keep all the same: packed, so that millions take little room. Pure, and bounded."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub
from typing import Final, Literal, TypeVar

from supervisor.loads.acked import Acked

BLOCK: Final = 2048
"""Messages that are packed together: 1 ms of work, after which most take less than a byte each."""
ROOM: Final = 4 << 20
"""Bytes for all blocks. Above it every second one is let go, so that what is left is spread over the whole time."""
OVERHEAD: Final = 300
"""Bytes of a block besides its contents."""
TICKS: Final = 100
"""Of a second: so fine are the times of packed messages."""
LATEST: Final = 5
"""Messages before a disturbance that are looked at one by one."""
EDGES: Final = 500

T = TypeVar("T")
Where = Literal["prefix", "middle", "postfix"]


@dataclass(frozen=True, slots=True)
class Holes:
    """Places of a stream that have no message."""

    first: float
    """All below this one."""
    last: float
    """All above this one."""
    deleted: Sequence[int] = ()
    """Those in between, in ascending order."""

    def __and__(self, other: Holes) -> Holes:
        deleted = tuple(sorted(set(self.deleted).intersection(other.deleted)))
        return Holes(min(self.first, other.first), max(self.last, other.last), deleted)

    def where(self, place: int) -> Where | None:
        """Say where the hole at a place is; None if there is none."""
        if place > self.last:
            return "postfix"
        if place < self.first:
            return "prefix"
        index = bisect_left(self.deleted, place)
        return "middle" if index < len(self.deleted) and self.deleted[index] == place else None

    def touch(self, low: int, high: int) -> bool:
        """Say whether there is any from one place to another."""
        between = bisect_right(self.deleted, high) > bisect_left(self.deleted, low)
        return low < self.first or high > self.last or between


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Messages that were delivered one after the other, acknowledged through one server by one stream."""

    low: int
    """The lowest of their places."""
    high: int
    count: int
    oldest: float
    """When the first publish of the oldest of them began, in monotonic seconds."""
    newest: float
    acked: float
    """When the last of them was acknowledged."""
    server: str
    stream: str
    packed: bytes
    """Columns one after the other, each number less the one before it: place, n, time of the acknowledgement, time it took."""

    @classmethod
    def of(cls, messages: Sequence[Acked]) -> Block:
        """Pack messages, one at least, that have server and stream in common."""
        columns = (
            [one.sequence for one in messages],
            [one.n for one in messages],
            [int(one.at * TICKS) for one in messages],
            [2 * int((one.at - one.began) * TICKS) + one.duplicate for one in messages],
        )
        packed = b"".join(
            array("q", (column[0], *map(sub, column[1:], column))).tobytes() for column in columns
        )
        began = [one.began for one in messages]
        return cls(
            low=min(columns[0]),
            high=max(columns[0]),
            count=len(messages),
            oldest=min(began),
            newest=max(began),
            acked=max(one.at for one in messages),
            server=messages[0].server,
            stream=messages[0].stream,
            packed=zlib.compress(packed, 1),
        )

    def first(self) -> Acked:
        """Unpack the first one alone."""
        numbers = self._numbers()
        return self._message(*(numbers[start] for start in range(0, 4 * self.count, self.count)))

    def read(self) -> list[Acked]:
        """Unpack them; times are exact to a hundredth of a second."""
        numbers, size = self._numbers(), self.count
        columns = (accumulate(numbers[start : start + size]) for start in range(0, 4 * size, size))
        return [self._message(*row) for row in zip(*columns, strict=True)]

    def _numbers(self) -> array[int]:
        numbers = array("q")
        numbers.frombytes(zlib.decompress(self.packed))
        return numbers

    def _message(self, place: int, n: int, at: int, took: int) -> Acked:
        began = (at - took // 2) / TICKS
        return Acked(n, place, at / TICKS, self.server, began, self.stream, bool(took % 2))


class Kept:
    """One writer's messages that were acknowledged and delivered, in the order in which that was known."""

    def __init__(self) -> None:
        self.edges: deque[Acked] = deque(maxlen=EDGES)
        """The last ones before something went wrong: those that a store which loses its newest ones would lose."""
        self._fresh: list[Acked] = []
        self._blocks: list[Block] = []
        self._room = 0
        self._latest: deque[Acked] = deque(maxlen=LATEST)

    def __len__(self) -> int:
        return sum(block.count for block in self._blocks) + len(self._fresh)

    def add(self, acked: Acked) -> None:
        """A message is acknowledged, and was delivered from the place that is given."""
        fresh = self._fresh
        if fresh and (
            len(fresh) == BLOCK or (fresh[0].server, fresh[0].stream) != (acked.server, acked.stream)
        ):
            self._seal()
        self._fresh.append(acked)
        self._latest.append(acked)

    def disturbed(self) -> None:
        """Something went wrong: what was kept last is worth a look."""
        self.edges.extend(self._latest)
        self._latest.clear()

    def blocks(self) -> tuple[Block, ...]:
        """Return all of them."""
        self._seal()
        return tuple(self._blocks)

    def touched(self, holes: Holes, before: float) -> list[Block]:
        """Return the blocks that may have something acknowledged before a moment for which there is a hole."""
        if any(one.at < before and holes.where(one.sequence) for one in self._fresh):
            self._seal()
        return [block for block in self._blocks if holes.touch(block.low, block.high)]

    def replace(self, changed: Mapping[Block, Iterable[Acked]]) -> None:
        """Let blocks have fewer messages than they had."""
        blocks = self._blocks
        self._blocks, self._room = [], 0
        for block in blocks:
            if (rest := changed.get(block)) is None:
                self._append(block)
            elif messages := list(rest):
                self._append(Block.of(messages))

    def forget(self, place: float, published: float) -> None:
        """Nobody has to keep any more what is at or below a place, or was published before a moment."""
        past = [one for one in self._blocks if one.high <= place or one.newest < published]
        if past:
            self.replace(dict.fromkeys(past, ()))

    def drop(self, messages: Iterable[Acked]) -> list[Acked]:
        """Take messages out, and return those that were there."""
        wanted = sorted(messages, key=lambda one: one.sequence)
        places, found = [one.sequence for one in wanted], list[Acked]()
        changed: dict[Block, list[Acked]] = {}
        for block in self.blocks():
            here = wanted[bisect_left(places, block.low) : bisect_right(places, block.high)]
            if numbers := {one.n for one in here}:
                all_ = block.read()
                found += (one for one in all_ if one.n in numbers)
                changed[block] = [one for one in all_ if one.n not in numbers]
        self.replace({block: rest for block, rest in changed.items() if len(rest) < block.count})
        return found

    def sample(self, amount: int, lowest: float = 0) -> Iterator[list[Acked]]:
        """Yield so many messages at most, some at a time, spread over all whose blocks have a place that is not below `lowest`."""
        blocks = [block for block in self.blocks() if block.high >= lowest]
        chosen = spread(blocks, max(1, amount // 10))
        for block in chosen:
            yield spread(block.read(), max(1, amount // len(chosen)))

    def _seal(self) -> None:
        if self._fresh:
            self._append(Block.of(self._fresh))
            self._fresh = []
        if self._room > ROOM:
            self.replace(dict.fromkeys(self._blocks[1::2], ()))

    def _append(self, block: Block) -> None:
        self._blocks.append(block)
        self._room += len(block.packed) + OVERHEAD


def spread(items: Sequence[T], amount: int) -> list[T]:
    """Return so many of them at most, at even distances, the last one among them."""
    step = max(1, -(-len(items) // amount))
    return list(items[::-1][::step])[::-1]
