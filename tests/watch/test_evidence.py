"""The evidence of a crash: whole and bounded, or the truth about what is missing, and never a unit that stays down for want of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from watched import FAILING, IDLE, PATIENCE, QUICK, STAMP, Watch, python

from supervisor.engines.output import stamp
from supervisor.journal.base import JournalError, Listener, Log
from supervisor.journal.events import (
    Event,
    JournalTrouble,
    Record,
    UnitCrashed,
    UnitGivenUp,
    UnitReady,
    UnitRestarted,
)
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter
from supervisor.watch import evidence
from supervisor.watch.crashes import parse

# --- what cannot be kept ---------------------------------------------------------------------------------------------


class Troubled:
    """A journal in front of the real one, some of whose calls fail."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self.write: Callable[[], Any] | None = None
        self.record: Callable[[], Any] | None = None
        self.sync: Callable[[], Any] | None = None

    def emit(self, event: Event) -> None:
        self._journal.emit(event)

    async def commit(self, event: Event) -> Record:
        if self.record:
            await self.record()
        return await self._journal.commit(event)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._journal.subscribe(listener)

    async def write_file(self, name: str, data: bytes, *, sync: bool = True) -> Path:
        if self.write:
            await self.write()
        return await self._journal.write_file(name, data, sync=sync)

    async def sync_file(self, name: str) -> None:
        if self.sync:
            await self.sync()
        await self._journal.sync_file(name)

    def log(self, name: str, *, max_bytes: int = 10_000_000, keep: int = 3) -> Log:
        return self._journal.log(name, max_bytes=max_bytes, keep=keep)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._journal.call(function, *args)


async def refuse() -> None:
    raise JournalError("no space left on the device")


@pytest.mark.parametrize("trouble", [refuse, anyio.sleep_forever])
async def test_without_a_crash_file_it_is_restarted_all_the_same(
    watch: Watch, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[], Any]
) -> None:
    monkeypatch.setattr(evidence, "WRITING", 0.2)
    troubled = Troubled(journal)
    troubled.write = trouble
    async with watch({"a": FAILING}, through=troubled, backoff=QUICK, intensity="1 / 10m") as watched:
        await watched.see(UnitGivenUp)
        assert [(c.captured, c.file) for c in watched.all(UnitCrashed)] == [(False, None)] * 2
        assert len(watched.all(UnitRestarted)) == 1


async def test_a_crash_that_cannot_be_made_durable_is_told_all_the_same(
    watch: Watch, journal: JournalWriter
) -> None:
    troubled = Troubled(journal)
    troubled.record = refuse
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await watched.see(UnitRestarted)
        (crash,) = watched.all(UnitCrashed)
        assert not crash.captured
        assert crash.file == watched.crash_files("a")[0].name


async def test_a_disk_that_does_not_answer_makes_the_verdict_inconclusive(
    watch: Watch, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "RECORDING", 0.3)
    troubled = Troubled(journal)
    troubled.record = anyio.sleep_forever
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await watched.see(UnitRestarted)
        (trouble,) = watched.all(JournalTrouble)
        assert trouble.detail == "a crash of a was not on disk in time; it is restarted all the same"


async def test_a_crash_file_that_cannot_be_made_durable_is_told(watch: Watch, journal: JournalWriter) -> None:
    """Its record may stand by then, and says that it is there: so the verdict is made inconclusive otherwise."""
    troubled = Troubled(journal)
    troubled.sync = refuse
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await watched.see(UnitRestarted)
        (trouble,) = watched.all(JournalTrouble)
        assert (trouble.what, trouble.detail) == ("fsync-failed", "no space left on the device")


@pytest.mark.parametrize("missing", ["record", "sync"])
async def test_nothing_is_started_before_both_file_and_record_are_durable(
    watch: Watch, journal: JournalWriter, missing: str
) -> None:
    troubled, waiting, free = Troubled(journal), anyio.Event(), anyio.Event()

    async def wait() -> None:
        waiting.set()
        await free.wait()

    setattr(troubled, missing, wait)
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await waiting.wait()
        if missing == "sync":
            await watched.see(UnitCrashed)
        await journal.commit(UnitReady(unit="b", incarnation="b", took=0))
        assert not watched.up("a")
        assert len(watched.crash_files("a")) == 1
        free.set()
        await watched.see(UnitRestarted)
        assert watched.up("a")
        assert watched.all(JournalTrouble) == []


