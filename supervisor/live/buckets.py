"""The entries of one bucket as the live view shows them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from supervisor.broker.monitor.snapshot import (
    Bucket,
    Entries,
    Entry,
    Operation,
)
from supervisor.live.picture import (
    EntryPicture,
    Wish,
)

RECENT: Final = 1_000
"""Entries of a bucket of which it is kept when they changed."""
_OPERATIONS: Final = {Operation.PUT: "put", Operation.DELETE: "delete", Operation.PURGE: "purge"}

Row = tuple[str, str, int, str, float | None]
"""Bucket, key, revision, operation, when it changed."""


class BucketBoard:
    """One bucket: its entries, and when the last of them changed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries = Entries({})
        self._reached = 0
        self._complete = False
        self._times: OrderedDict[str, float] = OrderedDict()
        self._rows: dict[tuple[object, ...], list[Row]] = {}
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

    def rows(self, wish: Wish) -> list[Row]:
        """Return the first rows in the order wished for, as many as can be needed."""
        count = wish.entries_from + wish.rows
        wanted = (count, wish.match, wish.sort)
        if wanted not in self._rows:
            entries = self._entries
            pick = entries.first if wish.sort == "name" else entries.latest
            self._rows = {wanted: [self._row(key, entries[key]) for key in pick(count, wish.match)]}
        return self._rows[wanted]

    def _row(self, key: str, entry: Entry) -> Row:
        return self._name, key, entry.revision, _OPERATIONS[entry.operation], self._times.get(key)


def entries_matching(entries: Mapping[str, Entry], match: str) -> int:
    """Return how many keys contain a text, in upper or lower case."""
    part = match.casefold()
    return sum(part in key.casefold() for key in entries) if part else len(entries)


def entry_order(wish: Wish) -> Callable[[Row], tuple[object, ...]]:
    """Return what to sort rows by: what changed last comes first, unless names are wished for."""
    if wish.sort == "name":
        return lambda row: (row[0], row[1])
    return lambda row: (-(row[4] or 0.0), -row[2])


def entry_of(
    bucket: str, key: str, revision: int, operation: str, at: float | None, *, now: float
) -> EntryPicture:
    """Return a row as it is shown `now`."""
    changed = None if at is None else max(now - at, 0.0)
    return EntryPicture.model_validate(
        {"bucket": bucket, "key": key, "revision": revision, "operation": operation, "changed": changed}
    )
