"""What passes between a load and the processes that share its work: messages over pipes, and totals in memory that both see."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from supervisor.broker.options import Broker
from supervisor.journal.events import Event, Record
from supervisor.journal.timeline import Timeline
from supervisor.loads.pace import Paced
from supervisor.loads.recorder import Outcome, Recorder

_LENGTH: Final = struct.Struct("!I")
_OUTCOMES: Final[Mapping[str, int]] = {"ok": 3, "failed": 4, "indeterminate": 5}
_SLOTS: Final = 6


# --- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a process: everything it needs. Secrets come this way too, which no other process can read."""

    load: Paced
    name: str
    run: str
    seed: int
    start: float
    process: int
    processes: int
    owed: float | None
    base: Path
    directory: Path
    environment: Mapping[str, str]
    broker: Broker | None
    timeline: Timeline


class Happened(NamedTuple):
    """To a process: a record about an episode, for its own timeline."""

    record: Record


class Ping(NamedTuple):
    """To a process, which sends it back once everything before it was taken in."""

    n: int


class Stop(NamedTuple):
    """To a process: finish what is under way, send the rest, and leave."""


class Told(NamedTuple):
    """From a process: an event for the journal."""

    event: Event


class Ended(NamedTuple):
    """From a process, its last word: the load has returned. `error` is the traceback if it raised."""

    error: str = ""


Message = Begin | Happened | Ping | Stop | Told | Ended


def pack(message: Message) -> bytes:
    """Return a message as bytes, its length in front."""
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


async def messages(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[Any]:
    """Yield the messages that come in; ends with the stream, and drops one that was cut off.

    `read` returns up to so many bytes, none at the end. Both ends are ours and of the same code, so unpickling is safe.
    """
    buffer = bytearray()
    while data := await read(1 << 20):
        buffer += data
        while len(buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer)
            if len(buffer) < _LENGTH.size + size:
                break
            yield pickle.loads(bytes(buffer[_LENGTH.size : _LENGTH.size + size]))  # noqa: S301  # see above
            del buffer[: _LENGTH.size + size]


# --- totals ----------------------------------------------------------------------------------------------------------


class Totals(NamedTuple):
    """Operations of one life of one process."""

    scheduled: int = 0
    started: int = 0
    dropped: int = 0
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0

    def minus(self, other: Totals) -> Totals:
        """Return what is more in this than in the other."""
        return Totals(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both."""
        return Totals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Ledger:
    """Totals in memory that outlives the process which counts there: so nothing of what it did is forgotten if it is killed."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: of a memory file; it belongs to the ledger from now on."""
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, (_SLOTS + 1) * 8)
        self.slots = memoryview(self._memory).cast("q")

    @classmethod
    def new(cls) -> Ledger:
        """Return an empty one."""
        descriptor = os.memfd_create("soakd totals")
        os.ftruncate(descriptor, (_SLOTS + 1) * 8)
        return cls(descriptor)

    def read(self) -> Totals:
        """Return what is counted by now."""
        return Totals(*self.slots[:_SLOTS])

    @property
    def next_due(self) -> float | None:
        """Monotonic seconds from which on nothing was scheduled yet; None if nothing ever was."""
        # A microsecond less, so that rounding never leaves out the operation that is due just then.
        return self.slots[_SLOTS] / 1e9 - 1e-6 if self.slots[_SLOTS] else None

    def close(self) -> None:
        """Give the memory back."""
        self.slots.release()
        self._memory.close()
        os.close(self.descriptor)


class CountedRecorder(Recorder):
    """A recorder that counts into a ledger as well."""

    ledger: Ledger

    def record(  # noqa: D102  # as in the recorder
        self,
        *,
        intended: float,
        start: float,
        end: float,
        outcome: Outcome,
        error: str = "",
        detail: str = "",
        name: str = "",
    ) -> None:
        super().record(
            intended=intended, start=start, end=end, outcome=outcome, error=error, detail=detail, name=name
        )
        self.ledger.slots[_OUTCOMES[outcome]] += 1

    def scheduled(self, n: int = 1) -> None:  # noqa: D102
        super().scheduled(n)
        self.ledger.slots[0] += n

    def started(self, n: int = 1) -> None:  # noqa: D102
        super().started(n)
        self.ledger.slots[1] += n

    def dropped(self, n: int = 1) -> None:  # noqa: D102
        super().dropped(n)
        self.ledger.slots[2] += n

    def reached(self, next_due: float) -> None:  # noqa: D102
        self.ledger.slots[_SLOTS] = int(next_due * 1e9)
