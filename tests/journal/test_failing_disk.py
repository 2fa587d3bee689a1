"""A full disk, a short write, a failed fsync: noticed, told, outlived; and a commit never lies."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from faulty import FaultyDisk, SmallDisk, always, once

from supervisor.journal import thread
from supervisor.journal.base import JournalError
from supervisor.journal.events import FaultIntent, JournalTrouble, Record, UnitReady
from supervisor.journal.replay import replay
from supervisor.journal.segments import Disk, segments
from supervisor.journal.writer import JournalWriter, open_journal


def ready(n: int) -> UnitReady:
    return UnitReady(unit="a", incarnation="1", took=n)


def intent(n: int) -> FaultIntent:
    return FaultIntent(episode=f"f#{n}", fault="f", type="restart", n=n)


def troubles(records: list[Record]) -> list[str]:
    return [record.event.what for record in records if isinstance(record.event, JournalTrouble)]


def others(records: list[Record]) -> list[Record]:
    return [record for record in records if not isinstance(record.event, JournalTrouble)]


def follow(journal: JournalWriter) -> list[Record]:
    heard: list[Record] = []
    journal.subscribe(heard.append)
    return heard


async def wait_for_trouble(journal: JournalWriter, count: int) -> None:
    changed = anyio.Event()
    unsubscribe = journal.subscribe(lambda _record: changed.set())
    with anyio.fail_after(30):
        while len(journal.trouble) < count:
            await changed.wait()
            changed = anyio.Event()
    unsubscribe()


@pytest.mark.parametrize(
    ("call", "answer", "what"),
    [
        ("fsync", -errno.EIO, "fsync-failed"),
        ("write", 10, "short-write"),
        ("write", 0, "short-write"),
        ("write", -errno.ENOSPC, "disk-full"),
        ("write", -errno.EDQUOT, "disk-full"),
        ("write", -errno.EIO, "write-failed"),
    ],
)
async def test_one_error_costs_nothing_but_the_verdict(
    tmp_path: Path, call: str, answer: int, what: str
) -> None:
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        heard = follow(journal)
        for n in range(5):
            journal.emit(ready(n))
        await journal.call(lambda: None)
        disk.trouble = once(call, answer)
        await journal.commit(intent(1))
        await wait_for_trouble(journal, 1)
        assert [trouble.what for trouble in journal.trouble] == [what]
        journal.emit(ready(6))
    found = list(replay(tmp_path))
    assert [record.sequence for record in found] == list(range(1, 9))
    assert others(found) == others(heard)
    assert troubles(found) == troubles(heard) == [what]
    calls = disk.calls[disk.calls.index(("open", "journal-0002.jsonl")) :]
    assert ("write", "journal-0001.jsonl") not in calls
    assert ("fsync", "journal-0001.jsonl") not in calls


async def test_what_was_emitted_before_a_failed_sync_is_written_again(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        journal.emit(ready(1))
        await journal.call(lambda: None)
        disk.trouble = once("fsync", -errno.EIO)
        await journal.commit(intent(1))
    (tmp_path / "journal-0001.jsonl").write_bytes(b"")  # a failed fsync may have lost any page of it
    found = list(replay(tmp_path))
    assert [record.event for record in others(found)] == [ready(1), intent(1)]


async def test_a_disk_that_fails_for_good_refuses_commits_and_is_told_of_at_once(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        heard = follow(journal)
        await journal.commit(intent(1))
        disk.trouble = always("fsync", -errno.EIO)
        for n in (2, 3):
            with pytest.raises(
                JournalError, match=r"cannot make a record durable: cannot sync .*journal-0002"
            ):
                await journal.commit(intent(n))
        journal.emit(ready(1))
        assert troubles(heard) == ["fsync-failed"]
    assert [record.event for record in replay(tmp_path)] == [intent(1)]


async def test_when_the_disk_works_again_what_waited_is_written_and_what_was_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "RETRY_EVERY", 0.01)
    monkeypatch.setattr(thread, "BACKLOG", 10)
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        heard = follow(journal)
        await journal.commit(intent(1))
        disk.trouble = always("write", -errno.ENOSPC)
        together = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(journal.call, together.wait, 30)
            await anyio.lowlevel.checkpoint()
            for n in range(20):
                journal.emit(ready(n))
            together.set()
        for n in (2, 22):  # the second one with the backlog full
            with pytest.raises(JournalError, match="No space left on device; free some space"):
                await journal.commit(intent(n))
        await wait_for_trouble(journal, 1)
        assert troubles(heard) == ["disk-full"]
        await journal.call(
            setattr, disk, "trouble", lambda _call, _path: None
        )  # not in the middle of a write
        await wait_for_trouble(journal, 2)
        await journal.commit(intent(3))
    found = list(replay(tmp_path))
    kept = [record.event for record in others(found)]
    assert kept == [intent(1), *(ready(n) for n in range(10)), intent(3)]
    told = [record.event for record in found if isinstance(record.event, JournalTrouble)]
    assert [(trouble.what, trouble.lost) for trouble in told] == [("disk-full", 0), ("disk-full", 12)]
    assert others(found) == others(heard)
    assert [record.sequence for record in found] == list(range(1, len(found) + 1))
    assert len(segments(tmp_path)) == 2  # the attempts in between left no empty segments


async def test_a_disk_that_fails_now_and_then_does_not_fill_itself_with_trouble(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        for n in range(50):
            disk.trouble = once("fsync", -errno.EIO)
            await journal.commit(intent(n))
    found = list(replay(tmp_path))
    assert [record.event for record in others(found)] == [intent(n) for n in range(50)]
    assert troubles(found) == ["fsync-failed"]


async def test_a_new_segment_that_cannot_be_made_is_an_outage_too(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with open_journal(tmp_path, disk=disk, segment=1) as journal:
        await journal.commit(intent(1))
        for call, answer, name in (("open", -errno.EMFILE, "journal-"), ("fsync", -errno.EIO, tmp_path.name)):
            disk.trouble = always(call, answer, name)
            with pytest.raises(JournalError):
                await journal.commit(intent(2))
        disk.trouble = lambda _call, _path: None
        await journal.commit(intent(3))
    found = list(replay(tmp_path))
    assert [record.event for record in others(found)] == [intent(1), intent(3)]
    assert troubles(found) == ["write-failed", "fsync-failed", "write-failed"]


# --- a disk that is really full --------------------------------------------------------------------------------------


class Room:
    """A place of limited size: a tmpfs where we may mount one, else a disk that counts."""

    def __init__(self, path: Path, *, mounted: bool) -> None:
        self.path, self.mounted = path, mounted
        self.disk: Disk = Disk() if mounted else SmallDisk(250_000)
        self._ballast = path / "ballast"

    def make_space(self) -> None:
        if isinstance(self.disk, SmallDisk):
            self.disk.room = 10_000_000
        self._ballast.unlink()

    def fill_half(self) -> None:
        self._ballast.write_bytes(bytes(250_000))


def _mount(path: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", path]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(params=["mounted if we may", "counting"])
def room(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Room]:
    path = tmp_path / "small"
    path.mkdir()
    mounted = request.param != "counting" and _mount(path)
    try:
        yield Room(path, mounted=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", path], check=True)


async def test_a_full_disk_does_not_end_the_run(room: Room) -> None:
    room.fill_half()
    run_dir = room.path / "run"
    durable: list[Record] = []
    async with open_journal(run_dir, disk=room.disk) as journal:
        heard = follow(journal)
        text = "x" * 10_000

        async def fill() -> None:
            for n in range(100):
                durable.append(  # noqa: PERF401  # what came before the error counts
                    await journal.commit(FaultIntent(episode=text, fault="f", type="t", n=n))
                )

        with pytest.raises(JournalError, match="cannot make a record durable"):
            await fill()
        assert 10 < len(durable) < 60
        assert set(troubles(heard)) & {"disk-full", "short-write"}
        journal.emit(ready(1))
        room.make_space()
        durable.append(await journal.commit(intent(101)))
    found = list(replay(run_dir))
    assert [record for record in found if isinstance(record.event, FaultIntent)] == durable
    assert [record.event for record in others(found)][-2:] == [ready(1), intent(101)]
    assert troubles(found) == troubles(heard)
    assert [record.sequence for record in found] == list(range(1, len(found) + 1))


LIMITED = """
import resource, sys
from pathlib import Path
import anyio
from supervisor.journal.base import JournalError
from supervisor.journal.events import FaultIntent
from supervisor.journal.writer import open_journal

