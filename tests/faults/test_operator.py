"""What an operator does by hand, on real processes where units are meant."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
from scripted_fault import PATIENCE, Script, Scripted, Stage, cut, fail, until

from supervisor.faults.base import Aim, CannotAim
from supervisor.faults.limits import Bounds, Limits
from supervisor.faults.nemesis import Nemesis
from supervisor.faults.operator import Operator, Refused
from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    OperatorActed,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

SLEEP = "exec sleep 1000"


def fault(script: Script, **keys: Any) -> Scripted:
    return Scripted.model_validate({"scripted": script, **({"every": "1h"} | keys)})


async def test_a_fault_that_is_injected_by_hand_is_an_episode_of_its_own(stage: Stage) -> None:
    script = Script(units=("nats1",))
    async with stage.running(a=fault(script, hold="20ms")) as scheduler:
        operator = Operator(scheduler)
        answer = await operator.inject("a")
        assert (answer["episode"], answer["targets"]) == ("a@operator#1", ["nats1"])
        await stage.watch.until(EpisodeClosed, episode="a@operator#1", recovered=True)
        await operator.inject("a")
        await stage.watch.until(EpisodeClosed, episode="a@operator#2")
        assert operator.overview()["faults"][0]["by_hand"] == 2
        assert operator.overview()["faults"][0]["episodes"] == 0, "the fault's own draws are none the fewer"
    assert [event.fault for event in stage.watch.all(FaultIntent)] == ["a@operator", "a@operator"]
    assert [event.what for event in stage.watch.all(OperatorActed, action="inject")] == ["a", "a"]
    assert scheduler.by_hand == {}


async def test_a_draw_waits_for_what_was_injected_by_hand(stage: Stage) -> None:
    waiting, stuck = Script(), Script(undo=fail)
    async with stage.running(
        waiting=fault(waiting, every="1ms", hold="1h"), stuck=fault(stuck, every="1ms")
    ) as scheduler:
        operator = Operator(scheduler)
        scheduler.gate.close()
        await operator.inject("waiting")
        await operator.inject("stuck")
        scheduler.gate.open()
        skipped = await stage.watch.until(DrawSkipped, fault="stuck")
        assert skipped.reason == "stuck@operator#1 could not be undone: mend that first"
        assert waiting.asked == ["inject waiting@operator#1"]
        await operator.abort()
        await stage.watch.until(FaultInjected, episode="waiting#1")
        stuck.undo = Script().undo
    assert waiting.asked[:3] == ["inject waiting@operator#1", "undo waiting@operator#1", "inject waiting#1"]


async def test_what_was_injected_by_hand_is_undone_before_its_fault_changes(stage: Stage) -> None:
    script, stuck = Script(), Script(undo=fail)
    faults = {"a": fault(script, hold="1h"), "b": fault(stuck, hold="1h"), "c": fault(Script(), hold="1h")}
    async with stage.running(**faults) as scheduler:
        operator = Operator(scheduler)
        for name in faults:
            await operator.inject(name)
        assert await scheduler.retire({name: faults[name] for name in "bc"}) == ()
        assert script.asked == ["inject a@operator#1", "undo a@operator#1"]
        assert await scheduler.retire({"c": faults["c"]}) == ("b@operator#1",)
        assert not stage.watch.all(FaultUndone, episode="c@operator#1"), "that one stays as it is"
        stuck.undo = Script().undo


async def test_what_cannot_be_injected_is_refused_with_the_reason(stage: Stage) -> None:
    async def nobody(_: Any) -> Aim:
        raise CannotAim("nobody is there")

    slow, other = Script(units=("nats1",)), Script(units=("nats1", "nats2"))
    faults = {
        "slow": fault(slow, hold="1h"),
        "other": fault(other),
        "nobody": fault(Script(aim=nobody)),
        "bad": fault(Script(inject=fail)),
    }
    async with stage.running(**faults) as scheduler:
        operator = Operator(scheduler)
        with pytest.raises(Refused, match=r"no fault slwo, did you mean slow\?"):
            await operator.inject("slwo")
        with pytest.raises(Refused, match="nobody is there"):
            await operator.inject("nobody")
        with pytest.raises(Refused, match="undone: RuntimeError: the tool said no"):
            await operator.inject("bad")
        await operator.inject("slow")
        with pytest.raises(Refused, match=r"slow@operator#1 is still open \(holding\)"):
            await operator.inject("slow")
        with pytest.raises(Refused, match="slow@operator#1 has the same units"):
            await operator.inject("other")
        stage.guardian = False
        with pytest.raises(Refused, match="guardian"):
            await operator.inject("bad")
    with pytest.raises(Refused, match="ending"):
        await operator.inject("other")
    assert slow.asked == ["inject slow@operator#1", "undo slow@operator#1"], "the end undoes it"
    assert other.asked == []


class Slow:
    """A fault whose aim, and inject, last until the test lets them go on."""

    def __init__(self) -> None:
        self.aiming, self.go = anyio.Event(), anyio.Event()
        self.script = Script(aim=self._aim)

    async def _aim(self, _: Any) -> Aim:
        self.aiming.set()
        await self.go.wait()
        return Aim(())


async def refused(stage: Stage, operator: Operator, why: list[str]) -> None:
    del stage
    with pytest.raises(Refused) as refusal:
        await operator.inject("a")
    why.append(str(refusal.value))


@pytest.mark.parametrize("act", ["abort", "pause"])
async def test_what_is_only_aimed_at_is_not_begun_after_an_abort_or_a_pause(stage: Stage, act: str) -> None:
    slow, why = Slow(), list[str]()
    async with stage.running(a=fault(slow.script)) as scheduler, anyio.create_task_group() as group:
        operator = Operator(scheduler)
        group.start_soon(refused, stage, operator, why)
        await slow.aiming.wait()
        answer = await (operator.abort() if act == "abort" else operator.pause())
        assert answer["undone"] == ["a was not injected"]
        slow.go.set()
    assert why == ["a was not injected: an operator paused or aborted the faults meanwhile"]
    assert slow.script.asked == []
    assert (
        scheduler.scene.claims.take_now(
            "x", Bounds(Limits.model_validate({})).demand(fault(Script()), Aim(()))
        )
        is None
    )


async def test_a_pause_while_it_is_injected_undoes_it_and_says_so(stage: Stage) -> None:
    why = list[str]()

    async def hang(_: FaultIntent) -> None:
        await anyio.sleep_forever()

    script = Script(inject=hang)
    async with stage.running(a=fault(script, hold="1h")) as scheduler, anyio.create_task_group() as group:
        operator = Operator(scheduler)
        group.start_soon(refused, stage, operator, why)
        await until(lambda: script.asked)
        assert (await operator.pause())["undone"] == ["a@operator#1 is undone"]
    assert why == ["a@operator#1 was cut short: an operator paused the faults"]


async def test_two_by_hand_at_once_are_one_and_a_refusal(stage: Stage) -> None:
    slow, why = Slow(), list[str]()
    async with stage.running(a=fault(slow.script, hold="1h")) as scheduler:
        operator = Operator(scheduler)
        async with anyio.create_task_group() as group:
            group.start_soon(operator.inject, "a")
            await slow.aiming.wait()
            group.start_soon(refused, stage, operator, why)
            await anyio.wait_all_tasks_blocked()
            slow.go.set()
        assert slow.script.asked == ["inject a@operator#1"]
    assert why[0].startswith("a@operator#1 is still open")


async def test_a_draw_that_came_while_one_by_hand_was_aimed_goes_first(stage: Stage) -> None:
    slow, why, first = Slow(), list[str](), True

    async def aim(rng: Any) -> Aim:
        nonlocal first
        if first:
            first = False
            return await slow._aim(rng)
        return Aim(())

    script = Script(aim=aim)
    async with stage.running(a=fault(script, every="1ms", hold="1h")) as scheduler:
        operator = Operator(scheduler)
        scheduler.gate.close()  # draws wait
        async with anyio.create_task_group() as group:
            group.start_soon(refused, stage, operator, why)
            await slow.aiming.wait()
            scheduler.gate.open()
            await stage.watch.until(FaultInjected, episode="a#1")
            slow.go.set()
    assert why[0].startswith("a#1 is still open")
    assert script.asked == ["inject a#1", "undo a#1"]


async def test_what_is_aimed_by_hand_while_its_fault_goes_is_not_begun(stage: Stage) -> None:
    """Recovery reads the soak file as it is in use: it would not know how to undo it."""
    slow, why = Slow(), list[str]()
    async with stage.running(a=fault(slow.script, hold="1h")) as scheduler:
        operator = Operator(scheduler)
        async with anyio.create_task_group() as group:
            group.start_soon(refused, stage, operator, why)
            await slow.aiming.wait()
            assert await scheduler.retire({}) == ()
            slow.go.set()
        scheduler.adopt({}, None, scheduler.scene.claims.bounds)
    assert why == ["the soak file is being changed, and a with it: try again"]
    assert slow.script.asked == []


@pytest.mark.parametrize("overlap", [False, True])
async def test_a_nemesis_is_paused_aborted_and_goes_on(
    stage: Stage, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.faults.lines.SKIP_PAUSE", 0.02)  # some draws find their fault still open
    stage.nemesis = Nemesis.model_validate({"of": ["a", "b"], "every": "1ms", "overlap": overlap})
    scripts = {"a": Script(units=("n1",)), "b": Script(units=("n2",))}
    faults = {name: Scripted.model_validate({"scripted": one, "hold": "1h"}) for name, one in scripts.items()}
    open_at_once = 2 if overlap else 1
    async with stage.running(**faults) as scheduler:
        operator = Operator(scheduler)
        with anyio.fail_after(PATIENCE):
            await stage.watch.until(FaultInjected, open_at_once)
            await operator.abort()
            await stage.watch.until(FaultInjected, 2 * open_at_once)
            await operator.pause()
            assert len(stage.watch.all(FaultUndone)) == 2 * open_at_once
            await anyio.sleep(0.1)
            assert len(stage.watch.all(FaultIntent)) == 2 * open_at_once, (
                "nothing is drawn while it is paused"
            )
            await operator.resume()
            await stage.watch.until(FaultInjected, 3 * open_at_once)
    cut = [event.truncated for event in stage.watch.all(EpisodeClosed)]
    assert cut.count("an operator aborted it") == cut.count("an operator paused the faults") == open_at_once
    assert len(stage.watch.all(FaultUndone)) == 3 * open_at_once


async def test_a_pause_undoes_what_is_open_and_keeps_draws_waiting(stage: Stage) -> None:
    script = Script()
    async with stage.running(a=fault(script, every="5ms", hold="1h")) as scheduler:
        operator = Operator(scheduler)
        await stage.watch.until(FaultInjected, episode="a#1")
        answer = await operator.pause()
        assert answer["undone"] == ["a#1 is undone"]
        closed = await stage.watch.until(EpisodeClosed, episode="a#1", recovered=True)
        assert closed.truncated == "an operator paused the faults"
        await anyio.sleep(0.1)
        assert operator.overview()["paused"] is None
        assert len(stage.watch.all(FaultIntent)) == 1, "nothing came while they were paused"
        await operator.inject("a")  # but what is asked for by hand
        await operator.abort()
        await stage.watch.until(EpisodeClosed, episode="a@operator#1")
        await operator.resume()
        await stage.watch.until(FaultIntent, episode="a#2")
        with pytest.raises(Refused, match="not paused"):
            await operator.resume()
    assert [e.action for e in stage.watch.all(OperatorActed)] == ["pause", "inject", "abort", "resume"]


async def test_a_pause_for_a_while_lets_open_episodes_finish_and_ends_by_itself(stage: Stage) -> None:
    async with stage.running(a=fault(Script(), every="5ms", hold="1h")) as scheduler:
        operator = Operator(scheduler)
        await stage.watch.until(FaultInjected, episode="a#1")
        asked = time.monotonic()
        assert (await operator.pause(0.3, finish=True))["undone"] == []
        cut(scheduler, "a")
        closed = await stage.watch.until(EpisodeClosed, episode="a#1")
        assert closed.truncated == ""
        await stage.watch.until(FaultIntent, episode="a#2")
    assert [r.mono for r in stage.watch.records if isinstance(r.event, FaultIntent)][1] >= asked + 0.3
    assert [e.seconds for e in stage.watch.all(OperatorActed)] == [0.3]


async def test_abort_undoes_all_that_is_open_and_lets_the_next_come(stage: Stage) -> None:
    async def hang(_: FaultIntent) -> None:
        await anyio.sleep_forever()

    one, two = Script(units=("nats1",)), Script(inject=hang)
    faults = {"one": fault(one, every="10ms", hold="1h"), "two": fault(two, every="0s", times=1)}
    async with stage.running(**faults) as scheduler:
        operator = Operator(scheduler)
        await stage.watch.until(FaultInjected, episode="one#1")
        await stage.watch.until(FaultIntent, episode="two#1")
        assert sorted((await operator.abort())["undone"]) == ["one#1 is undone", "two#1 is undone"]
        await stage.watch.until(FaultIntent, episode="one#2")
