from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import anyio
import pytest

from supervisor.journal import archive
from supervisor.journal.archive import Archiver, StoppedError
from supervisor.journal.events import (
    Event,
    JournalTrouble,
    LoadWindow,
    OpenEvent,
    Record,
    Slice,
    TaskCrashed,
    UnitReady,
)
from supervisor.journal.replay import replay
from supervisor.journal.segments import segments
from supervisor.journal.writer import JournalWriter, open_journal

SLOW = 120.0
"""Seconds: the archiver stands back behind everybody else on a busy machine."""
pytestmark = pytest.mark.timeout(300)


def window(n: int) -> LoadWindow:
    part = Slice(ok=1, response=(0.5, 0.1, *(1 + n % 7 for _ in range(80))))
    return LoadWindow(load=f"load{n % 5}", start=float(n), end=n + 2.0, scheduled=1, slices=(part,))


class Clock:
    """A clock that goes on two seconds with each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


async def write(journal: JournalWriter, count: int) -> None:
    for n in range(count):
        journal.emit(window(n))
        if not n % 50:
            await journal.commit(UnitReady(unit="u", incarnation="1", took=n))


async def wait_packed(run_dir: Path) -> None:
    with anyio.fail_after(SLOW):
        while len([path for path in segments(run_dir).values() if path.suffix == ".jsonl"]) > 1:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


def names_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def events(run_dir: Path) -> list[Event]:
    return [record.event for record in replay(run_dir)]


async def test_closed_segments_are_packed_while_the_journal_goes_on(tmp_path: Path) -> None:
    heard: list[Record] = []
    async with open_journal(tmp_path, segment=50_000) as journal:
        journal.subscribe(heard.append)
        await write(journal, 2000)
        await wait_packed(tmp_path)
        names = [path.name for path in segments(tmp_path).values()]
        assert len(names) > 5
        assert names[-1].endswith(".jsonl")
        assert all(name.endswith(".jsonl.xz") for name in names[:-1])
    assert list(replay(tmp_path)) == heard
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]


async def test_above_the_budget_the_oldest_are_folded_and_nothing_else_changes(tmp_path: Path) -> None:
    plain, folded = tmp_path / "plain", tmp_path / "folded"
    for run_dir, budget in ((plain, 10**9), (folded, 20_000)):
        async with open_journal(run_dir, segment=50_000, budget=budget, mono=Clock()) as journal:
            await write(journal, 3000)
            await wait_packed(run_dir)
            if run_dir == folded:
                await wait_folded(journal)
    assert [e for e in events(folded) if isinstance(e, UnitReady)] == [
        e for e in events(plain) if isinstance(e, UnitReady)
    ]
    full, coarse = ([e for e in events(run_dir) if isinstance(e, LoadWindow)] for run_dir in (plain, folded))
    assert len(coarse) < len(full) / 5
    assert sum(e.scheduled for e in coarse) == sum(e.scheduled for e in full) == 3000
    assert not [e for e in events(folded) if isinstance(e, JournalTrouble)]


async def wait_folded(journal: JournalWriter) -> None:
    with anyio.fail_after(SLOW):
        while not journal._thread._archiver._full:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


async def test_what_cannot_be_folded_any_more_is_left_alone(tmp_path: Path) -> None:
    async with open_journal(tmp_path, segment=20_000, budget=10) as journal:
        for n in range(500):
            await journal.commit(OpenEvent(name="my.kind", data={"n": n, "text": "x" * 100}))
        await wait_packed(tmp_path)
    assert len(events(tmp_path)) == 500


async def test_what_a_dead_run_left_plain_or_twice_is_packed_at_the_next_opening(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        await journal.commit(UnitReady(unit="u", incarnation="1", took=0))
    (tmp_path / "journal-0001.jsonl.xz").write_bytes(b"half of it")
    (tmp_path / ".journal-0001.jsonl.xz.tmp").write_bytes(b"half of it")
    async with open_journal(tmp_path) as journal:
        await journal.commit(UnitReady(unit="u", incarnation="2", took=0))
        await wait_packed(tmp_path)
        assert (tmp_path / "journal-0001.jsonl.xz").exists()
    assert [record.sequence for record in replay(tmp_path)] == [1, 2]
    assert names_in(tmp_path) == ["journal-0001.jsonl.xz", "journal-0002.jsonl"]


async def test_a_replay_is_not_disturbed_by_packing(tmp_path: Path) -> None:
    async with open_journal(tmp_path, segment=1) as journal:
        for n in range(3):
            await journal.commit(UnitReady(unit="u", incarnation="1", took=n))
        await wait_packed(tmp_path)
    shutil.copytree(tmp_path, copy := tmp_path / "copy")
    for path in list(copy.glob("*.xz")):
        (copy / path.name.removesuffix(".xz")).write_bytes(lzma.decompress(path.read_bytes()))
    reading = replay(copy)
    first = next(reading)
    for path in copy.glob("*.xz"):
        (copy / path.name.removesuffix(".xz")).unlink()
    assert [first.sequence, *(record.sequence for record in reading)] == [1, 2, 3]


def test_a_disk_without_room_leaves_segments_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal-0001.jsonl").write_bytes(b"x\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "sync_directory", full)
    archiver = Archiver(tmp_path, 10**9, pytest.fail)
    archiver._tidy(1)
    assert (tmp_path / "journal-0001.jsonl").exists()


def test_stopping_leaves_a_segment_whole(tmp_path: Path) -> None:
    (tmp_path / "journal-0001.jsonl").write_bytes(b"x\n")
    archiver = Archiver(tmp_path, 10**9, pytest.fail)
    archiver.stop()
    with pytest.raises(StoppedError):
        archiver._tidy(1)
    assert [path.name for path in tmp_path.iterdir()] == ["journal-0001.jsonl"]


async def test_an_archiver_that_breaks_is_put_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("it is broken")

    monkeypatch.setattr(Archiver, "_tidy", broken)
    heard, crashed = list[Record](), anyio.Event()
    async with open_journal(tmp_path) as journal:
        journal.subscribe(heard.append)
        journal.subscribe(lambda _record: crashed.set())
        with anyio.fail_after(SLOW):
            await crashed.wait()
    (event,) = events(tmp_path)
    assert isinstance(event, TaskCrashed)
    assert (event.task, event.error, event.gave_up) == (
        "journal archiver",
        "ZeroDivisionError: it is broken",
        True,
    )
    assert "in broken" in event.traceback
