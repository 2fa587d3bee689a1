"""What the processes of a load have counted, in memory that outlives them."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from supervisor.journal.events import LoadWindow
from supervisor.loads.recorder import Recorder
from supervisor.loads.window import OTHER, Outcome

_OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "failed", "indeterminate")
_NUMBERS: Final[Mapping[Outcome, int]] = {outcome: number for number, outcome in enumerate(_OUTCOMES)}

RING: Final = 32_768
"""Ended operations of which the times are kept: more than any process reports at once."""
DIED: Final = "process died"
"""The error class of operations that were under way when their process died."""
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

    @classmethod
    def of(cls, window: LoadWindow) -> Totals:
        """Return those of a window."""
        return cls(
            window.scheduled,
            window.started,
            window.dropped,
            window.late,
            sum(one.ok for one in window.slices),
            sum(one.failed for one in window.slices),
            sum(one.indeterminate for one in window.slices),
        )

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
        if outcome != "ok":  # those go the short way
            self.ledger.end(intended, start, end, outcome, error)

    def ok(self, intended: float, start: float, end: float) -> None:  # noqa: D102
        super().ok(intended, start, end)
        self.ledger.end(intended, start, end, "ok", "")

    def begun(self) -> None:  # noqa: D102
        super().begun()
        self.ledger.slots[0] += 1
        self.ledger.slots[1] += 1

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


class Reported:
    """What a process has reported so far, in one life."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._counters: dict[str, float] = {}

    def take(self, window: LoadWindow) -> None:
        """Add a window."""
        self._totals = self._totals.plus(Totals.of(window))
        for name, amount in window.counters.items():
            self._counters[name] = self._counters.get(name, 0.0) + amount

    def count_rest(self, ledger: Ledger, recorder: Recorder, detail: str) -> None:
        """Count what it did beyond that, each operation with its own times; what was under way when it died is indeterminate."""
        done, now = ledger.read(), time.monotonic()
        rest = done.minus(self._totals)
        recorder.scheduled(rest.scheduled)
        recorder.started(rest.started)
        recorder.late(rest.late)
        recorder.dropped(rest.scheduled - rest.started)  # with those that it was about to begin
        for one in ledger.last(rest.ended):
            recorder.record(**one._asdict())
        for name, amount in ledger.counters().items():
            if more := amount - self._counters.get(name, 0.0):
                recorder.count(name, more)
        # Whatever is under way was begun before the next one was due, and is it no more by now.
        since = min(ledger.next_due or now, now)
        for _ in range(done.started - done.ended):
            recorder.record(
                intended=since, start=since, end=now, outcome="indeterminate", error=DIED, detail=detail
            )
