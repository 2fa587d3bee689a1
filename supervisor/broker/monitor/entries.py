"""The entries of a bucket, as a consumer that begins with the present state of every key tells them. Pure.

Such a consumer may read from a replica that is behind. So what it tells never overwrites what is newer: a key that looks older than
it was, or is missing, is only noted, for the caller to ask about.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from supervisor.broker.monitor.snapshot import Entries, Entry, Operation, pack, unpack

CHANGES: Final = {Operation.PUT: "put", Operation.DELETE: "deleted", Operation.PURGE: "purged"}
"""What a change is called in `EntriesChanged`."""
VANISHED: Final = "vanished"


class Book:
    """All keys with their last revision and operation; 100,000 take some 15 MB."""

    def __init__(self) -> None:
        self.live = 0
        """Keys with a value."""
        self.complete = False
        """All keys were told at least once since the book is about this bucket."""
        self.older: set[str] = set()
        """Keys that were told with a smaller revision than they had."""
        self._packed: dict[str, int] = {}
        self._frozen: Entries | None = None

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, key: str) -> Entry:
        return unpack(self._packed[key])

    def keys(self) -> AbstractSet[str]:
        """All keys, deleted ones included as long as their marker is there."""
        return self._packed.keys()

    def apply(self, key: str, entry: Entry) -> str | None:
        """Take what was told of a key; return what that changes, by the name of `EntriesChanged`, None if nothing."""
        packed = pack(entry)
        known = self._packed.get(key)
        if known is not None:
            if packed == known:
                return None
            if packed < known:
                self.older.add(key)
                return None
            self.older.discard(key)
            self.live -= not known & 3
        self._packed[key] = packed
        self.live += not packed & 3
        self._frozen = None
        return CHANGES[entry.operation] if self.complete else None

    def accept(self, revisions: Iterable[tuple[str, int]]) -> None:
        """Take smaller revisions for true: they were asked about. Keys that were told anew meanwhile stay as told."""
        for key, revision in revisions:
            if key in self.older:
                self._packed[key] = pack(self[key]._replace(revision=revision))
                self.older.discard(key)
        self._frozen = None

    def drop(self, keys: Iterable[str]) -> list[str]:
        """Remove keys that no longer have any message; return those that were there."""
        dropped = []
        for key in keys:
            packed = self._packed.pop(key, None)
            if packed is not None:
                self.live -= not packed & 3
                self.older.discard(key)
                dropped.append(key)
        self._frozen = None
        return dropped

    def absent(self, there: Iterable[str], revision: int) -> list[str]:
        """Return the known keys that are not in `there`, a list made when the bucket was at least at a revision."""
        candidates = self._packed.keys() - set(there)
        return [key for key in candidates if unpack(self._packed[key]).revision <= revision]

    def clear(self) -> list[str]:
        """Begin anew: another bucket has the name. Return the keys that were there."""
        keys = list(self._packed)
        self.live, self.complete, self._frozen = 0, False, None
        self.older.clear()
        self._packed.clear()
        return keys

    def entries(self) -> Entries:
        """Return all of them as they are now; the same object as long as nothing changes."""
        if self._frozen is None:
            self._frozen = Entries(self._packed.copy())
        return self._frozen
