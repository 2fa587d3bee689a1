from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from supervisor.journal import writer
from supervisor.journal.base import JournalError
from supervisor.journal.events import FaultIntent, JournalTrouble, OpenEvent, Record, TaskCrashed, UnitReady
from supervisor.journal.replay import replay
from supervisor.journal.segments import Disk
from supervisor.journal.thread import WriterThread
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter, open_journal


def ready(n: int) -> UnitReady:
    return UnitReady(unit="a", incarnation="1", took=n)


def intent(n: int = 1) -> FaultIntent:
    return FaultIntent(episode=f"f#{n}", fault="f", type="restart", n=n)


class CountingDisk(Disk):
    """Counts what a spinning disk would feel."""

    def __init__(self) -> None:
        self.writes = self.syncs = 0

    def write(self, descriptor: int, data: bytes) -> int:
        self.writes += 1
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.syncs += 1
        super().fsync(descriptor)


async def test_what_is_emitted_and_committed_is_replayed_as_listeners_heard_it(tmp_path: Path) -> None:
    heard: list[Record] = []
    async with open_journal(tmp_path) as journal:
        journal.subscribe(heard.append)
        for n in range(100):
            journal.emit(ready(n))
        committed = await journal.commit(intent())
        assert heard[-1] == committed
        journal.emit(ready(101))
    assert [record.sequence for record in heard] == list(range(1, 103))
    assert [record.mono for record in heard] == sorted(record.mono for record in heard)
    assert list(replay(tmp_path)) == heard


async def test_the_timeline_knows_an_episode_before_its_commit_returns(journal: JournalWriter) -> None:
    timeline = Timeline()
    journal.subscribe(timeline.apply)
    await journal.commit(intent())
    assert timeline.marks() == ("f#1:direct",)


