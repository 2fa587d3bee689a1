"""rolling_restart on real processes: one after the other, each once the one before it is ready."""

from __future__ import annotations

import signal

import pytest
from real_units import IDLE, kind, watched
from scripted_fault import PATIENCE, Open, Stage, free_and_up, incarnations, until

from supervisor.engines.fleet import Desired
from supervisor.faults import units
from supervisor.journal.events import (
    EpisodeClosed,
    FaultFailed,
    FaultIntent,
    UnitExited,
    UnitReady,
    UnitRestarted,
)


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
    stage: Stage, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "HURRY", 0.2)
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
