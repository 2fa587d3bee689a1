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
    Bucket,
    Consumers,
    Entries,
    Entry,
    Operation,
    Snapshot,
    Stream,
)
from supervisor.live.picture import (
    BrokerPicture,
    BucketPicture,
    ConsumersPicture,
    EntryPicture,
    StreamPicture,
    Wish,
    health_picture,
)

AFTERGLOW: Final = 10.0
"""Seconds for which a deleted stream is still shown, as deleted."""
GRAVES: Final = 100
RECENT: Final = 1_000
"""Entries of a bucket of which it is kept when they changed."""
FRESH: Final = 0.2
"""Seconds for which a look serves everybody who asks: several viewers cost as much as one."""
_BUCKET: Final = "KV_"
_OPERATIONS: Final = {Operation.PUT: "put", Operation.DELETE: "delete", Operation.PURGE: "purge"}


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
        self._buckets: dict[str, _BucketBoard] = {}
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
            key=_entry_order(wish),
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
                _entry(*row, now=now) for row in entries[wish.entries_from : wish.entries_from + wish.rows]
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
            self._buckets.setdefault(name, _BucketBoard(name)).see(bucket, now)

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


# --- entries -----------------------------------------------------------------------------------------------------------

_Row = tuple[str, str, int, str, float | None]
"""Bucket, key, revision, operation, when it changed."""


class _BucketBoard:
    """One bucket: its entries, and when the last of them changed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries = Entries({})
        self._reached = 0
        self._complete = False
        self._times: OrderedDict[str, float] = OrderedDict()
        self._rows: dict[tuple[object, ...], list[_Row]] = {}
        self._counts: dict[str, int] = {}

    def see(self, bucket: Bucket, now: float) -> None:
        """Take what the monitor knows of it now."""
        entries = bucket.entries
        if entries is not self._entries:
            self._entries = entries
            self._rows.clear()
            self._counts.clear()
            self._note(entries, now)
        self._complete = bucket.complete

    def _note(self, entries: Entries, now: float) -> None:
        newer = entries.newer(self._reached)
        if self._complete:  # else they are only told for the first time
            for key in newer:
                self._times.pop(key, None)
                self._times[key] = now
            while len(self._times) > RECENT:
                self._times.popitem(last=False)
        # Without anything newer something was purged, or another bucket has the name and begins at 1.
        latest = newer or entries.latest(1)
        self._reached = max((entries[key].revision for key in latest), default=0)

    def matching(self, match: str) -> int:
        """Return how many keys match."""
        if match not in self._counts:
            self._counts = {match: entries_matching(self._entries, match)}
        return self._counts[match]

    def rows(self, wish: Wish) -> list[_Row]:
        """Return the first rows in the order wished for, as many as can be needed."""
        count = wish.entries_from + wish.rows
        wanted = (count, wish.match, wish.sort)
        if wanted not in self._rows:
            entries = self._entries
            pick = entries.first if wish.sort == "name" else entries.latest
            self._rows = {wanted: [self._row(key, entries[key]) for key in pick(count, wish.match)]}
        return self._rows[wanted]

    def _row(self, key: str, entry: Entry) -> _Row:
        return self._name, key, entry.revision, _OPERATIONS[entry.operation], self._times.get(key)


def entries_matching(entries: Mapping[str, Entry], match: str) -> int:
    """Return how many keys contain a text, in upper or lower case."""
    part = match.casefold()
    return sum(part in key.casefold() for key in entries) if part else len(entries)


def _entry_order(wish: Wish) -> Callable[[_Row], tuple[object, ...]]:
    if wish.sort == "name":
        return lambda row: (row[0], row[1])
    return lambda row: (-(row[4] or 0.0), -row[2])


def _entry(
    bucket: str, key: str, revision: int, operation: str, at: float | None, *, now: float
) -> EntryPicture:
    changed = None if at is None else max(now - at, 0.0)
    return EntryPicture.model_validate(
        {"bucket": bucket, "key": key, "revision": revision, "operation": operation, "changed": changed}
    )