async def main():
    async with open_journal(Path(sys.argv[1])) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        for n in range(100):
            record = await journal.commit(FaultIntent(episode="x" * 1000, fault="f", type="t", n=n))
            print(record.sequence, flush=True)
        print(*{trouble.what for trouble in journal.trouble})

anyio.run(main)
"""


def test_a_real_short_write_loses_nothing(tmp_path: Path) -> None:
    """The kernel takes a part of the line that crosses the limit on a file's size, as it does when a disk fills up."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], check=True, capture_output=True, text=True, timeout=90
    )
    *acknowledged, what = done.stdout.split("\n")[:-1]
    assert what == "short-write"
    found = list(replay(tmp_path))
    assert [record.event.n for record in found if isinstance(record.event, FaultIntent)] == list(range(100))
    assert {int(sequence) for sequence in acknowledged} <= {record.sequence for record in others(found)}
    assert troubles(found) == ["short-write"]


async def test_a_journal_that_somebody_removes_is_noticed_and_goes_on_in_a_new_segment(
    tmp_path: Path,
) -> None:
    async with open_journal(tmp_path) as journal:
        await journal.commit(ready(1))
        (tmp_path / "journal-0001.jsonl").unlink()
        await journal.commit(ready(2))
    assert [trouble.what for trouble in journal.trouble] == ["write-failed"]
    kept = list(replay(tmp_path))
    assert [record.event for record in others(kept)] == [ready(2)]
    assert "torn" in troubles(kept), "what is gone is told"
