"""What the monitor saw: frozen pictures for `soakd watch` and `/status`.

Times are seconds of the monotonic clock. Unknown is never shown as gone: what could not be seen keeps its last numbers and says
when they were seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import nlargest, nsmallest
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as its leader described it."""

    name: str
    created: str
    """When it was created, as the server writes it (RFC 3339, nanoseconds). It never changes; another one is another stream."""
    seen: float
    messages: int = 0
    bytes: int = 0
    first: int = 0
    """Sequence of the first message; of an empty stream the one after the last."""
    last: int = 0
    """Sequence of the last message that was ever stored."""
    last_time: str = ""
    """When that message was stored, as the server writes it."""
    subjects: int = 0
    consumers: int = 0
    leader: str = ""
    """Name of its server, empty while there is none or the server stands alone."""
    replicas: int = 1
    """As configured."""
    current: int = 1
    """Replicas that keep up, the leader included."""
    lag: int = 0
    """Messages by which the slowest replica is behind."""
    quorum: bool = True
    """The answer is authoritative: its leader was in touch with a majority. Otherwise the numbers may be those of the past."""
    memory: bool = False
    """It is kept in memory: a restart of its servers may empty it."""
    copied: bool = False
    """Its messages come from other streams (mirror, sources) with their times."""
    expires: bool = False
    """Each replica removes messages by itself, by age or because they were consumed, so a new leader may begin earlier."""
    erasable: bool = False
    """Its configuration allows to delete single messages."""


@dataclass(frozen=True, slots=True)
class Consumers:
    """The consumers of a stream, soakd's own left out."""

    seen: float
    """When they were asked about."""
    durable: int = 0
    ephemeral: int = 0
    idle: int = 0
    """Without interest at that moment: a push consumer nobody is subscribed to, a pull consumer without a waiting request."""
    pending: int = 0
    """Messages not delivered yet, over all of them."""
    ack_pending: int = 0
    redelivered: int = 0
    missing: int = 0
    """Consumers that exist but did not answer."""
    durables: frozenset[str] = frozenset()


class Operation(IntEnum):
    """What the last change of an entry was."""

    PUT = 0
    DELETE = 1
    PURGE = 2


class Entry(NamedTuple):
    """A key of a bucket."""

    revision: int
    operation: Operation
    mortal: bool = False
    """The message has a time to live, after which an older value of the key can come to light again."""


class Entries(Mapping[str, Entry]):
    """The entries of a bucket by key, kept small: a hundred thousand are looked at in place.

    Each is one number, see `pack`.
    """

    __slots__ = ("_packed",)

    def __init__(self, packed: Mapping[str, int]) -> None:
        self._packed = packed

    def __getitem__(self, key: str) -> Entry:
        return unpack(self._packed[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def newer(self, revision: int) -> list[str]:
        """Return the keys that changed after a revision; some 3 ms for 100,000 entries."""
        bound = (revision + 1) << 3
        return [key for key, packed in self._packed.items() if packed >= bound]

    def latest(self, count: int, match: str = "") -> list[str]:
        """Return the keys that changed last, the latest first, of those that contain `match` in upper or lower case."""
        return nlargest(count, self._matching(match), key=self._packed.__getitem__)

    def first(self, count: int, match: str = "") -> list[str]:
        """Return the first keys by name, of those that contain `match`."""
        return nsmallest(count, self._matching(match))

    def _matching(self, match: str) -> Iterable[str]:
        part = match.casefold()
        return [key for key in self._packed if part in key.casefold()] if match else self._packed


def pack(entry: Entry) -> int:
    """Return an entry as one number: the revision, by which a later change is always greater, mortality and operation."""
    return entry.revision << 3 | entry.mortal << 2 | entry.operation


def unpack(packed: int) -> Entry:
    """Return what `pack` packed."""
    return Entry(packed >> 3, Operation(packed & 3), bool(packed & 4))


@dataclass(frozen=True, slots=True)
class Bucket:
    """A key-value bucket."""

    name: str
    entries: Entries
    """All keys with a value or the marker of a deletion."""
    live: int
    """Keys with a value."""
    complete: bool
    """Everything in the bucket has been seen, and changes are seen as they happen."""
    why: str = ""
    """Why it is not complete."""
    seen: float | None = None
    """When the server was last heard of; None: never."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the monitor knows."""

    taken: float
    rounds: int = 0
    """How often names were asked for, answered or not."""
    names_seen: float | None = None
    """When all names of streams were last read; None: never."""
    details_seen: float | None = None
    """When the details of all of them were last read."""
    why: str = ""
    """Why it is not complete; empty if it is."""
    streams: Mapping[str, Stream | None] = field(default_factory=dict)
    """By name; None: it is there, but its leader has not described it yet."""
    doubted: frozenset[str] = frozenset()
    """Streams missing from the last list that are not known to be deleted: they count as there."""
    consumers: Mapping[str, Consumers] = field(default_factory=dict)
    """By stream, for those that have any."""
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    meta_leader: str = ""
    """The server that led the cluster when last heard of; only known with a system connection."""

    @property
    def complete(self) -> bool:
        """Whether everything could be looked at lately."""
        return not self.why
