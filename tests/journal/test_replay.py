from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journal.events import Event, JournalTrouble, OpenEvent, Record, UnitReady
from supervisor.journal.lines import encode, line_of
from supervisor.journal.replay import ReplayError, last_sequence, replay
from supervisor.journal.segments import segments


def event(n: int) -> UnitReady:
    return UnitReady(unit="a", incarnation="1", took=n)


def line(n: int, what: Event | None = None, covers: int = 1) -> bytes:
    what = what or event(n)
    return line_of(Record(n, float(n), float(n), what), encode(what), covers)


def lines(*numbers: int) -> bytes:
    return b"".join(line(n) for n in numbers)


def write(run_dir: Path, *contents: bytes) -> None:
    for number, content in enumerate(contents, 1):
        (run_dir / f"journal-{number:04}.jsonl").write_bytes(content)


def told(run_dir: Path) -> list[int | str]:
    """Return sequences of records, and for a trouble its text."""
    return [
        record.event.detail if isinstance(record.event, JournalTrouble) else record.sequence
        for record in replay(run_dir)
    ]


def test_segments_are_read_in_order_packed_or_not(tmp_path: Path) -> None:
    write(tmp_path, b"", lines(3, 4), lines(5))
    (tmp_path / "journal-0001.jsonl").unlink()
    (tmp_path / "journal-0001.jsonl.xz").write_bytes(lzma.compress(lines(1, 2)))
    (tmp_path / "journal-10000.jsonl").write_bytes(lines(6))
    (tmp_path / "verdict.json").write_text("{}")
    (tmp_path / ".journal-0007.jsonl.xz.tmp").write_text("half")
    assert told(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert list(replay(tmp_path))[3] == Record(4, 4.0, 4.0, event(4))


def test_if_a_crash_left_both_forms_the_plain_one_counts(tmp_path: Path) -> None:
    write(tmp_path, lines(1, 2))
    (tmp_path / "journal-0001.jsonl.xz").write_bytes(b"half of it")
    assert told(tmp_path) == [1, 2]


@given(cut=st.integers(0, len(lines(1, 2, 3))))
def test_a_torn_last_line_of_any_segment_is_told_and_no_more_is_lost(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    whole = lines(1, 2, 3)
    kept = whole[:cut].count(b"\n")
    torn = (
        ["a line of journal-0001.jsonl is torn or altered"] if not whole[:cut].endswith(b"\n") and cut else []
    )
    write(run_dir, whole[:cut], lines(kept + 1, kept + 2))
    assert told(run_dir) == [*range(1, kept + 1), *torn, kept + 1, kept + 2]


def test_an_altered_line_in_the_middle_is_told_at_its_place(tmp_path: Path) -> None:
    write(tmp_path, lines(1) + line(2).replace(b'"took":2', b'"took":9') + lines(3))
    assert told(tmp_path) == [1, "a line of journal-0001.jsonl is torn or altered", 3]
    trouble = list(replay(tmp_path))[1]
    assert (trouble.sequence, trouble.wall, trouble.mono) == (1, 1.0, 1.0)
    assert isinstance(trouble.event, JournalTrouble)
    assert (trouble.event.what, trouble.event.lost) == ("torn", 1)


def test_a_gap_is_told_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, lines(1, 2), lines(6, 7), lines(8))
    assert told(tmp_path) == [1, 2, 6, 7, "3 records up to the end of journal-0002.jsonl are missing", 8]


def test_a_beginning_that_is_missing_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path, lines(3))
    assert told(tmp_path) == [3, "2 records up to the end of journal-0001.jsonl are missing"]


def test_folded_records_are_no_gap(tmp_path: Path) -> None:
    write(tmp_path, line(1) + line(6, covers=3) + line(7) + line(9, covers=4))
    assert told(tmp_path) == [1, 6, 7, 9]


def test_what_was_written_again_counts_as_written_last(tmp_path: Path) -> None:
    withdrawn = line(3, JournalTrouble(what="dropped", detail="withdrawn"))
    write(tmp_path, lines(1, 2) + withdrawn + line(4), b"", lines(2, 3), lines(4, 5))
    assert told(tmp_path) == [1, 2, 3, 4, 5]


def test_a_damaged_packed_segment_gives_what_it_still_has(tmp_path: Path) -> None:
    packed = lzma.compress(lines(*range(1, 200)), preset=0)
    (tmp_path / "journal-0001.jsonl.xz").write_bytes(packed[: len(packed) // 2])
    write(tmp_path, b"", lines(200))
    (tmp_path / "journal-0001.jsonl").unlink()
    found = told(tmp_path)
    whole = found.index("a line of journal-0001.jsonl.xz is torn or altered")
    assert whole > 10
    assert found[:whole] == list(range(1, whole + 1))
    assert found[whole + 1 :] == [
        200,
        f"{199 - whole} records up to the end of journal-0002.jsonl are missing",
    ]


def test_a_packed_segment_that_is_no_xz_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "journal-0001.jsonl.xz").write_bytes(b"nothing of the kind")
    assert told(tmp_path) == ["a line of journal-0001.jsonl.xz is torn or altered"]


def test_a_record_of_a_newer_soakd_is_told_of(tmp_path: Path) -> None:
    newer = line_of(Record(2, 2.0, 2.0, event(2)), b'{"renamed":1}')
    write(tmp_path, lines(1) + newer + line(3, OpenEvent(name="my.kind", data={})))
    assert told(tmp_path) == [1, 2, "unit.ready in version 1 was written by another soakd", 3]


def test_a_directory_without_a_journal_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ReplayError, match=f"cannot read the journal in {path}: there is no journal"):
            list(replay(path))


def test_the_last_sequence_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    assert last_sequence({}) == 0
    write(tmp_path, lines(1, 2) + b"torn", b"", b"torn")
    assert last_sequence(segments(tmp_path)) == 2
