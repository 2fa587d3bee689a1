from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydantic import ValidationError
from scripted_fault import PATIENCE, Open, Stage, free_and_up, incarnations

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Desired, Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.faults import units
from supervisor.faults.base import World
from supervisor.faults.recovery import undo_open
from supervisor.faults.restart import Restart
from supervisor.journal.events import (
    Cause,
    DrawSkipped,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Target,
    UndoFailed,
    UnitExited,
    UnitStarted,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

NODES = ("n1", "n2", "n3")
IDLE = "exec sleep 1000"
STUBBORN = "trap '' TERM; echo up; sleep 1000 & while :; do wait; done"


def restart(*units: str, **keys: object) -> Restart:
    schedule = {"every": "0s", "times": 1} if not keys.keys() & {"every", "between", "at"} else {}
    return Restart.model_validate({"restart": list(units), **schedule, **keys})


async def test_all_units_are_down_together_and_run_again(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE, n3=IDLE) as fleet:
        before = incarnations(fleet)
        async with stage.running(restart_nats=restart(*NODES)):
            closed = await stage.watch.until(EpisodeClosed)
        after = incarnations(fleet)
        assert free_and_up(fleet)
    assert (closed.episode, closed.recovered, closed.truncated) == ("restart-nats#1", True, "")
    assert {t.unit: t.incarnation for t in stage.watch.all(FaultIntent)[0].targets} == before
    assert not set(before.values()) & set(after.values())
    stopped = stage.watch.all(UnitExited, cause=Cause.EPISODE, by="restart-nats#1")
    started = stage.watch.all(UnitStarted, by="restart-nats#1")
    assert {event.unit for event in stopped} == {event.unit for event in started} == set(NODES)
    events = stage.watch.events
    assert max(map(events.index, stopped)) < min(map(events.index, started))
    injected, undone = stage.watch.all(FaultInjected)[0], stage.watch.all(FaultUndone)[0]
    assert max(map(events.index, started)) < events.index(injected) < events.index(undone)


async def test_only_the_drawn_units_are_touched(stage: Stage, opened: Open) -> None:
    pick = Restart.model_validate({"restart": {"of": list(NODES), "pick": "one"}, "every": "0s", "times": 1})
    async with opened(n1=IDLE, n2=IDLE, n3=IDLE) as fleet:
        before = incarnations(fleet)
        async with stage.running(one=pick):
            await stage.watch.until(EpisodeClosed)
        after = incarnations(fleet)
    (target,) = stage.watch.all(FaultIntent)[0].targets
    assert [unit for unit in NODES if before[unit] != after[unit]] == [target.unit]


async def test_a_unit_that_dies_as_soon_as_it_runs_again_has_crashed(stage: Stage, opened: Open) -> None:
    once = "test -e been && exit 3; touch been; echo up; exec sleep 1000"
    unit = {"command": ["sh", "-c", once], "ready": {"log": "up"}, "files": {"x": ""}}
    async with opened(n1=unit), stage.running(a=restart("n1")):
        gone = await stage.watch.until(UnitExited, code=3)
        await stage.watch.until(EpisodeClosed)
    assert (gone.cause, gone.by) == (Cause.CRASH, None)


async def test_units_that_are_down_are_left_to_their_watchdog(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet:
        await fleet.kill("n2", by="watchdog", signal=9)
        await stage.watch.until(UnitExited, unit="n2")
        async with stage.running(a=restart("n1", "n2"), b=restart("n2")):
            await stage.watch.until(EpisodeClosed, episode="a#1")
            skipped = await stage.watch.until(DrawSkipped, fault="b")
        assert fleet.status("n2").observed.state is UnitState.DOWN
    assert [target.unit for target in stage.watch.all(FaultIntent)[0].targets] == ["n1"]
    assert skipped.reason == "none of n2 is up and free: n2 is down"


async def test_units_that_somebody_holds_are_left_alone(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE) as fleet:
        before = incarnations(fleet)
        await fleet.hold("n1", by="operator", desired=Desired.UP)
        async with stage.running(a=restart("n1")):
            await stage.watch.until(DrawSkipped)
        assert incarnations(fleet) == before
        assert fleet.status("n1").holder == "operator"


async def test_one_unit_that_cannot_be_had_keeps_all_as_they_are(stage: Stage, opened: Open) -> None:
    async with opened(n1=IDLE, n2=IDLE) as fleet:
        before, fault = incarnations(fleet), restart("n1", "n2")
        aim = await fault.aim(stage.world, random.Random(1))  # noqa: S311  # a draw
        await fleet.hold("n2", by="operator", desired=Desired.UP)
        intent = FaultIntent(episode="a#1", fault="a", type="restart", n=1, targets=aim.targets)
        with pytest.raises(EngineError, match="n2 is held up by operator"):
            await fault.inject(stage.world, intent)
        await fault.undo(stage.world, intent)
        assert incarnations(fleet) == before
        assert [fleet.status(unit).holder for unit in ("n1", "n2")] == [None, "operator"]


async def test_a_protected_unit_is_never_a_target(stage: Stage, opened: Open) -> None:
    unit = {"command": ["sh", "-c", IDLE], "labels": {"soakd.protect": "true"}}
    async with opened(n1=unit), stage.running(a=restart("n1")):
        assert "soakd.protect=true" in (await stage.watch.until(DrawSkipped)).reason


async def test_what_cannot_be_started_is_tried_again_and_said(
    stage: Stage, opened: Open, tmp_path: Path
) -> None:
    """Half an inject: both are stopped, one cannot start. Undo brings it back as soon as that is mended."""
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    async with opened(n1={"command": [str(program)]}, n2=IDLE) as fleet:
        program.rename(tmp_path / "elsewhere")
        async with stage.running(a=restart("n1", "n2")):
            failed = await stage.watch.until(FaultFailed)
            broken = await stage.watch.until(UndoFailed, attempt=2)
            assert fleet.status("n2").holder is None
            (tmp_path / "elsewhere").rename(program)
            await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)
    assert "n1" in failed.error
    assert broken.broken.startswith("units are still down: ")
    assert "n2" not in broken.broken


async def test_an_end_in_the_middle_of_inject_brings_all_back(
    stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "HURRY", 0.2)
    slow = {"command": ["sh", "-c", STUBBORN], "stop_timeout": "60s", "ready": {"log": "up"}}
    async with opened(n1=slow, n2=IDLE) as fleet:
        before = incarnations(fleet)
        async with stage.running(a=restart("n1", "n2")) as scheduler:
            await stage.watch.until(UnitExited, unit="n2")
            assert await scheduler.finish(PATIENCE) == ()
        assert free_and_up(fleet)
        assert incarnations(fleet)["n1"] != before["n1"]
        await fleet.kill("n1", by="run", signal=9)
    assert not stage.watch.all(FaultInjected)
    assert stage.watch.all(FaultUndone, attempts=1)


async def test_undo_is_harmless_where_inject_never_ran_and_may_be_made_twice(
    stage: Stage, opened: Open
) -> None:
    async with opened(n1=IDLE) as fleet:
        before = incarnations(fleet)
        intent = FaultIntent(
            episode="a#1", fault="a", type="restart", n=1, targets=(Target(unit="n1"), Target(unit="gone"))
        )
        await restart("n1").undo(stage.world, intent)
        await restart("n1").undo(stage.world, intent)
        assert incarnations(fleet) == before
        assert free_and_up(fleet)


def intent_of(unit: str) -> dict[str, FaultIntent]:
    return {"a#1": FaultIntent(episode="a#1", fault="a", type="restart", n=1, targets=(Target(unit=unit),))}


async def test_recovery_starts_what_the_dead_run_left_down(stage: Stage, opened: Open) -> None:
    async with opened(start=False, n1=IDLE) as fleet:
        lines = await undo_open(intent_of("n1"), {"a": restart("n1")}, stage.world, stage.journal)
        assert free_and_up(fleet)
    assert lines == ["a#1: undone (restart of n1)"]


async def test_recovery_leaves_units_alone_that_ended_with_their_run(stage: Stage) -> None:
    """The world of recovery knows only units that outlive a run; those of this engine do not."""
    assert ProcessEngine.units_outlive_run is False
    world = World(Fleet(stage.journal, {}, {}))
    lines = await undo_open(intent_of("n1"), {"a": restart("n1")}, world, stage.journal)
    assert lines == ["a#1: undone (restart of n1)"]
    assert stage.watch.all(FaultUndone, by="recover")


def test_a_hold_makes_no_sense_for_a_restart() -> None:
    with pytest.raises(ValidationError, match="leave hold out"):
        restart("n1", hold="10s")


def test_a_fault_has_one_schedule() -> None:
    with pytest.raises(ValidationError, match="found every and at"):
        restart("n1", every="1s", at=["1m"])
