"""stop, kill, crash_loop, pause, rolling_restart on real processes, beside a real watchdog."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from pydantic import ValidationError
from scripted_fault import PATIENCE, Open, Stage, free_and_up, incarnations, until

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired, Fleet
from supervisor.faults import recovery
from supervisor.faults.base import Fault, World
from supervisor.faults.recovery import undo_open
from supervisor.faults.registry import FAULTS
from supervisor.journal.events import (
    Cause,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Target,
    UndoFailed,
    UnitCrashed,
    UnitExited,
    UnitReady,
    UnitRestarted,
    UnitStarted,
)
from supervisor.journal.timeline import Timeline
from supervisor.watch.watchdog import WatchContext, Watchdog

IDLE = "exec sleep 1000"
TICKING = "while :; do echo >> $SOAKD_UNIT_DIR/ticks; sleep 0.02; done"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE", 0.02)


def kind(**keys: Any) -> Fault:
    """A fault of whatever kind, once and at once."""
    return FAULTS.find(keys, Path())[0].model_validate({"every": "0s", "times": 1, **keys})


@asynccontextmanager
async def watched(stage: Stage, *units: str) -> AsyncIterator[None]:
    """A watchdog on these units."""
    assert stage.fleet
    timeline = Timeline()
    stage.journal.subscribe(timeline.apply)
    if not units:
        yield
        return
    dog = Watchdog.model_validate({"units": list(units), "restart": "permanent"})
    context = WatchContext(stage.fleet, stage.journal, timeline)
    for unit in units:
        dog.enlist(unit, stage.fleet)
    async with anyio.create_task_group() as group:
        for unit in units:
            group.start_soon(dog.watch, unit, context)
        yield
        group.cancel_scope.cancel()


def episode_kinds(stage: Stage, episode: str = "a#1") -> list[str]:
    return [event.kind for event in stage.watch.events if getattr(event, "episode", None) == episode]


def process(fleet: Fleet, unit: str) -> psutil.Process:
    pid = fleet.status(unit).observed.pid
    assert pid
    return psutil.Process(pid)


# --- stop --------------------------------------------------------------------------------------------------------------


async def test_a_stopped_unit_stays_down_for_as_long_as_it_is_held(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet, watched(stage, "n1", "n2"):
        before = incarnations(fleet)
        async with stage.running(a=kind(stop=["n1", "n2"], hold="300ms")):
            await stage.watch.until(FaultInjected)
            assert {fleet.status(unit).desired for unit in fleet.ids} == {Desired.DOWN}
            closed = await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
        assert not set(before.values()) & set(incarnations(fleet).values())
    times = {record.event.kind: record.mono for record in stage.watch.records}
    assert times["fault.undone"] - times["fault.injected"] >= 0.25
    assert closed.truncated == ""
    assert not stage.watch.all(UnitRestarted)
    assert {event.by for event in stage.watch.all(UnitExited, cause=Cause.EPISODE)} == {"a#1"}


async def test_a_stop_that_is_cut_short_brings_all_back(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE) as fleet:
        async with stage.running(a=kind(stop="n1", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await scheduler.finish(PATIENCE) == ()
        assert free_and_up(fleet)


# --- kill --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGKILL", "TERM", 14])
async def test_a_killed_unit_is_its_watchdogs(stage: Stage, opened: Open, number: str | int) -> None:
    async with opened(n1=IDLE) as fleet, watched(stage, "n1"):
        async with stage.running(a=kind(kill="n1", signal=number)):
            await stage.watch.until(UnitRestarted, unit="n1")
            await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
    assert next((e.cause, e.by) for e in stage.watch.all(UnitExited, unit="n1")) == (Cause.EPISODE, "a#1")
    assert not stage.watch.all(UnitCrashed)
    assert not stage.watch.all(UnitStarted, by="a#1")


async def test_a_killed_unit_without_a_watchdog_is_started_by_undo(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet:
        async with stage.running(a=kind(kill=["n1", "n2"], signal="TERM")):
            await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
    assert len(stage.watch.all(UnitStarted, by="a#1")) == 2


async def test_a_signal_that_ends_nothing_leaves_the_unit_as_it_is(stage: Stage, opened: Open) -> None:
    # No shell: dash ignores a signal that comes while it starts a program by vfork.
    told = "import signal, time; signal.signal(signal.SIGHUP, lambda *_: print('told', flush=True))"
    unit = {
        "command": [sys.executable, "-c", f"{told}; print('up', flush=True); time.sleep(600)"],
        "ready": {"log": "up"},
    }
    async with opened(n1=unit) as fleet:
        before = incarnations(fleet)
        async with stage.running(a=kind(kill="n1", signal="HUP")):
            await stage.watch.until(EpisodeClosed)
        log = stage.journal.run_dir / "units" / "n1" / "output.log"  # type: ignore[attr-defined]
        await until(lambda: b"told" in log.read_bytes())
        assert incarnations(fleet) == before


@pytest.mark.parametrize("number", ["SIGSTOP", "TSTP"])
def test_a_signal_that_freezes_is_refused(number: str) -> None:
    with pytest.raises(ValidationError, match="use pause instead"):
        kind(kill="n1", signal=number)


# --- crash_loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_crash_loop_kills_as_often_as_it_says(stage: Stage, opened: Open, guarded: bool) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet, watched(stage, *(["n1", "n2"] if guarded else ())):
        async with stage.running(a=kind(crash_loop=["n1", "n2"], crashes=3, uptime="20ms")):
            await stage.watch.until(EpisodeClosed)
            await until(lambda: free_and_up(fleet))
            restarts = 6 if guarded else 0  # told after it is up
            await until(lambda: len(stage.watch.all(UnitRestarted)) == restarts)
        for unit in ("n1", "n2"):
            assert [e.by for e in stage.watch.all(UnitExited, unit=unit)] == ["a#1"] * 3
            assert len(stage.watch.all(UnitRestarted, unit=unit)) == (3 if guarded else 0)
    assert episode_kinds(stage) == ["fault.intent", "fault.injected", "fault.undone", "episode.closed"]
    assert not stage.watch.all(UnitCrashed)


def test_a_crash_loop_that_cannot_be_over_in_time_is_refused() -> None:
    with pytest.raises(ValidationError, match="inject_timeout: 10 crashes take more than 9m"):
        kind(crash_loop="n1", crashes=10, uptime="1m")


# --- pause -------------------------------------------------------------------------------------------------------------


async def test_a_paused_unit_stands_still_and_goes_on_as_the_same(stage: Stage, opened: Open) -> None:
    async with (
        opened(n1={"command": ["sh", "-c", TICKING], "files": {"x": ""}}) as fleet,
        watched(stage, "n1"),
    ):
        before, ticks = incarnations(fleet), stage.journal.run_dir / "units" / "n1" / "ticks"  # type: ignore[attr-defined]
        async with stage.running(a=kind(pause="n1", hold="200ms")):
            await stage.watch.until(FaultInjected)
            assert process(fleet, "n1").status() == psutil.STATUS_STOPPED
            assert fleet.status("n1").observed.state is UnitState.PAUSED
            closed = await stage.watch.until(EpisodeClosed)
        assert incarnations(fleet) == before
        assert free_and_up(fleet)
        grown = ticks.stat().st_size
        await until(lambda: ticks.stat().st_size > grown)
    assert closed.truncated == ""


async def test_a_unit_that_ends_while_it_is_frozen_cuts_the_episode_short(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE) as fleet, watched(stage, "n1"):
        async with stage.running(a=kind(pause="n1", hold="300ms")):
            await stage.watch.until(FaultInjected)
            process(fleet, "n1").kill()
            gone = await stage.watch.until(UnitExited)
            closed = await stage.watch.until(EpisodeClosed)
            await stage.watch.until(UnitRestarted)
        assert free_and_up(fleet)
    assert gone.cause is Cause.CRASH
    assert closed.truncated == "n1 was paused when inject ended and was down before undo"
    order = [event.kind for event in stage.watch.events]
    assert order.index("fault.undone") < order.index("unit.restarted")


async def test_an_end_in_the_middle_of_a_pause_lets_all_go_on(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet:
        async with stage.running(a=kind(pause=["n1", "n2"], hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await scheduler.finish(PATIENCE) == ()
        assert free_and_up(fleet)
        assert all(process(fleet, unit).status() != psutil.STATUS_STOPPED for unit in fleet.ids)


async def test_half_a_pause_is_undone(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet:
        fault = kind(pause=["n1", "n2"], hold="1h")
        intent = FaultIntent(
            episode="a#1", fault="a", type="pause", n=1, targets=(Target(unit="n1"), Target(unit="n2"))
        )
        await fleet.kill("n2", by="run", signal=signal.SIGKILL)
        await stage.watch.until(UnitExited)
        with pytest.raises(Exception, match="n2 is not running"):
            await fault.inject(stage.world, intent)
        assert fleet.status("n1").observed.state is UnitState.PAUSED
        await fault.undo(stage.world, intent)
        await fault.undo(stage.world, intent)
        assert [fleet.status(u).observed.state for u in ("n1", "n2")] == [UnitState.UP, UnitState.DOWN]
        assert [fleet.status(u).holder for u in ("n1", "n2")] == [None, None]


async def test_a_pause_that_is_cut_off_before_anybody_has_seen_it_is_undone(
    stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = anyio.Event()
    async with opened(n1=IDLE) as fleet:
        engine: Any = fleet.place("n1")[0]
        freeze = engine.pause

        async def pause(unit: str) -> None:
            await freeze(unit)
            frozen.set()
            await anyio.sleep_forever()

        monkeypatch.setattr(engine, "pause", pause)
        async with stage.running(a=kind(pause="n1", hold="1h")) as scheduler:
            await frozen.wait()
            assert process(fleet, "n1").status() == psutil.STATUS_STOPPED
            assert fleet.status("n1").observed.state is UnitState.UP, "nobody has looked"
            assert await scheduler.finish(5) == ()
        assert process(fleet, "n1").status() != psutil.STATUS_STOPPED
        assert free_and_up(fleet)


# --- rolling_restart ---------------------------------------------------------------------------------------------------


async def test_one_unit_after_the_other_is_restarted(stage: Stage, opened: Open) -> None:
    unit = {"command": ["sh", "-c", "sleep 0.05; echo up; exec sleep 1000"], "ready": {"log": "up"}}
    async with opened(n1=unit, n2=unit, n3=unit) as fleet, watched(stage, "n1", "n2", "n3"):
        before = incarnations(fleet)
        async with stage.running(a=kind(rolling_restart=["n1", "n2", "n3"], pause_between="50ms")):
            await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
        assert not set(before.values()) & set(incarnations(fleet).values())
    begun = next(i for i, event in enumerate(stage.watch.events) if isinstance(event, FaultIntent))
    steps = [e for e in stage.watch.records[begun:] if isinstance(e.event, UnitExited | UnitReady)]
    assert [(e.event.kind, e.event.unit) for e in steps] == [  # type: ignore[attr-defined]
        (what, unit) for unit in ("n1", "n2", "n3") for what in ("unit.exited", "unit.ready")
    ]
    assert steps[2].mono - steps[1].mono >= 0.045
    assert not stage.watch.all(UnitRestarted)


async def test_a_rollout_ends_where_a_unit_does_not_come_back(stage: Stage, opened: Open) -> None:
    once = "test -e been && exit 3; touch been; echo up; exec sleep 1000"
    unit = {"command": ["sh", "-c", once], "ready": {"log": "up"}, "files": {"x": ""}}
    async with opened(n1=unit, n2=IDLE) as fleet:
        before = incarnations(fleet)
        async with stage.running(a=kind(rolling_restart=["n1", "n2"])):
            failed = await stage.watch.until(FaultFailed)
            await stage.watch.until(EpisodeClosed)
        assert incarnations(fleet)["n2"] == before["n2"]
    assert "cannot see n1 become ready" in failed.error


async def test_a_rollout_that_is_cut_short_brings_back_what_it_had_in_hand(
    stage: Stage, opened: Open
) -> None:
    slow = {
        "command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"],
        "ready": {"log": "up"},
    }
    async with opened(n1={**slow, "stop_timeout": "60s"}, n2=IDLE) as fleet:
        before = incarnations(fleet)
        async with stage.running(a=kind(rolling_restart=["n1", "n2"])) as scheduler:
            await stage.watch.until(FaultIntent)
            await until(lambda: fleet.status("n1").desired is Desired.DOWN)
            assert await scheduler.finish(PATIENCE) == ()
        assert free_and_up(fleet)
        assert incarnations(fleet)["n2"] == before["n2"]
        await fleet.kill("n1", by="run", signal=signal.SIGKILL)


# --- what all of them keep to ------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"restart": "n1"},
    {"stop": "n1", "hold": "1s"},
    {"kill": "n1"},
    {"crash_loop": "n1"},
    {"pause": "n1", "hold": "1s"},
    {"rolling_restart": "n1"},
]


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: next(iter(keys)))
async def test_undo_is_harmless_where_inject_never_ran(
    stage: Stage, opened: Open, keys: dict[str, Any]
) -> None:
    fault = kind(**keys)
    async with opened(n1=IDLE) as fleet:
        before = incarnations(fleet)
        intent = FaultIntent(
            episode="a#1", fault="a", type=fault.key, n=1, targets=(Target(unit="n1"), Target(unit="gone"))
        )
        await fault.undo(stage.world, intent)
        await fault.undo(stage.world, intent)
        assert incarnations(fleet) == before
        assert free_and_up(fleet)


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: next(iter(keys)))
@pytest.mark.parametrize("up", [False, True])
async def test_recovery_has_the_unit_up_however_it_was_left(
    stage: Stage, opened: Open, keys: dict[str, Any], up: bool
) -> None:
    """As after the death of a run whose units outlive it."""
    fault = kind(**keys)
    frozen = fault.key == "pause"
    async with opened(start=up or frozen, n1=IDLE) as fleet:
        if frozen and not up:
            await fleet.pause("n1", by="run")
        intent = FaultIntent(episode="a#1", fault="a", type=fault.key, n=1, targets=(Target(unit="n1"),))
        lines = await undo_open({"a#1": intent}, {"a": fault}, World(fleet), stage.journal)
        assert free_and_up(fleet)
        assert process(fleet, "n1").status() != psutil.STATUS_STOPPED
    assert lines == [f"a#1: undone ({fault.key} of n1)"]


@pytest.mark.parametrize("key", ["stop", "pause"])
def test_what_lasts_needs_a_hold(key: str) -> None:
    with pytest.raises(ValidationError, match=r"hold\n.*required"):
        kind(**{key: "n1"})
    with pytest.raises(ValidationError, match=r"greater than 0"):
        kind(**{key: "n1"}, hold="0s")


@pytest.mark.parametrize("key", ["restart", "kill", "crash_loop", "rolling_restart"])
def test_what_is_over_at_once_has_none(key: str) -> None:
    with pytest.raises(ValidationError, match="leave hold out"):
        kind(**{key: "n1"}, hold="1s")


# --- command -----------------------------------------------------------------------------------------------------------


async def test_a_command_injects_and_another_one_undoes(stage: Stage, opened: Open, tmp_path: Path) -> None:
    stage.base = tmp_path
    inject = ["sh", "-c", 'echo "$SOAKD_UNITS $WHAT" > "$SOAKD_EPISODE"']
    undo = ["sh", "-c", 'rm -f "$SOAKD_EPISODE"']
    async with opened(n1=IDLE):
        fault = kind(command=inject, undo=undo, units="n1", env={"WHAT": "slow"}, hold="1h")
        async with stage.running(a=fault) as scheduler:
            intent = await stage.watch.until(FaultIntent)
            await stage.watch.until(FaultInjected)
            assert (tmp_path / "a#1").read_text() == "n1 slow\n"
            assert await scheduler.finish(PATIENCE) == ()
        assert not (tmp_path / "a#1").exists()
        await fault.undo(stage.world, intent)
    assert [target.unit for target in intent.targets] == ["n1"]


async def test_a_command_that_fails_is_undone_and_tells_its_last_words(stage: Stage, tmp_path: Path) -> None:
    stage.base = tmp_path
    fault = kind(command=["sh", "-c", "touch half; echo no such table; exit 4"], undo="rm -f half")
    async with stage.running(a=fault):
        failed = await stage.watch.until(FaultFailed)
        await stage.watch.until(EpisodeClosed)
    assert "ended with exit 4: no such table" in failed.error
    assert not (tmp_path / "half").exists()


async def test_an_undo_command_that_fails_says_how_to_mend_it(stage: Stage, tmp_path: Path) -> None:
    stage.base = tmp_path
    (tmp_path / "heal").write_text("exit 3")
    async with stage.running(a=kind(command="true", undo="sh heal --all")):
        failed = await stage.watch.until(UndoFailed)
        (tmp_path / "heal").write_text("exit 0")
        await stage.watch.until(FaultUndone)
    assert failed.broken.endswith("or by hand: SOAKD_EPISODE='a#1' sh heal --all")


async def test_what_is_not_to_be_undone_says_so(stage: Stage, tmp_path: Path) -> None:
    stage.base = tmp_path
    async with stage.running(a=kind(command="touch made", undo="none")):
        await stage.watch.until(EpisodeClosed)
    assert (tmp_path / "made").exists()
    with pytest.raises(ValidationError, match="undo"):
        kind(command="touch made")
    with pytest.raises(ValidationError, match="leave hold out"):
        kind(command="touch made", undo="none", hold="1s")


async def test_a_command_that_hangs_is_ended_with_its_group(stage: Stage, tmp_path: Path) -> None:
    stage.base = tmp_path
    hangs = ["sh", "-c", "sleep 3600 & echo $! > pid; wait"]
    async with stage.running(a=kind(command=hangs, undo="none", inject_timeout="300ms")):
        failed = await stage.watch.until(FaultFailed)
    assert "inject_timeout" in failed.error or "took too long" in failed.error
    assert not running(int((tmp_path / "pid").read_text()))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
