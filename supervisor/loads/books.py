"""What a load program has told of its operations, over one of its lives. Memory does not grow with time."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from supervisor.journal.events import CUT_OFF
from supervisor.loads.iterations import SKIPPED
from supervisor.loads.lines import OUTCOMES, Counts, MalformedError, Operation, read
from supervisor.loads.recorder import Recorder
from supervisor.loads.window import Outcome

OPEN: Final = 100_000
"""Operations that are announced and under way, at most; beyond them the oldest is given up."""
KNOWN: Final = 100_000
"""Ids of operations that have ended, and as many of those given up, that are remembered to tell what comes again."""
OPS: Final = 16
"""Names of operations that have counters of their own."""
MALFORMED: Final = "malformed_lines"
LATE: Final = "late_outcomes"
AGAIN: Final = "duplicates"
LOST: Final = "lost"
CRASHES: Final = "program_crashes"
ENDS: Final = "program_ends"
OWN: Final = frozenset({MALFORMED, LATE, AGAIN, LOST, CRASHES, ENDS, SKIPPED, CUT_OFF})
"""Counters of soakd's own: no program adds to them."""
TOLERANCE: Final = 0.1
"""Seconds by which an operation may seem older than its program: rounding, and a clock that is not ours."""
_SHOWN: Final = 200
"""Bytes of a malformed line in a sample."""
_NO_NAME: Final = re.compile(r"[^\w.-]")

_OUTCOMES: Final = tuple(f".{outcome}" for outcome in OUTCOMES)
"""Ends of the names of counters of operations, such as `rpc.ok`."""

_Times = tuple[float, float, float]
"""Intended start, start and end of an operation, monotonic seconds."""


class _Begun(NamedTuple):
    """An operation that was announced."""

    name: str
    at: float
    """Monotonic seconds."""


class Books:
    """Counts one life's operations. Ids are its own: the next life may begin with 1 again."""

    def __init__(self, recorder: Recorder, timeout: float) -> None:
        """`timeout`: seconds after which an announced operation is given up."""
        self.told = 0
        """Lines that said something."""
        self.heard = self._since = time.monotonic()
        """When the last of them came."""
        self._recorder, self._timeout = recorder, timeout
        self._open: OrderedDict[str, _Begun] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._ops: dict[str, str] = {}
        """Names of operations as counters have them."""

    @property
    def open(self) -> int:
        """How many operations are under way, as far as was announced."""
        return len(self._open)

    def take(self, line: bytes) -> str:
        """Count what a line says; return why it says nothing, which is counted too: it may have been any outcome."""
        now = time.monotonic()
        try:
            said = read(line)
            if isinstance(said, Operation):
                self._operation(said, now)
            else:
                self._add(said)
        except MalformedError as error:
            self._recorder.count(MALFORMED)
            detail = f"{error}: {line[:_SHOWN]!r}"
            self._record((now, now, now), "indeterminate", "malformed line", detail, "", counted=False)
            return str(error)
        self.told, self.heard = self.told + 1, now
        return ""

    def expire(self) -> None:
        """Give up announced operations whose time is over."""
        due = time.monotonic() - self._timeout
        while self._open and next(iter(self._open.values())).at <= due:
            self._give_up("no outcome")

    def end(self, error: str, detail: str = "") -> None:
        """The program has ended: what was under way may have happened or not."""
        for begun in self._open.values():
            self._ended_badly(begun, error, detail)
        self._open.clear()

    def _operation(self, said: Operation, now: float) -> None:
        key = f"{said.op}\0{said.id}" if said.id else ""
        if said.outcome == "started":
            self._begin(said, key, now)
        elif said.outcome == "dropped":
            self._recorder.scheduled()
            self._recorder.dropped()
        else:
            if self._comes_again(key):
                return
            begun = self._open.get(key)
            took = said.took if said.took is not None or begun is None else now - begun.at
            if took is None:
                raise MalformedError("ms: expected how long it took, for the operation was not announced")
            if took > (lived := now - self._since) + TOLERANCE:
                raise MalformedError(
                    f"ms: expected milliseconds, and no more than the {lived * 1000:,.0f} since the program was started"
                )
            if key:
                self._note_end(key)
            service = took if said.service is None else min(said.service, took)
            times, name = (now - took, now - service, now), f"{said.op} {said.id}".rstrip()
            error = said.error or "failed"
            self._record(times, said.outcome, error, said.detail, name, counted=begun is not None)
            self._recorder.count(f"{self._named(said.op)}.{said.outcome}")

    def _begin(self, said: Operation, key: str, now: float) -> None:
        if not key or key in self._open:
            raise MalformedError("id: expected one that is not under way already, as it is announced")
        if not self._open:
            self._recorder.count(LOST, 0)  # a threshold on it needs to see that somebody looked
        self._ended.pop(key, None)
        self._open[key] = _Begun(f"{said.op} {said.id}", now)
        self._recorder.scheduled()
        self._recorder.started()
        if len(self._open) > OPEN:
            self._give_up("too many under way")

    def _comes_again(self, key: str) -> bool:
        """Count an outcome of an operation that has one already."""
        if key in self._open:
            return False
        if key in self._given_up:
            del self._given_up[key]
            self._recorder.count(LATE)
            return True
        if key in self._ended:
            self._recorder.count(AGAIN)
            return True
        return False

    def _note_end(self, key: str) -> None:
        if not self._ended:
            self._recorder.count(AGAIN, 0)
        self._open.pop(key, None)
        _remember(self._ended, key)

    def _give_up(self, error: str) -> None:
        key, begun = self._open.popitem(last=False)
        _remember(self._given_up, key)
        self._recorder.count(LOST)
        self._ended_badly(begun, error)

    def _ended_badly(self, begun: _Begun, error: str, detail: str = "") -> None:
        times = begun.at, begun.at, time.monotonic()
        self._record(times, "indeterminate", error, detail, begun.name, counted=True)

    def _add(self, said: Counts) -> None:
        """Add to counters of the program's own, or to none of them."""
        counts = [(_NO_NAME.sub("_", name), amount) for name, amount in said.counts.items()]
        if taken := next((name for name, _ in counts if name in OWN or name.endswith(_OUTCOMES)), None):
            raise MalformedError(f"count {taken}: soakd counts that itself; expected another name")
        for name, amount in counts:
            self._recorder.count(name, amount)

    def _named(self, op: str) -> str:
        if op not in self._ops:
            if len(self._ops) >= OPS:
                return "other"
            self._ops[op] = _NO_NAME.sub("_", op)
        return self._ops[op]

    def _record(
        self, times: _Times, outcome: Outcome, error: str, detail: str, name: str, *, counted: bool
    ) -> None:
        """`counted`: it was, when it was announced."""
        if not counted:
            self._recorder.scheduled()
            self._recorder.started()
        intended, start, end = times
        self._recorder.record(
            intended=intended, start=start, end=end, outcome=outcome, error=error, detail=detail, name=name
        )


def _remember(known: OrderedDict[str, None], key: str) -> None:
    known[key] = None
    if len(known) > KNOWN:
        known.popitem(last=False)
