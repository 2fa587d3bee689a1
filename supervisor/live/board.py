"""Ranks what the monitor sees by change.

It keeps when each stream and entry changed, so that ten thousand of them are not sorted anew for every frame: the order is that of a
dict in which what changes moves to the end.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

from supervisor.broker.health.findings import Diagnosis
from supervisor.broker.monitor.snapshot import (
    Consumers,
    Snapshot,
    Stream,
)
from supervisor.live.buckets import BucketBoard, entry_of, entry_order
from supervisor.live.picture import (
    BrokerPicture,
    BucketPicture,
    ConsumersPicture,
    StreamPicture,
    Wish,
    health_picture,
)

AFTERGLOW: Final = 10.0
"""Seconds for which a deleted stream is still shown, as deleted."""
GRAVES: Final = 100
FRESH: Final = 0.2
"""Seconds for which a look serves everybody who asks: several viewers cost as much as one."""
_BUCKET: Final = "KV_"


class Board:
    """The last snapshot, and when its streams and entries changed. Changes before the first look are unknown."""

    def __init__(
        self,
        look: Callable[[], Snapshot],
        health: Callable[[], Diagnosis | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` gives the monitor's snapshot, `health` the last diagnosis."""
        self._look, self._health, self._clock = look, health, clock
        self._snapshot = Snapshot(taken=float("-inf"))
        self._changed: dict[str, float | None] = {}
        """By stream, the latest change last."""
        self._graves: OrderedDict[str, float] = OrderedDict()
        self._buckets: dict[str, BucketBoard] = {}
        self._messages = self._bytes = self._unknown = self._unwatched = 0

    def picture(self, wish: Wish) -> BrokerPicture:
        """Look, and return the rows that are wished for."""
        now = self._clock()
        if now - self._snapshot.taken > FRESH:
            self._see(self._look())
        seen = self._snapshot
        names = self._names(wish)
        entries = sorted(
            (row for board in self._buckets.values() for row in board.rows(wish)),
            key=entry_order(wish),
        )
        wanted = islice(names, wish.streams_from, wish.streams_from + wish.rows)
        return BrokerPicture(
            seen=None if seen.names_seen is None else max(now - seen.names_seen, 0.0),
            why=seen.why,
            meta_leader=seen.meta_leader,
            total=len(seen.streams),
            unknown=self._unknown,
            messages=self._messages,
            bytes=self._bytes,
            matching=len(names),
            streams=tuple(self._stream(name, now) for name in wanted),
            buckets=tuple(
                BucketPicture(name=b.name, live=b.live, complete=b.complete, why=b.why)
                for b in seen.buckets.values()
            ),
            unwatched=self._unwatched,
            matching_entries=sum(board.matching(wish.match) for board in self._buckets.values()),
            entries=tuple(
                entry_of(*row, now=now) for row in entries[wish.entries_from : wish.entries_from + wish.rows]
            ),
            health=health_picture(self._health()),
        )

    # --- streams -----------------------------------------------------------------------------------------------------

    def _see(self, new: Snapshot) -> None:
        old, now = self._snapshot, new.taken
        first = old.names_seen is None
        if new.names_seen is None and not first:
            return  # a monitor that has only just begun knows less than we do
        self._snapshot = new
        changed, settled = self._differences(old.streams, new.streams)
        for name in old.streams.keys() - new.streams.keys():
            self._changed.pop(name, None)
            self._graves[name] = now
        for name in changed:
            self._changed.pop(name, None)
            self._changed[name] = None if first else now
            self._graves.pop(name, None)
        if settled:
            self._settle()
        while self._graves and (
            len(self._graves) > GRAVES or now - next(iter(self._graves.values())) > AFTERGLOW
        ):
            self._graves.popitem(last=False)
        for name in self._buckets.keys() - new.buckets.keys():
            del self._buckets[name]
        there = {name.removeprefix(_BUCKET) for name in new.streams if name.startswith(_BUCKET)}
        self._unwatched = len(there - new.buckets.keys())
        for name, bucket in new.buckets.items():
            self._buckets.setdefault(name, BucketBoard(name)).see(bucket, now)

    def _differences(
        self, old: Mapping[str, Stream | None], new: Mapping[str, Stream | None]
    ) -> tuple[list[str], bool]:
        """Return what changed, and whether streams that were there before us were described for the first time."""
        changed, settled, messages, stored, unknown = [], False, 0, 0, 0
        for name, stream in new.items():
            if name not in old:
                changed.append(name)
                settled = settled or stream is not None
            if stream is None:
                unknown += 1
                continue
            messages += stream.messages
            stored += stream.bytes
            before = old.get(name)
            if before is None:
                settled = settled or self._changed.get(name) is None
            elif before is not stream and _numbers(before, self._ours(name)) != _numbers(
                stream, self._ours(name)
            ):
                changed.append(name)
        self._messages, self._bytes, self._unknown = messages, stored, unknown
        return changed, settled

    def _ours(self, name: str) -> int:
        """Return how many consumers of a stream are the monitor's: one where it follows a bucket."""
        return int(name.startswith(_BUCKET) and name.removeprefix(_BUCKET) in self._snapshot.buckets)

    def _settle(self) -> None:
        """Put those that did not change since we look into the order in which their last messages were stored."""
        streams = self._snapshot.streams

        def order(item: tuple[str, float | None]) -> tuple[float, str]:
            stream = streams.get(item[0])
            return item[1] or 0.0, stream.last_time if stream is not None else ""

        self._changed = dict(sorted(self._changed.items(), key=order))

    def _names(self, wish: Wish) -> list[str]:
        """Return the names of all streams that match, in the order wished for."""
        streams = self._snapshot.streams
        names: Iterable[str] = [*reversed(self._graves), *reversed(self._changed)]
        if wish.match:
            part = wish.match.casefold()
            names = [name for name in names if part in name.casefold()]
        if wish.sort == "name":
            return sorted(names)
        if wish.sort == "messages":
            return sorted(names, key=lambda name: -(stream.messages if (stream := streams.get(name)) else -1))
        return list(names)

    def _stream(self, name: str, now: float) -> StreamPicture:
        seen, died = self._snapshot, self._graves.get(name)
        if died is not None:
            return StreamPicture(name=name, known=False, deleted=True, changed=max(now - died, 0.0))
        at = self._changed[name]
        changed = None if at is None else max(now - at, 0.0)
        doubted = name in seen.doubted
        stream = seen.streams[name]
        if stream is None:
            return StreamPicture(name=name, known=False, doubted=doubted, changed=changed)
        return StreamPicture(
            name=name,
            doubted=doubted,
            quorum=stream.quorum,
            messages=stream.messages,
            bytes=stream.bytes,
            first=stream.first,
            last=stream.last,
            leader=stream.leader,
            replicas=stream.replicas,
            current=stream.current,
            lag=stream.lag,
            consumers=_consumers(stream, seen.consumers.get(name), self._ours(name)),
            changed=changed,
        )


def _numbers(stream: Stream, ours: int) -> tuple[object, ...]:
    """What of a stream is worth being called a change."""
    return (
        stream.created,
        stream.messages,
        stream.bytes,
        stream.first,
        stream.last,
        0 if ours else stream.consumers,
        stream.leader if stream.replicas > 1 else "",  # the leader of one is told at times, at others not
        stream.quorum,
        stream.current,
    )


def _consumers(stream: Stream, known: Consumers | None, ours: int) -> ConsumersPicture:
    """Ours are not counted."""
    if known is None:
        return ConsumersPicture(count=max(stream.consumers - ours, 0))
    return ConsumersPicture(
        count=known.durable + known.ephemeral + known.missing,
        idle=known.idle,
        pending=known.pending,
        ack_pending=known.ack_pending,
        redelivered=known.redelivered,
    )
