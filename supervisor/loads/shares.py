"""What passes between a load and the processes that share its work: messages over pipes, and what they have counted in memory that both see."""

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
from supervisor.loads.recorder import OTHER, Outcome, Recorder

_LENGTH: Final = struct.Struct("!I")
_OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "failed", "indeterminate")
_NUMBERS: Final[Mapping[Outcome, int]] = {outcome: number for number, outcome in enumerate(_OUTCOMES)}


# --- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a process: everything it needs. Secrets come this way too, which no other process can read."""

    load: bytes
    """The load, pickled: its class may be from `file`, which has to be taken in first."""
    file: tuple[Path, object] | None
    """A file of the user's that its class is from, and what tells whether that has changed."""
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


class Ready(NamedTuple):
    """From a process: it is ready to begin, and waits for `Go`."""


class Left(NamedTuple):
    """From a process: it needs no more what the load has made; `sound`: nothing was wrong with it."""

    sound: bool


class Leaves(NamedTuple):
    """From a process: a stream that it has made, and that is to be removed unless the run fails."""

    stream: str


class Outlasted(NamedTuple):
    """To the first process: all others need it no more; `sound`: nothing was wrong with it anywhere."""

    sound: bool


class Go(NamedTuple):
    """To a process: begin, with all others, at this instant."""

    at: float
    """Monotonic seconds, which all processes of a machine have alike."""


class Stop(NamedTuple):
    """To a process: finish what is under way, send the rest, and leave."""


class Told(NamedTuple):
    """From a process: an event for the journal."""

    event: Event


class Ended(NamedTuple):
    """From a process, its last word: the load has returned. `error` is the traceback if it raised."""

    error: str = ""


Message = Begin | Happened | Ping | Ready | Go | Left | Leaves | Outlasted | Stop | Told | Ended


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


# --- what was counted ------------------------------------------------------------------------------------------------

RING: Final = 32_768
"""Ended operations of which the times are kept: more than any process reports at once."""
NAMES: Final = 64
"""Counters that have a place of their own, and as many error classes; the rest is counted under `other`."""
_TOTALS: Final = 7
_DUE: Final = _TOTALS
_CELL: Final = 128
"""Bytes of a name."""
_ENTRY: Final = struct.Struct("=dddq")
_AMOUNTS: Final = (_TOTALS + 1) * 8
_COUNTERS: Final = _AMOUNTS + NAMES * 8
_ERRORS: Final = _COUNTERS + NAMES * _CELL
_ENDED: Final = _ERRORS + NAMES * _CELL
_SIZE: Final = _ENDED + RING * _ENTRY.size


class Totals(NamedTuple):
    """Operations of one life of one process."""

    scheduled: int = 0
    started: int = 0
    dropped: int = 0
    late: int = 0
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0

    @property
    def ended(self) -> int:
        """Operations that have an outcome."""
        return self.ok + self.failed + self.indeterminate

    def minus(self, other: Totals) -> Totals:
        """Return what is more in this than in the other."""
        return Totals(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both."""
        return Totals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Happening(NamedTuple):
    """An operation that has ended. Times are monotonic seconds."""

    intended: float
    start: float
    end: float
    outcome: Outcome
    error: str


class Ledger:
    """What a process has counted, in memory that outlives it: so nothing of what it did is forgotten if it is killed.

    Totals and counters are of its whole life; of its operations the last `RING` are there one by one.
    """

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: of a memory file; it belongs to the ledger from now on."""
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._view = memoryview(self._memory)
        self.slots = self._view[:_AMOUNTS].cast("q")
        self._amounts = self._view[_AMOUNTS:_COUNTERS].cast("d")
        self._places: dict[tuple[int, str], int] = {}
        self._ended = 0

    @classmethod
    def new(cls) -> Ledger:
        """Return an empty one."""
        descriptor = os.memfd_create("soakd totals")
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    # --- written by the process ----------------------------------------------------------------------------------------

    def end(self, intended: float, start: float, end: float, outcome: Outcome, error: str) -> None:
        """Note an operation. It counts with the last step, so that one that is half noted was under way."""
        number = _NUMBERS[outcome]
        code = number + (self._place(_ERRORS, error or "unknown") << 2 if number else 0)
        _ENTRY.pack_into(self._memory, _ENDED + self._ended % RING * _ENTRY.size, intended, start, end, code)
        self._ended += 1
        self.slots[4 + number] += 1

    def count(self, name: str, amount: float) -> None:
        """Add to a counter."""
        self._amounts[self._place(_COUNTERS, name)] += amount

    def _place(self, table: int, name: str) -> int:
        place = self._places.get((table, name))
        if place is None:
            used = sum(one == table for one, _ in self._places)
            place = min(used, NAMES - 1)
            if used < NAMES:
                text = (OTHER if used == NAMES - 1 else name).encode()[:_CELL]
                at = table + place * _CELL
                self._memory[at : at + len(text)] = text
                self._places[table, name] = place
        return place

    # --- read by the run -----------------------------------------------------------------------------------------------

    def read(self) -> Totals:
        """Return what is counted by now."""
        return Totals(*self.slots[:_TOTALS])

    def counters(self) -> dict[str, float]:
        """Return the counters."""
        names = (self._name(_COUNTERS, place) for place in range(NAMES))
        return {name: self._amounts[place] for place, name in enumerate(names) if name}

    def last(self, count: int) -> list[Happening]:
        """Return so many operations that ended last, oldest first; fewer if they are more than `RING`."""
        ended, found = self.read().ended, []
        for n in range(ended - min(count, RING), ended):
            entry = _ENTRY.unpack_from(self._memory, _ENDED + n % RING * _ENTRY.size)
            intended, start, end, code = entry
            error = self._name(_ERRORS, code >> 2) if code & 3 else ""
            found.append(Happening(intended, start, end, _OUTCOMES[code & 3], error))
        return found

    def _name(self, table: int, place: int) -> str:
        at = table + place * _CELL
        return self._memory[at : at + _CELL].rstrip(b"\0").decode(errors="replace")

    @property
    def next_due(self) -> float | None:
        """Monotonic seconds from which on nothing was scheduled yet; None if nothing ever was."""
        # A microsecond less, so that rounding never leaves out the operation that is due just then.
        return self.slots[_DUE] / 1e9 - 1e-6 if self.slots[_DUE] else None

    def close(self) -> None:
        """Give the memory back."""
        self.slots.release()
        self._amounts.release()
        self._view.release()
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
        self.ledger.end(intended, start, end, outcome, error)

    def scheduled(self, n: int = 1) -> None:  # noqa: D102
        super().scheduled(n)
        self.ledger.slots[0] += n

    def started(self, n: int = 1) -> None:  # noqa: D102
        super().started(n)
        self.ledger.slots[1] += n

    def dropped(self, n: int = 1) -> None:  # noqa: D102
        super().dropped(n)
        self.ledger.slots[2] += n

    def late(self, n: int = 1) -> None:  # noqa: D102
        super().late(n)
        self.ledger.slots[3] += n

    def count(self, name: str, amount: float = 1) -> None:  # noqa: D102
        super().count(name, amount)
        self.ledger.count(name, amount)

    def reached(self, next_due: float) -> None:  # noqa: D102
        super().reached(next_due)
        self.ledger.slots[_DUE] = int(next_due * 1e9)