async def test_a_log_that_cannot_be_read_leaves_the_rest_of_the_evidence(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watch({"a": IDLE}) as watched:

        async def logs(unit: str, **_: Any) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(watched.fleet, "logs", logs)
        watched.kill("a")
        await watched.see(UnitRestarted)
        (crash,) = watched.all(UnitCrashed)
        assert not crash.captured
        read = parse(watched.crash_files("a")[0].read_bytes())
        assert read
        assert read[0]["note"] == "cannot read the log: [Errno 5] Input/output error"
        assert read[0]["lines"] == "0"


async def test_last_words_that_are_read_after_the_end_was_seen_are_not_blamed_on_the_next_life(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine sees the end of a process first, and stamps its last output later."""
    words = list[bytes]()

    async def logs(unit: str, **_: Any) -> bytes:
        if not words:
            words.append(stamp(time.time()) + b"ValueError: no\n")
            await anyio.sleep(0.002)  # times are told to the millisecond
        return words[0]

    silent = {"a": ["sh", "-c", "exit 7"]}
    async with watch(silent, keep=False, backoff=QUICK, intensity="1 / 10m") as watched:
        monkeypatch.setattr(watched.fleet, "logs", logs)
        watched.group.start_soon(watched.watchdog.watch, "a", watched.context)
        await watched.see(UnitGivenUp)
        assert [crash.signature for crash in watched.all(UnitCrashed)] == ["ValueError: no", "exit code 7"]


async def test_a_crash_is_on_record_although_the_run_is_being_stopped(
    watch: Watch, journal: JournalWriter
) -> None:
    troubled = Troubled(journal)
    busy, free = anyio.Event(), anyio.Event()

    async def wait() -> None:
        busy.set()
        await free.wait()

    troubled.write = wait
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await busy.wait()
        watched.group.cancel_scope.cancel()
        free.set()
    crashes = [record.event for record in replay(journal.run_dir) if isinstance(record.event, UnitCrashed)]
    assert [crash.captured for crash in crashes] == [True]


# --- bounds ------------------------------------------------------------------------------------------------------------


async def test_the_first_and_the_last_crash_files_stay(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "FIRST_KEPT", 2)
    monkeypatch.setattr(evidence, "LAST_KEPT", 3)
    async with watch({"a": FAILING}, backoff=QUICK, intensity="8 / 10m") as watched:
        await watched.see(UnitGivenUp)
        crashes = watched.all(UnitCrashed)
        assert len(crashes) == 9  # every one is counted
        wanted = [crash.file for crash in (*crashes[:2], *crashes[-3:])]
        with anyio.fail_after(PATIENCE):
            while [path.name for path in watched.crash_files("a")] != wanted:  # noqa: ASYNC110  # files tell nobody
                await anyio.sleep(0.01)


async def test_a_crash_file_is_bounded_in_lines_and_bytes(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "TAIL_BYTES", 1000)
    lines = python("for n in range(500): print('line', n)\nprint('x' * 300)\nraise SystemExit(1)")
    bytes_ = python("for n in range(500): print('y' * 99)\nraise SystemExit(1)")
    async with watch({"lines": lines, "bytes": bytes_}, log_tail=20, restart="temporary") as watched:
        await watched.see(UnitCrashed, 2)
        read = parse(watched.crash_files("lines")[0].read_bytes())
        assert read
        assert read[0]["lines"] == "20"
        assert re.fullmatch(STAMP + b"line 481", read[1].splitlines()[0])
        read = parse(watched.crash_files("bytes")[0].read_bytes())
        assert read
        assert read[0]["lines"] == "7"
        assert re.fullmatch((STAMP + b"y" * 99 + b"\n") * 7, read[1])
