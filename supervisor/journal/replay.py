"""Reads a journal back, as often as one likes, whatever state its writer's death left it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from supervisor.journal.events import KINDS, JournalTrouble, OpenEvent, Record, decode
from supervisor.journal.lines import LineError, parse
from supervisor.journal.segments import lines_of, segments


class ReplayError(Exception):
    """A directory holds no journal."""


def replay(run_dir: Path) -> Iterator[Record]:
    """Yield all records of a run in sequence order.

    What is damaged is told, never guessed: after a line that is not whole, a gap in the sequence or a record that this code cannot
    read comes a `journal.trouble` that is not in the journal itself (`torn`), with the number and clocks of the record before it.
    ReplayError if the directory is no run.
    """
    if not run_dir.is_dir() or not (paths := segments(run_dir)):
        raise ReplayError(
            f"cannot read the journal in {run_dir}: there is no journal-0001.jsonl; name a run directory"
        )
    until = superseded_from(paths)
    last = Record(0, 0.0, 0.0, JournalTrouble(what="torn", detail=""))
    for number, path in paths.items():
        before, accounted = last.sequence, 0
        for line in lines_of(path):
            try:
                head = parse(line)
            except LineError:
                accounted += 1
                yield _trouble(last, f"a line of {path.name} is torn or altered")
                continue
            if not last.sequence < head.sequence < until[number]:
                continue
            accounted += head.covers
            event = decode(head.kind, head.version, head.data)
            last = Record(head.sequence, head.wall, head.mono, event)
            yield last
            if type(event) is OpenEvent and event.name in KINDS:
                yield _trouble(last, f"{head.kind} in version {head.version} was written by another soakd")
        if (lost := last.sequence - before - accounted) > 0:
            yield _trouble(last, f"{lost} records up to the end of {path.name} are missing", lost)


def last_sequence(paths: dict[int, Path]) -> int:
    """Return the sequence of the last whole line of a journal, 0 if there is none."""
    for number in sorted(paths, reverse=True):
        for line in reversed(list(lines_of(paths[number]))):
            with suppress(LineError):
                return parse(line).sequence
    return 0


def _trouble(last: Record, detail: str, lost: int = 1) -> Record:
    return Record(last.sequence, last.wall, last.mono, JournalTrouble(what="torn", detail=detail, lost=lost))


def superseded_from(paths: dict[int, Path]) -> dict[int, float]:
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
