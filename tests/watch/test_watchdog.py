"""What becomes of units that end: evidence first, then the restart by policy, and nobody fights over them."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from pydantic import ValidationError
from watched import IDLE, QUICK, Watch, python

from supervisor.engines.fleet import Desired, Held
from supervisor.journal.base import JournalError, Listener, Log
from supervisor.journal.events import (
    Cause,
    Event,
    FaultIntent,
    JournalTrouble,
    Record,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitReady,
    UnitRestarted,
    UnitStarted,
    UnitStartFailed,
)
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter
from supervisor.watch import evidence
from supervisor.watch.crashes import parse
from supervisor.watch.watchdog import Watchdog

STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
"""What stands before each line in a crash file."""

FAILING = python("import sys; print('working', flush=True); raise ValueError('no subscription 17')")


async def test_sigkill_leaves_evidence_and_the_unit_is_up_again(watch: Watch) -> None:
    async with watch({"a": IDLE}, log_tail=5) as watched:
        killed = watched.fleet.status("a").observed
        watched.kill("a")
        (restarted,) = await watched.see(UnitRestarted)
        (crash,) = watched.all(UnitCrashed)
        assert (crash.unit, crash.incarnation, crash.code, crash.signal) == (
            "a",
            killed.incarnation,
            None,
            "SIGKILL",
        )
        assert (crash.captured, crash.consecutive, crash.episodes) == (True, 1, ())
        assert crash.signature == "SIGKILL"
        order = [type(record.event) for record in watched.records]
        assert order.index(UnitExited) < order.index(UnitCrashed) < order.index(UnitRestarted)
        assert watched.up("a")
        assert restarted.incarnation == watched.fleet.status("a").observed.incarnation != killed.incarnation
        assert (restarted.attempt, restarted.delay) == (1, 0)
        (file,) = watched.crash_files("a")
        assert crash.file == file.name
        read = parse(file.read_bytes())
        assert read
        assert read[0]["signal"] == "SIGKILL"
        assert read[0]["incarnation"] == killed.incarnation
        assert read[0]["lines"] == "1"
        assert re.fullmatch(STAMP + b"up\n", read[1])
        log = await watched.mon("a", "restarted as")
        assert "watching a: permanent, intensity 20 / 10m" in log
        assert f"crash: SIGKILL after {log.split('SIGKILL after ')[1].split(',')[0]}, 1 in a row" in log


async def test_an_exception_is_told_by_its_root_cause(watch: Watch) -> None:
    async with watch({"a": FAILING}, backoff=QUICK, intensity="1 / 10m") as watched:
        await watched.see(UnitGivenUp)
        first, second = watched.all(UnitCrashed)
        assert first.signature == second.signature == "ValueError: no subscription <n>"
        assert (first.code, first.consecutive, second.consecutive) == (1, 1, 2)
        read = parse(watched.crash_files("a")[1].read_bytes())
        assert read
        assert read[1].count(b"working") == 2  # the tail runs over restarts
        assert read[1].endswith(b"ValueError: no subscription 17\n")


async def test_a_silent_death_is_not_blamed_on_the_life_before(watch: Watch, tmp_path: Path) -> None:
    mark = tmp_path / "been here"
    source = (
        f"import os, pathlib; m = pathlib.Path({str(mark)!r})\nif m.exists(): os._exit(7)\nm.touch(); 1/0"
    )
    async with watch({"a": python(source)}, backoff=QUICK, intensity="1 / 10m") as watched:
        await watched.see(UnitGivenUp)
        assert [crash.signature for crash in watched.all(UnitCrashed)] == [
            "ZeroDivisionError: division by zero",
            "exit code 7",
        ]


async def test_a_crash_loop_is_given_up_and_the_rest_goes_on(watch: Watch) -> None:
    units = {"loop": FAILING, "steady": IDLE}
    async with watch(units, backoff=QUICK, intensity="3 / 10m") as watched:
        (given_up,) = await watched.see(UnitGivenUp)
        assert (given_up.unit, given_up.crashes, given_up.intensity) == ("loop", 4, "3 / 10m")
        assert [crash.consecutive for crash in watched.all(UnitCrashed)] == [1, 2, 3, 4]
        assert [restarted.delay > 0 for restarted in watched.all(UnitRestarted)] == [False, True, True]
        watched.kill("steady")
        await watched.see(UnitRestarted, unit="steady")
        assert not watched.up("loop")
        # Revived by somebody, it is left down again: it is given up until it was stable.
        await watched.fleet.start("loop", by="operator")
        await watched.see(UnitCrashed, 5, unit="loop")
        await watched.mon("loop", "left down")
        assert len(watched.all(UnitGivenUp)) == 1


async def test_transient_units_may_end_and_are_restarted_after_failures(watch: Watch, tmp_path: Path) -> None:
    mark = tmp_path / "been here"
    source = (
        f"import pathlib; m = pathlib.Path({str(mark)!r})\nif not m.exists(): m.touch(); raise SystemExit(3)"
    )
    async with watch({"job": python(source)}, restart="transient") as watched:
        failed, done = await watched.see(UnitExited, 2)
        assert (failed.cause, failed.code, done.cause, done.code) == (Cause.CRASH, 3, Cause.DONE, 0)
        await watched.mon("job", "left down")
        assert len(watched.all(UnitCrashed)) == len(watched.all(UnitRestarted)) == 1


async def test_what_happens_before_it_watches_is_not_missed(watch: Watch) -> None:
    units = {"job": ["sh", "-c", "exit 0"], "a": ["sh", "-c", "exit 3"]}
    async with watch(units, keep=False, restart="transient", backoff=QUICK) as watched:
        await watched.see(UnitExited, 2)
        for unit in units:
            watched.group.start_soon(watched.watchdog.watch, unit, watched.context)
        (crash, *_) = await watched.see(UnitCrashed)
        assert crash.unit == "a"
        assert "exit: exit code 0" in await watched.mon("job", "left down")


@pytest.mark.parametrize("code", [0, 3])
async def test_temporary_units_are_never_restarted(watch: Watch, code: int) -> None:
    async with watch({"job": ["sh", "-c", f"exit {code}"]}, restart="temporary") as watched:
        await watched.mon("job", "left down")
        assert len(watched.all(UnitCrashed)) == (code != 0)
        assert len(watched.all(UnitStarted)) == 1


async def test_exit_0_of_a_permanent_unit_is_a_crash(watch: Watch) -> None:
    async with watch({"a": ["sh", "-c", "exit 0"]}, backoff=QUICK, intensity="0 / 10m") as watched:
        await watched.see(UnitGivenUp)
        assert [(crash.code, crash.signature) for crash in watched.all(UnitCrashed)] == [(0, "exit code 0")]


# --- the fleet's other users -------------------------------------------------------------------------------------------


async def test_what_an_episode_killed_is_restarted_at_once_and_does_not_count(watch: Watch) -> None:
    async with watch({"a": IDLE}, intensity="0 / 10m") as watched:
        for n in (1, 2, 3):
            await watched.fleet.kill("a", by=f"kill#{n}", signal=signal.SIGKILL)
            restarted = (await watched.see(UnitRestarted, n))[-1]
            assert restarted.delay == 0
        assert not watched.all(UnitCrashed)
        assert {gone.cause for gone in watched.all(UnitExited)} == {Cause.EPISODE}


async def test_a_held_unit_stays_down_until_it_is_let_go(watch: Watch) -> None:
    async with watch({"a": IDLE, "b": IDLE}) as watched:
        fleet = watched.fleet
        await fleet.hold("a", by="stop#1", desired=Desired.DOWN)
        await fleet.stop("a", by="stop#1")
        await watched.mon("a", "held down by stop#1")
        watched.kill("b")
        await watched.see(UnitRestarted, unit="b")  # the watchdogs had their turn
        assert not watched.all(UnitRestarted, unit="a")
        with pytest.raises(Held):
            await fleet.start("a", by="watchdog")
        await fleet.release("a", by="stop#1")
        await watched.see(UnitRestarted, unit="a")
        assert watched.up("a")
        assert not watched.all(UnitCrashed, unit="a")


async def test_a_unit_that_the_episode_started_itself_is_left_alone(watch: Watch) -> None:
    async with watch({"a": IDLE}) as watched:
        await watched.fleet.hold("a", by="restart#1", desired=Desired.DOWN)
        await watched.fleet.stop("a", by="restart#1")
        await watched.mon("a", "held down by restart#1")
        await watched.fleet.hold("a", by="restart#1", desired=Desired.UP)
        await watched.fleet.start("a", by="restart#1")
        await watched.fleet.release("a", by="restart#1")
        await watched.mon("a", "up again already")
        assert not watched.all(UnitRestarted)
        assert len(watched.all(UnitStarted)) == 2


async def test_a_crash_during_a_hold_is_evidence_at_once_and_restarted_after_it(watch: Watch) -> None:
    async with watch({"a": IDLE}) as watched:
        await watched.fleet.hold("a", by="slow#1", desired=Desired.UP)
        watched.kill("a")
        await watched.see(UnitCrashed)
        await watched.mon("a", "held up by slow#1")
        assert not watched.all(UnitRestarted)
        await watched.fleet.release("a", by="slow#1")
        await watched.see(UnitRestarted)


async def test_crashes_while_a_restart_waits_are_evidence_too(watch: Watch) -> None:
    async with watch({"a": IDLE}, delay="1h", intensity="9 / 10m") as watched:
        for n in (1, 2, 3):
            watched.kill("a")
            await watched.see(UnitCrashed, n)
            await watched.fleet.start("a", by="operator")
        assert [crash.consecutive for crash in watched.all(UnitCrashed)] == [1, 2, 3]
        assert len(watched.crash_files("a")) == 3


async def test_nothing_is_restarted_once_the_run_stops_its_units(watch: Watch) -> None:
    async with watch({"a": IDLE, "b": FAILING}, delay="1h") as watched:
        await watched.see(UnitCrashed, unit="b")
        await watched.fleet.stop_all()
        await watched.mon("a", "held down by run")
        assert not watched.all(UnitRestarted)


async def test_a_crash_knows_the_open_episodes(watch: Watch) -> None:
    async with watch({"a": IDLE}) as watched:
        await watched.journal.commit(FaultIntent(episode="restart#1", fault="restart", type="restart", n=1))
        watched.kill("a")
        (crash,) = await watched.see(UnitCrashed)
        assert crash.episodes == ("restart#1:direct",)
        assert b"# open episodes: restart#1:direct\n" in watched.crash_files("a")[0].read_bytes()


async def test_ten_units_killed_in_the_same_moment(watch: Watch) -> None:
    names = [f"unit{n}" for n in range(10)]
    async with watch(dict.fromkeys(names, IDLE)) as watched:
        watched.kill(*names)
        await watched.see(UnitRestarted, 10)
        assert sorted(crash.unit for crash in watched.all(UnitCrashed)) == sorted(names)
        assert all(crash.captured for crash in watched.all(UnitCrashed))
        assert all(watched.up(name) and len(watched.crash_files(name)) == 1 for name in names)


# --- starts that fail --------------------------------------------------------------------------------------------------


async def test_a_start_that_fails_is_tried_again_and_counts(watch: Watch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    async with watch({"a": [str(program)]}, backoff=QUICK, intensity="9 / 10m") as watched:
        program.rename(tmp_path / "away")
        watched.kill("a")
        failed = await watched.see(UnitStartFailed, 3)
        assert all(failure.by == "watchdog" for failure in failed)
        (tmp_path / "away").rename(program)
        (restarted,) = await watched.see(UnitRestarted)
        assert restarted.attempt >= 4
        assert restarted.delay > 0
        assert len(watched.all(UnitCrashed)) == 1
        assert "start failed, attempt 1" in await watched.mon("a", "restarted as")


async def test_a_unit_that_cannot_be_started_is_given_up(watch: Watch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    async with watch({"a": [str(program)]}, backoff=QUICK, intensity="3 / 10m") as watched:
        program.unlink()
        watched.kill("a")
        (given_up,) = await watched.see(UnitGivenUp)
        assert given_up.crashes == 4
        assert len(watched.all(UnitStartFailed)) == 3


async def test_it_is_on_record_when_a_restarted_unit_is_ready(watch: Watch) -> None:
    unit = {"command": ["sh", "-c", "echo here I am; exec sleep 1000"], "ready": {"log": "here I am"}}
    async with watch({"a": unit}) as watched:
        watched.kill("a")
        _, ready = await watched.see(UnitReady, 2)
        assert ready.incarnation == watched.all(UnitRestarted)[0].incarnation


async def test_a_unit_that_is_never_ready_is_not_restarted_for_it(watch: Watch, tmp_path: Path) -> None:
    script = f"test -e {tmp_path}/been && exec sleep 1000; touch {tmp_path}/been; echo here; exec sleep 1000"
    unit = {"command": ["sh", "-c", script], "ready": {"log": "here", "timeout": "100ms"}}
    async with watch({"a": unit}) as watched:
        watched.kill("a")
        await watched.mon("a", "not ready: ")
        assert len(watched.all(UnitRestarted)) == 1
        assert watched.up("a")


# --- evidence that cannot be kept --------------------------------------------------------------------------------------


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "READING", 0.1)
    monkeypatch.setattr(evidence, "WRITING", 0.2)
    monkeypatch.setattr(evidence, "RECORDING", 0.3)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", [refuse, anyio.sleep_forever])
async def test_without_a_crash_file_it_is_restarted_all_the_same(
    watch: Watch, journal: JournalWriter, trouble: Callable[[], Any]
) -> None:
    troubled = Troubled(journal)
    troubled.write = trouble
    async with watch({"a": FAILING}, through=troubled, backoff=QUICK, intensity="1 / 10m") as watched:
        await watched.see(UnitGivenUp)
        assert [(c.captured, c.file) for c in watched.all(UnitCrashed)] == [(False, None)] * 2
        assert len(watched.all(UnitRestarted)) == 1


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
async def test_a_disk_that_does_not_answer_makes_the_verdict_inconclusive(
    watch: Watch, journal: JournalWriter
) -> None:
    troubled = Troubled(journal)
    troubled.record = anyio.sleep_forever
    async with watch({"a": IDLE}, through=troubled) as watched:
        watched.kill("a")
        await watched.see(UnitRestarted)
        (trouble,) = watched.all(JournalTrouble)
        assert trouble.detail == "a crash of a was not on disk in time; it is restarted all the same"


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
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
        with anyio.fail_after(10):
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


async def test_a_watchdog_that_had_to_be_restarted_itself_goes_on_where_it_was(watch: Watch) -> None:
    async with watch({"a": IDLE}, keep=False, intensity="1 / 10m") as watched:

        async def keep_up(*, task_status: TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as scope:
                task_status.started(scope)
                await watched.watchdog.watch("a", watched.context)

        await watched.fleet.hold("a", by="slow#1", desired=Desired.UP)
        first = await watched.group.start(keep_up)
        watched.kill("a")
        await watched.mon("a", "held up by slow#1")
        first.cancel()
        await watched.group.start(keep_up)
        await watched.fleet.release("a", by="slow#1")
        await watched.see(UnitRestarted)
        watched.kill("a")
        await watched.see(UnitGivenUp)  # it has not forgotten the first crash


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"units": {"of": ["a", "b"], "pick": "one"}}, "a watchdog watches all units it names"),
        ({"units": {"leader_of": "ORDERS"}}, "a watchdog watches all units it names"),
        ({"units": "a", "log_tail": 0}, "greater than or equal to 1"),
        ({"units": "a", "restart": "never"}, "permanent"),
        ({"units": "a", "nope": 1}, "Extra inputs"),
    ],
)
def test_what_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Watchdog.model_validate(entry)