async def test_many_commits_at_once_share_their_syncs(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        await journal.commit(intent())
        disk.syncs, all_there = 0, threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(journal.call, all_there.wait, 30)
            for n in range(1000):
                group.start_soon(journal.commit, intent(n))
            await anyio.lowlevel.checkpoint()
            all_there.set()
        assert disk.syncs < 20


async def test_what_nobody_waits_for_is_synced_soon_and_only_once(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        await journal.commit(intent())
        before = disk.syncs
        journal.emit(ready(1))
        await journal.call(lambda: None)
        with anyio.fail_after(30):
            while journal._thread._appender.unsynced_since is not None:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.02)
        await journal.call(lambda: None)  # the writer's own turn, once it is back from the disk
        assert disk.syncs == before + 1
        assert journal._thread._appender.unsynced_since is None
        assert journal._thread._patience() is None


async def test_an_emitted_event_of_a_durable_kind_is_synced_at_once(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with open_journal(tmp_path, disk=disk) as journal:
        journal.emit(intent())
        await journal.call(lambda: None)
        assert journal._thread._appender.unsynced_since is None


async def test_a_journal_is_gone_on_with_in_a_new_segment(tmp_path: Path) -> None:
    for n in range(3):
        async with open_journal(tmp_path) as journal:
            record = await journal.commit(intent(n))
            assert record.sequence == n + 1
    async with open_journal(tmp_path):
        pass  # who writes nothing leaves nothing
    found = list(replay(tmp_path))
    assert [record.event for record in found] == [intent(n) for n in range(3)]


async def test_only_one_writes_a_journal(journal: JournalWriter) -> None:
    with pytest.raises(JournalError, match=r"cannot keep a journal in .*run: another soakd writes to it"):
        async with open_journal(journal.run_dir):
            pytest.fail("two wrote it")


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        JournalError, match=r"cannot keep a journal in .*file/run: .*Not a directory.*; choose another"
    ):
        async with open_journal(tmp_path / "file" / "run"):
            pytest.fail("it was written")


async def test_too_many_records_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE", 10)
    heard: list[Record] = []
    async with open_journal(tmp_path) as journal:
        journal.subscribe(heard.append)
        busy = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(journal.call, busy.wait, 30)
            await anyio.lowlevel.checkpoint()
            for n in range(25):
                journal.emit(ready(n))
            assert heard == []
            busy.set()
        await journal.commit(intent())
    found = [record.event for record in replay(tmp_path)]
    assert [event for event in found if isinstance(event, UnitReady)] == [ready(n) for n in range(10)]
    (trouble,) = [event for event in found if isinstance(event, JournalTrouble)]
    assert (trouble.what, trouble.lost) == ("dropped", 15)
    assert journal.trouble == (trouble,)


async def test_a_listener_that_raises_is_taken_off_and_put_on_record(journal: JournalWriter) -> None:
    heard: list[Record] = []

    def broken(record: Record) -> None:
        raise ZeroDivisionError(record.sequence)

    journal.subscribe(broken)
    journal.subscribe(heard.append)
    await journal.commit(intent())
    await journal.commit(intent())
    crashes = [record.event for record in heard if isinstance(record.event, TaskCrashed)]
    assert [(crash.error, crash.gave_up) for crash in crashes] == [("ZeroDivisionError: 1", True)]
    assert crashes[0].task.endswith("broken")


async def test_a_listener_that_left_hears_nothing_more(journal: JournalWriter) -> None:
    heard: list[Record] = []
    unsubscribe = journal.subscribe(heard.append)
    await journal.commit(intent())
    unsubscribe()
    unsubscribe()
    await journal.commit(intent())
    assert len(heard) == 1


async def test_calls_run_in_the_thread_in_their_turn_and_raise_where_they_were_made(
    journal: JournalWriter,
) -> None:
    journal.emit(ready(1))
    name, text = await journal.call(
        lambda: (threading.current_thread().name, (journal.run_dir / "journal-0001.jsonl").read_text())
    )
    assert name == "soakd-journal"
    assert '"unit.ready"' in text
    with pytest.raises(ZeroDivisionError):
        await journal.call(lambda: 1 // 0)
    assert await journal.call(int, "12") == 12


async def test_a_commit_that_nobody_waits_for_any_more_does_no_harm(journal: JournalWriter) -> None:
    heard: list[Record] = []
    journal.subscribe(heard.append)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.commit(intent())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.call(pytest.fail, "a call was made that nobody waits for")
    await journal.commit(intent(2))
    assert [record.event for record in heard] == [intent(1), intent(2)]


async def test_a_disk_that_does_not_answer_refuses_a_commit_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    class StuckDisk(Disk):
        def fsync(self, descriptor: int) -> None:
            answer.wait(30)
            super().fsync(descriptor)

    monkeypatch.setattr(writer, "COMMIT_TIMEOUT", 0.05)
    monkeypatch.setattr(writer, "CLOSE_TIMEOUT", 0.05)
    async with open_journal(tmp_path, disk=StuckDisk()) as journal:
        with pytest.raises(JournalError, match="has not answered for"):
            await journal.commit(intent())
        journal.emit(ready(1))
    answer.set()


async def test_what_is_no_json_is_refused_where_it_is_emitted(journal: JournalWriter) -> None:
    with pytest.raises(TypeError):
        journal.emit(OpenEvent(name="x", data={"a": object()}))
    with pytest.raises(TypeError):
        await journal.commit(OpenEvent(name="x", data={"a": object()}))
    await journal.commit(intent())
    assert [record.event for record in replay(journal.run_dir)] == [intent()]


async def test_after_the_close_nothing_is_promised(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as journal:
        pass
    journal.emit(ready(1))
    with pytest.raises(JournalError, match=r"cannot record fault.intent: the journal in .* is closed"):
        await journal.commit(intent())
    with pytest.raises(JournalError, match=r"cannot write .*a.json: the journal in .* is closed"):
        await journal.write_file("a.json", b"")


async def test_files_and_logs_lie_in_the_run_directory(journal: JournalWriter) -> None:
    path = await journal.write_file("units/nats1/crash.log", b"Traceback")
    assert path == journal.run_dir / "units" / "nats1" / "crash.log"
    assert path.read_bytes() == b"Traceback"
    log = journal.log("units/nats1/mon.log", max_bytes=10, keep=1)
    assert journal.log("units/nats1/mon.log") is log
    for n in range(3):
        log.write(b"line %d\n" % n)
        await journal.call(lambda: None)
    assert sorted(os.listdir(path.parent)) == ["crash.log", "mon.log", "mon.log.1"]  # noqa: PTH208  # names are all that is wanted
    assert (path.parent / "mon.log").read_bytes() == b"line 2\n"


async def test_a_file_that_cannot_be_written_is_an_error(journal: JournalWriter) -> None:
    (journal.run_dir / "taken").mkdir()
    with pytest.raises(JournalError, match=r"cannot write .*taken: Is a directory"):
        await journal.write_file("taken", b"")
    with pytest.raises(JournalError, match=r"cannot make .*nowhere durable: No such file"):
        await journal.sync_file("nowhere")


async def test_a_file_and_its_name_are_made_durable(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await journal.write_file("a.log", b"words", sync=False)
    synced = list[str]()

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  # no file of a disk

    monkeypatch.setattr(os, "fsync", sync)
    await journal.sync_file("a.log")
    assert sorted(synced) == [str(journal.run_dir), str(path)]


async def test_a_thread_that_dies_is_told_and_refuses_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Record] = []
    async with open_journal(tmp_path) as journal:
        journal.subscribe(heard.append)
        await journal.commit(intent())

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(WriterThread, "_write", broken)
        journal.emit(ready(1))
        for _ in range(2):
            with pytest.raises(
                JournalError, match="cannot write: the journal's thread died: ZeroDivisionError"
            ):
                await journal.commit(intent(2))
            with pytest.raises(JournalError, match="the journal's thread died"):
                await journal.call(lambda: None)
        journal.log("a.log").write(b"lost")
    assert [trouble.what for trouble in journal.trouble] == ["write-failed"]
    assert heard[-1].event == journal.trouble[0]
    assert [record.event for record in replay(tmp_path)] == [intent()]
