"""How episodes end: the system recovers or does not, the run finishes, is cancelled or goes on after a crash."""

from __future__ import annotations

import random

import anyio
import pytest
from scripted_fault import (
    Open,
    Script,
    Scripted,
    Stage,
    cut,
    fault,
    hang,
    life,
    to_its_end,
    until,
)

from supervisor.faults import episode as episodes
from supervisor.faults.base import Aim
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.events import (
    EpisodeClosed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Target,
    UndoFailed,
)

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_time_to_recover_does_not_count_while_another_fault_is_in_place(stage: Stage) -> None:
    """The system is not steady while `long` is in place, and `short` is not to blame."""
    stage.system.steady, long_is_there = anyio.Event(), anyio.Event()

    async def begin(_: FaultIntent) -> None:
        await anyio.lowlevel.checkpoint()
        long_is_there.set()

    async def follow(_: FaultIntent) -> None:
        await long_is_there.wait()

    async def mend(_: FaultIntent) -> None:
        await anyio.lowlevel.checkpoint()
        stage.system.steady.set()

    short, long = Script(inject=follow), Script(inject=begin, undo=mend)
    async with stage.running(
        short=fault(short, recovery_timeout="200ms"), long=fault(long, hold="1h")
    ) as scheduler:
        await until(lambda: stage.system.failed)  # the time that it has is over
        assert not stage.watch.all(EpisodeClosed)
        cut(scheduler, "long")
        closed = await stage.watch.until(EpisodeClosed, episode="short#1")
    assert closed.recovered is True
    assert closed.recovery is not None
    assert closed.recovery >= 0.15


async def test_a_system_that_does_not_recover_is_said_so(stage: Stage) -> None:
    stage.system.steady = anyio.Event()
    async with stage.running(a=fault(Script(), recovery_timeout="30ms")):
        closed = await stage.watch.until(EpisodeClosed)
    assert (closed.recovered, closed.recovery) == (False, None)
    assert closed.failing == ("unit nats1 up",)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_finish_cuts_a_hold_short_and_sees_the_system_recover(stage: Stage) -> None:
    async with stage.running(a=fault(Script(), hold="1h"), b=fault(Script(), every="1h")) as scheduler:
        await stage.watch.until(FaultInjected)
        assert await scheduler.finish(10) == ()
    assert life(stage, "a#1") == ["fault.intent", "fault.injected", "fault.undone", "episode.closed"]
    assert stage.watch.all(EpisodeClosed)[0].recovered is True
    assert not stage.watch.all(FaultIntent, fault="b")


async def test_finish_cuts_an_inject_short_and_undoes_it(stage: Stage) -> None:
    async with stage.running(a=fault(Script(inject=hang))) as scheduler:
        await stage.watch.until(FaultIntent)
        assert await scheduler.finish(10) == ()
    assert life(stage, "a#1") == ["fault.intent", "fault.undone", "episode.closed"]


async def test_finish_does_not_call_a_system_sick_that_had_no_time(stage: Stage) -> None:
    stage.system.steady = anyio.Event()
    async with stage.running(a=fault(Script())) as scheduler:
        await stage.watch.until(FaultUndone)
        await scheduler.finish(0.05)
    assert stage.watch.all(EpisodeClosed)[0].recovered is None


async def test_undo_has_some_seconds_even_if_the_run_has_none_left(stage: Stage) -> None:
    async def slow(_: FaultIntent) -> None:
        await anyio.sleep(0.1)

    async with stage.running(a=fault(Script(undo=slow), hold="1h")) as scheduler:
        await stage.watch.until(FaultInjected)
        assert await scheduler.finish(0) == ()
    assert stage.watch.all(FaultUndone)
    assert stage.watch.all(EpisodeClosed)[0].recovered is None


async def test_an_undo_that_hangs_does_not_keep_the_run_from_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "LEAST", 0.5)
    hanging, other = Script(undo=hang), fault(Script(), hold="1h")
    async with stage.running(a=fault(hanging, hold="1h"), b=other) as scheduler:
        await stage.watch.until(FaultInjected, 2)
        assert await scheduler.finish(0.05) == ("a#1",)
        hanging.undo = Script().undo
    assert stage.watch.all(UndoFailed, episode="a#1", error="it was cut off")
    assert stage.watch.all(FaultUndone, episode="b#1")
    assert len(stage.watch.all(EpisodeClosed)) == 2


async def test_a_cancelled_run_undoes_and_closes_what_is_open(stage: Stage) -> None:
    script = Script()
    scheduler = Scheduler(
        {"a": fault(script, hold="1h")}, stage.world, stage.journal, stage.system, 7, 0.0, lambda: True
    )
    async with anyio.create_task_group() as group:
        group.start_soon(scheduler.run)
        await stage.watch.until(FaultInjected)
        group.cancel_scope.cancel()
    assert life(stage, "a#1") == ["fault.intent", "fault.injected", "fault.undone", "episode.closed"]
    assert stage.watch.all(EpisodeClosed)[0].recovered is None


async def test_a_scheduler_that_crashed_goes_on_where_it_was(stage: Stage) -> None:
    """What is open when a part of it raises is undone; run again, it neither repeats a draw nor leaves one out."""
    script = Script()

    class Crash(Exception):  # noqa: N818
        pass

    async def crash(timeout: float) -> tuple[bool, tuple[str, ...]]:
        raise Crash

    wait, stage.system.wait = stage.system.wait, crash  # type: ignore[method-assign]  # it breaks once
    faults = {"a": fault(script, every="0s", times=3), "b": fault(Script(), hold="10ms", at=["0s", "10ms"])}
    scheduler = Scheduler(faults, stage.world, stage.journal, stage.system, 7, 0.0, lambda: True)
    with pytest.raises(ExceptionGroup):
        await scheduler.run()
    stage.system.wait = wait  # type: ignore[method-assign]  # and is mended
    await to_its_end(scheduler, 1)
    assert script.asked == [f"{step} a#{n}" for n in (1, 2, 3) for step in ("inject", "undo")]
    assert [intent.n for intent in stage.watch.all(FaultIntent, fault="b")] == [1, 2]
    assert len(stage.watch.all(EpisodeClosed)) == 5


async def test_a_target_that_was_replaced_before_inject_was_over_is_not_what_was_aimed_at(
    stage: Stage, opened: Open
) -> None:
    async with opened(a="exec sleep 1000") as fleet:

        async def aim(_: random.Random) -> Aim:
            await anyio.lowlevel.checkpoint()
            return Aim((Target(unit="a", incarnation=fleet.status("a").observed.incarnation),))

        async def replace(_: FaultIntent) -> None:
            await fleet.stop("a", by="outside")
            await fleet.start("a", by="outside")

        one = Scripted.model_validate(
            {"scripted": Script(aim=aim, inject=replace), "hold": "1ms", "every": "0s", "times": 1}
        )
        async with stage.running(a=one):
            closed = await stage.watch.until(EpisodeClosed)
    assert closed.truncated == "a was replaced between aim and the end of inject"
