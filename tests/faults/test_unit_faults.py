"""stop, kill, crash_loop and pause on real processes, beside a real watchdog."""

from __future__ import annotations

import signal
import sys
from typing import Any

import anyio
import psutil
import pytest
from pydantic import ValidationError
from real_units import IDLE, kind, process, stands_still, watched
from scripted_fault import PATIENCE, Open, Stage, cut, free_and_up, incarnations, until

from supervisor.engines.base import UnitState
from supervisor.faults.base import World
from supervisor.faults.hold import HOLD, terms
from supervisor.faults.recovery import undo_open
from supervisor.journal.events import (
    Cause,
    EpisodeClosed,
    FaultInjected,
    FaultIntent,
    Target,
    UnitCrashed,
    UnitExited,
    UnitRestarted,
    UnitStarted,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

TICKING = (
    "echo >> $SOAKD_UNIT_DIR/ticks; echo up; while :; do echo >> $SOAKD_UNIT_DIR/ticks; sleep 0.02; done"
)


def episode_kinds(stage: Stage, episode: str = "a#1") -> list[str]:
    return [event.kind for event in stage.watch.events if getattr(event, "episode", None) == episode]


# --- stop --------------------------------------------------------------------------------------------------------------


async def test_a_stopped_unit_stays_down_for_as_long_as_it_is_held(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet, watched(stage, "n1", "n2"):
        before = incarnations(fleet)
        async with stage.running(a=kind(stop=["n1", "n2"], hold="300ms", signal="USR1")):
            closed = await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
        assert not set(before.values()) & set(incarnations(fleet).values())
    times = {record.event.kind: record.mono for record in stage.watch.records}
    again = [record.mono for record in stage.watch.records if isinstance(record.event, UnitStarted)][-2:]
    assert min(again) - times["fault.injected"] >= 0.25
    assert closed.truncated == ""
    assert not stage.watch.all(UnitRestarted)
    ends = stage.watch.all(UnitExited, cause=Cause.EPISODE)
    assert {(event.by, event.signal) for event in ends} == {("a#1", "SIGUSR1")}


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
        opened(n1={"command": ["sh", "-c", TICKING], "files": {"x": ""}, "ready": {"log": "up"}}) as fleet,
        watched(stage, "n1"),
    ):
        before, ticks = incarnations(fleet), stage.journal.run_dir / "units" / "n1" / "ticks"  # type: ignore[attr-defined]
        async with stage.running(a=kind(pause="n1", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            # A shell that waits for a child to become its command (vfork) while that one is frozen stands still, too: in the kernel.
            assert process(fleet, "n1").status() in {psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP}
            assert fleet.status("n1").observed.state is UnitState.PAUSED
            cut(scheduler, "a")
            closed = await stage.watch.until(EpisodeClosed)
        assert incarnations(fleet) == before
        assert free_and_up(fleet)
        grown = ticks.stat().st_size
        await until(lambda: ticks.stat().st_size > grown)
    assert closed.truncated == ""


async def test_a_unit_that_ends_while_it_is_frozen_cuts_the_episode_short(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE) as fleet, watched(stage, "n1"):
        async with stage.running(a=kind(pause="n1", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            process(fleet, "n1").kill()
            gone = await stage.watch.until(UnitExited)
            cut(scheduler, "a")
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
        assert not any(stands_still(fleet, unit) for unit in fleet.ids)


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
            assert stands_still(fleet, "n1")
            assert fleet.status("n1").observed.state is UnitState.UP, "nobody has looked"
            assert await scheduler.finish(5) == ()
        assert not stands_still(fleet, "n1")
        assert free_and_up(fleet)


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
        assert not stands_still(fleet, "n1")
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


async def test_recovery_ends_who_may_be_on_its_way_out(stage: Stage, opened: Open) -> None:
    """What a signal has begun cannot be called back: a unit that lives on as it was aimed at may go when nobody looks any more."""
    faults = {
        "stop": kind(stop="n1", hold="1h"),
        "restart": kind(restart="n2"),
        "lame-duck": kind(kill="n3", signal="USR2"),
        "term": kind(kill="n4", signal="TERM"),
        "reload": kind(kill="n5", signal="HUP"),
        "other-life": kind(kill="n6", signal="TERM"),
        "pause": kind(pause="n7", hold="1h"),
        "operator": HOLD,
    }
    units = [f"n{number}" for number in range(1, 9)]
    async with opened(**dict.fromkeys(units, IDLE)) as fleet:
        before = incarnations(fleet)
        intents = {
            f"{name}#1": FaultIntent(
                episode=f"{name}#1",
                fault=name,
                type=fault.key,
                n=1,
                targets=(Target(unit=unit, incarnation="1:2" if name == "other-life" else before[unit]),),
                undo=terms(UnitState.UP, "down") if fault is HOLD else {},
            )
            for unit, (name, fault) in zip(units, faults.items(), strict=True)
        }
        await undo_open(intents, faults, World(fleet), stage.journal)
        after = incarnations(fleet)
        assert free_and_up(fleet)
    assert [unit for unit in units if before[unit] == after[unit]] == ["n5", "n6", "n7"]
