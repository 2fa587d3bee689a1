"""Units that an operator takes over: held down or up, nobody's target, and given back. On real processes."""

from __future__ import annotations

import pytest
from scripted_fault import Open, Script, Stage, fault, free_and_up, until

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired
from supervisor.faults import recovery
from supervisor.faults.operator import Operator, Refused
from supervisor.faults.stop import Stop
from supervisor.journal.events import (
    Cause,
    EpisodeClosed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Target,
    UnitExited,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

SLEEP = "exec sleep 1000"


def stop_both() -> Stop:
    return Stop.model_validate({"stop": ["a", "b"], "hold": "50ms", "every": "1h"})


async def test_a_unit_that_is_held_is_nobodys_target_and_is_given_back(stage: Stage, opened: Open) -> None:
    async with opened(a=SLEEP, b=SLEEP) as fleet, stage.running(gone=stop_both()) as scheduler:
        operator = Operator(scheduler)
        answer = await operator.hold("local/a")
        assert answer["episode"] == "operator#1"
        status = fleet.status("a")
        assert (status.holder, status.desired, status.observed.state) == ("operator#1", "up", UnitState.UP)
        assert operator.overview()["held"] == [
            {"unit": "a", "by": "operator#1", "desired": "up", "state": "up"}
        ]
        with pytest.raises(Refused, match="held already, by operator#1"):
            await operator.hold("a")
        await operator.inject("gone")
        intent = await stage.watch.until(FaultIntent, fault="gone@operator")
        assert [target.unit for target in intent.targets] == ["b"], "the fault leaves it alone"
        await stage.watch.until(EpisodeClosed, episode="gone@operator#1")
        with pytest.raises(Refused, match="not in an operator's hands: nobody holds it"):
            await operator.release("b")
        await operator.release("a")
        assert free_and_up(fleet)
        with pytest.raises(Refused, match="cannot find the unit c"):
            await operator.release("c")


async def test_a_unit_that_is_held_down_is_started_when_it_is_given_back(stage: Stage, opened: Open) -> None:
    async with opened(a=SLEEP) as fleet, stage.running() as scheduler:
        operator = Operator(scheduler)
        await operator.hold("a", "down")
        status = fleet.status("a")
        assert (status.desired, status.observed.state) == (Desired.DOWN, UnitState.DOWN)
        gone = await stage.watch.until(UnitExited, unit="a")
        assert (gone.cause, gone.by) == (Cause.OPERATOR, "operator#1")
        await operator.release("a")
        assert free_and_up(fleet)
        await operator.hold("a", "down")
    assert [e.episode for e in stage.watch.all(FaultUndone)] == ["operator#1", "operator#2"]


async def test_a_unit_that_is_down_can_be_brought_up_and_stays_up(stage: Stage, opened: Open) -> None:
    async with opened(a=SLEEP) as fleet, stage.running() as scheduler:
        operator = Operator(scheduler)
        await fleet.kill("a", by="x#1", signal=9)
        await until(lambda: fleet.status("a").observed.state is UnitState.DOWN)
        await operator.hold("a")
        assert fleet.status("a").desired is Desired.DOWN, "it is held as it is"
        await operator.release("a")
        assert fleet.status("a").observed.state is UnitState.DOWN, "nobody asked for its start"
        await operator.hold("a", "up")
        assert fleet.status("a").observed.state is UnitState.UP
        await operator.release("a")
        assert free_and_up(fleet)


async def test_what_an_episode_holds_is_not_the_operators(stage: Stage, opened: Open) -> None:
    stop = Stop.model_validate({"stop": ["a"], "hold": "1h", "every": "0s", "times": 1})
    async with opened(a=SLEEP) as fleet, stage.running(gone=stop) as scheduler:
        operator = Operator(scheduler)
        await stage.watch.until(FaultInjected)
        with pytest.raises(Refused, match="a is held down by gone#1"):
            await operator.hold("a")
        with pytest.raises(Refused, match="held down by gone#1"):
            await operator.release("a")
        await operator.abort()
        await stage.watch.until(EpisodeClosed)
        assert free_and_up(fleet)


async def test_a_hold_that_a_dead_run_left_is_undone_by_recovery(stage: Stage, opened: Open) -> None:
    async with opened(a=SLEEP) as fleet:
        intent = FaultIntent(
            episode="operator#1",
            fault="operator",
            type="unit_hold",
            n=1,
            targets=(Target(unit="a"),),
            undo={"was": "up", "as": "down"},
        )
        by_hand = FaultIntent(episode="a@operator#1", fault="a@operator", type="scripted", n=1)
        await stage.journal.commit(intent)
        await stage.journal.commit(by_hand)
        await fleet.stop("a", by="operator#1")
        script = Script()
        lines = await recovery.undo_open(
            {one.episode: one for one in (intent, by_hand)}, {"a": fault(script)}, stage.world, stage.journal
        )
        assert lines == [
            "operator#1: undone (unit_hold of a)",
            "a@operator#1: undone (scripted of the system)",
        ]
        assert script.asked == ["undo a@operator#1"]
        assert free_and_up(fleet)
