"""What becomes of units that end: evidence first, then the restart by policy, and nobody fights over them."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from pydantic import ValidationError
from watched import FAILING, IDLE, QUICK, STAMP, Watch, python

from supervisor.engines.fleet import Desired, Held
from supervisor.journal.events import (
    Cause,
    FaultIntent,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitReady,
    UnitRestarted,
    UnitStarted,
    UnitStartFailed,
)
from supervisor.watch.crashes import parse
from supervisor.watch.watchdog import Watchdog


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
    async with watch({"a": [str(program)]}, backoff=QUICK, intensity="999 / 10m") as watched:
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
    unit = {"command": ["sh", "-c", script], "ready": {"log": "here"}}
    async with watch({"a": unit}) as watched:
        units: Any = watched.fleet.place("a")[0]
        # The first life had all the time that it needs.
        units._units["a"].spec.ready.__dict__["timeout"] = 0.1
        watched.kill("a")
        await watched.mon("a", "not ready: ")
        assert len(watched.all(UnitRestarted)) == 1
        assert watched.up("a")


# --- the watchdogs themselves ----------------------------------------------------------------------------------------


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
