"""Reads a journal back, as often as one likes, whatever state its writer's death left it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from supervisor.journal.events import JournalTrouble, Record
from supervisor.journal.lines import LineError, event_of, parse
from supervisor.journal.segments import lines_of, segments


class ReplayError(Exception):
    """A directory holds no journal."""


def replay(run_dir: Path) -> Iterator[Record]:
    """Yield all records of a run in sequence order.

    What is damaged is told, never guessed: for a line that is not whole, and for a gap in the sequence, a `journal.trouble` of
    the kind `torn` comes at that place, with the number and clocks of the record before it. It is not in the journal itself.
    ReplayError if the directory is no run.
    """
    if not run_dir.is_dir() or not (paths := segments(run_dir)):
        raise ReplayError(
            f"cannot read the journal in {run_dir}: there is no journal-0001.jsonl; name a run directory"
        )
    until = _ends(paths)
    last = Record(0, 0.0, 0.0, JournalTrouble(what="torn", detail=""))
    for number, path in paths.items():
        before, covered, torn = last.sequence, 0, 0
        for line in lines_of(path):
            try:
                head = parse(line)
            except LineError:
                torn += 1
                yield _trouble(last, f"a line of {path.name} is torn or altered", 1)
                continue
            if head.sequence >= until[number] or head.sequence <= last.sequence:
                continue
            covered += head.covers
            last = Record(head.sequence, head.wall, head.mono, event_of(head))
            yield last
        if (lost := last.sequence - before - covered - torn) > 0:
            yield _trouble(last, f"{lost} records before the end of {path.name} are missing", lost)


def last_sequence(paths: dict[int, Path]) -> int:
    """Return the sequence of the last whole line of a journal, 0 if there is none."""
    for number in sorted(paths, reverse=True):
        for line in reversed(list(lines_of(paths[number]))):
            with suppress(LineError):
                return parse(line).sequence
    return 0


def _trouble(last: Record, detail: str, lost: int) -> Record:
    return Record(last.sequence, last.wall, last.mono, JournalTrouble(what="torn", detail=detail, lost=lost))


def _ends(paths: dict[int, Path]) -> dict[int, float]:
    """Return, for each segment, the sequence from which on a later segment has the better copy.

    After a failed write or fsync the writer writes again, to a new segment, everything nobody was promised yet.
    """
    ends, first = {}, float("inf")
    for number in sorted(paths, reverse=True):
        ends[number] = first
        for line in lines_of(paths[number]):
            try:
                first = min(first, parse(line).sequence)
            except LineError:
                continue
            break
    return ends
