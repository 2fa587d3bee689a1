"""Episodes as the scheduler plays them: their life, what fails in it, and who has to wait."""

from __future__ import annotations

import random
import time

import anyio
import pytest
from scripted_fault import PATIENCE, Script, Stage, fail, fault, hang, life

from supervisor.engines.fleet import Fleet
from supervisor.faults import recovery
from supervisor.faults.base import Aim, CannotAim, UndoError
from supervisor.journal.base import JournalError
from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    EpisodeUnheard,
    Event,
    FaultFailed,
    FaultIntent,
    FaultUndone,
    Record,
    Target,
    UndoFailed,
)
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_an_episode_lives_from_its_intent_to_its_close(stage: Stage) -> None:
    script = Script()
    async with stage.running(a=fault(script, hold="20ms")):
        closed = await stage.watch.until(EpisodeClosed)
    assert life(stage, "a#1") == ["fault.intent", "fault.injected", "fault.undone", "episode.closed"]
    assert closed.recovered is True
    assert closed.recovery is not None
    assert (closed.truncated, closed.failing) == ("", ())
    assert script.asked == ["inject a#1", "undo a#1"]
    records = {record.event.kind: record.mono for record in stage.watch.records}
    assert records["fault.undone"] - records["fault.injected"] >= 0.015


async def test_loads_that_may_know_of_an_episode_too_late_are_on_record_before_it_is_injected(
    stage: Stage,
) -> None:
    stage.deaf = ("rpc",)
    async with stage.running(a=fault(Script())):
        await stage.watch.until(EpisodeClosed)
    assert stage.watch.all(EpisodeUnheard) == [EpisodeUnheard(episode="a#1", loads=("rpc",))]
    assert life(stage, "a#1")[:3] == ["fault.intent", "episode.unheard", "fault.injected"]


async def test_the_intent_is_on_disk_before_anything_is_injected(
    stage: Stage, journal: JournalWriter
) -> None:
    on_disk: list[Event] = []

    async def look(intent: FaultIntent) -> None:
        on_disk.extend(record.event for record in await anyio.to_thread.run_sync(_replay, journal))

    async with stage.running(a=fault(Script(inject=look))):
        await stage.watch.until(EpisodeClosed)
    assert on_disk == stage.watch.all(FaultIntent)


def _replay(journal: JournalWriter) -> list[Record]:
    return list(replay(journal.run_dir))


async def test_episodes_follow_one_another_until_times(stage: Stage) -> None:
    script = Script()
    async with stage.running(a=fault(script, every="10ms", times=3)):
        await stage.watch.until(EpisodeClosed, 3)
    assert script.asked == [f"{step} a#{n}" for n in (1, 2, 3) for step in ("inject", "undo")]
    closes = [r.mono for r in stage.watch.records if isinstance(r.event, EpisodeClosed)]
    intents = [r.mono for r in stage.watch.records if isinstance(r.event, FaultIntent)]
    assert all(later - earlier >= 0.005 for earlier, later in zip(closes, intents[1:], strict=False))


async def test_the_same_seed_draws_the_same(stage: Stage) -> None:
    async with stage.running(a=fault(Script(), every="0s", times=2)):
        await stage.watch.until(EpisodeClosed, 2)
    async with stage.running(a=fault(Script(), every="0s", times=2)):
        await stage.watch.until(EpisodeClosed, 4)
    first, second, *again = [intent.undo["number"] for intent in stage.watch.all(FaultIntent)]
    assert [first, second] == again
    assert first != second


async def test_at_is_seen_from_the_start_of_the_soak(stage: Stage) -> None:
    before = time.monotonic()
    async with stage.running(a=fault(Script(), at=["120ms", "60ms"])):
        await stage.watch.until(EpisodeClosed, 2)
    intents = [r.mono - before for r in stage.watch.records if isinstance(r.event, FaultIntent)]
    assert intents[0] >= 0.055  # the loop's timers count in milliseconds
    assert intents[1] >= 0.115


async def test_an_inject_that_raises_is_undone(stage: Stage) -> None:
    script = Script(inject=fail)
    async with stage.running(a=fault(script, hold="1h")):
        await stage.watch.until(EpisodeClosed)
    assert stage.watch.all(FaultFailed)[0].error == "RuntimeError: the tool said no"
    assert life(stage, "a#1") == ["fault.intent", "fault.failed", "fault.undone", "episode.closed"]


async def test_an_inject_that_hangs_is_ended_and_undone(stage: Stage) -> None:
    async with stage.running(a=fault(Script(inject=hang), inject_timeout="20ms", hold="1h")):
        await stage.watch.until(EpisodeClosed)
    assert stage.watch.all(FaultFailed)[0].error == "it did not end within inject_timeout, 20ms"
    assert stage.watch.all(FaultUndone, episode="a#1", attempts=1)


async def test_an_undo_that_fails_is_made_again(stage: Stage) -> None:
    attempts: list[str] = []

    async def fail_twice(intent: FaultIntent) -> None:
        attempts.append(intent.episode)
        if len(attempts) < 3:
            raise UndoError("the link is still slow: run `soakd recover`")

    async with stage.running(a=fault(Script(undo=fail_twice))):
        await stage.watch.until(EpisodeClosed)
    failed = stage.watch.all(UndoFailed)
    assert [event.attempt for event in failed] == [1, 2]
    assert failed[0].broken == "the link is still slow: run `soakd recover`"
    assert stage.watch.all(FaultUndone, attempts=3)


async def test_an_undo_that_hangs_is_made_again(stage: Stage) -> None:
    attempts: list[str] = []

    async def hang_once(intent: FaultIntent) -> None:
        attempts.append(intent.episode)
        if len(attempts) < 2:
            await anyio.sleep_forever()

    async with stage.running(a=fault(Script(undo=hang_once), undo_timeout="20ms")):
        await stage.watch.until(EpisodeClosed)
    assert "undo_timeout, 20ms" in stage.watch.all(UndoFailed)[0].error
    assert stage.watch.all(FaultUndone, attempts=2)


async def test_an_undo_that_never_succeeds_stops_its_fault_and_no_other(stage: Stage) -> None:
    units = (Target(unit="nats1"),)

    async def at_nats1(_: random.Random) -> Aim:
        return Aim(units)

    broken, whole = Script(undo=fail, aim=at_nats1), Script()
    async with stage.running(
        broken=fault(broken, every="0s", times=5), whole=fault(whole, every="1ms", times=20)
    ) as scheduler:
        skipped = await stage.watch.until(DrawSkipped, fault="broken")
        await stage.watch.until(EpisodeClosed, episode="whole#20")
        assert await scheduler.finish(1) == ("broken#1",)
    assert skipped.n == 2
    assert "could not be undone" in skipped.reason
    assert len(stage.watch.all(UndoFailed)) >= 2 * recovery.ATTEMPTS  # finish tried once more
    assert "scripted may still be in place on nats1" in stage.watch.all(UndoFailed)[0].broken
    assert not stage.watch.all(FaultUndone, episode="broken#1")
    assert len(stage.watch.all(EpisodeClosed, episode="broken#1")) == 1
    assert "inject broken#2" not in broken.asked


async def test_what_could_not_be_undone_is_tried_once_more_at_the_end(stage: Stage) -> None:
    script = Script(undo=fail)
    async with stage.running(a=fault(script, every="0s", times=2)) as scheduler:
        await stage.watch.until(DrawSkipped)
        script.undo = Script().undo
        assert await scheduler.finish(5) == ()
    assert stage.watch.all(FaultUndone, episode="a#1")


async def test_nothing_is_injected_without_a_guardian(stage: Stage) -> None:
    stage.guardian, script = False, Script()
    async with stage.running(a=fault(script, every="0s", times=1)):
        assert "guardian" in (await stage.watch.until(DrawSkipped, fault="a", n=1)).reason
        await stage.watch.until(DrawSkipped, fault="a", n=2)
        assert not script.asked
        stage.guardian = True
        await stage.watch.until(EpisodeClosed)
    assert not stage.watch.all(FaultIntent, n=1)


class Failing:
    """A journal whose disk is full for intents."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self.emit, self.subscribe = journal.emit, journal.subscribe
        self.write_file, self.log = journal.write_file, journal.log
        self.run_dir = journal.run_dir

    async def commit(self, event: Event) -> Record:
        if isinstance(event, FaultIntent):
            raise JournalError("cannot record fault.intent: no space left on device")
        return await self._journal.commit(event)


async def test_nothing_is_injected_if_the_intent_cannot_be_journalled(
    stage: Stage, journal: JournalWriter
) -> None:
    stage.journal, script = Failing(journal), Script()
    async with stage.running(a=fault(script, every="0s")):
        skipped = await stage.watch.until(DrawSkipped, n=2)
    assert skipped.reason == (
        "its intent could not be journalled: JournalError: cannot record fault.intent: no space left on device"
    )
    assert not script.asked
    assert not stage.watch.all(EpisodeClosed)


async def test_a_fault_that_finds_no_target_is_skipped(stage: Stage) -> None:
    async def nobody(_: random.Random) -> Aim:
        raise CannotAim("ORDERS has no leader")

    async def crash(_: random.Random) -> Aim:
        raise KeyError("x")

    async with stage.running(
        nobody=fault(Script(aim=nobody), every="0s"), crash=fault(Script(aim=crash), every="0s")
    ):
        assert (await stage.watch.until(DrawSkipped, fault="nobody")).reason == "ORDERS has no leader"
        assert "KeyError: 'x'" in (await stage.watch.until(DrawSkipped, fault="crash")).reason
    assert not stage.watch.all(FaultIntent)


# --- overlap ---------------------------------------------------------------------------------------------------------


async def test_episodes_of_different_faults_may_overlap(stage: Stage) -> None:
    go = anyio.Event()

    async def wait(_: FaultIntent) -> None:
        await go.wait()

    async with stage.running(a=fault(Script(inject=wait)), b=fault(Script(inject=wait))):
        await stage.watch.until(FaultIntent, episode="a#1")
        await stage.watch.until(FaultIntent, episode="b#1")
        go.set()
        await stage.watch.until(EpisodeClosed, 2)


async def test_two_episodes_never_have_one_unit_at_once(stage: Stage) -> None:
    stage.fleet = Fleet(stage.journal, {}, {})
    shared = [fault(Script(units=("nats1", "nats2")), every="1ms", times=4, hold="2ms") for _ in range(3)]
    async with stage.running(a=shared[0], b=shared[1], c=shared[2]):
        await stage.watch.until(EpisodeClosed, 12)
    open_now: set[str] = set()
    for event in stage.watch.events:
        if isinstance(event, FaultIntent):
            assert not open_now
            open_now.add(event.episode)
        elif isinstance(event, EpisodeClosed):
            open_now.remove(event.episode)


async def test_who_had_to_wait_aims_again(stage: Stage) -> None:
    first, go, aimed, aims = anyio.Event(), anyio.Event(), anyio.Event(), list[str]()

    async def wait(_: FaultIntent) -> None:
        first.set()
        await go.wait()

    async def moving(_: random.Random) -> Aim:
        await first.wait()
        aims.append("nats2" if go.is_set() else "nats1")
        aimed.set()
        return Aim((Target(unit=aims[-1]),))

    async with stage.running(
        first=fault(Script(units=("nats1",), inject=wait)), second=fault(Script(aim=moving))
    ):
        await stage.watch.until(FaultIntent, episode="first#1")
        with anyio.fail_after(PATIENCE):
            await aimed.wait()
        go.set()
        intent = await stage.watch.until(FaultIntent, episode="second#1")
        await stage.watch.until(EpisodeClosed, 2)
    assert aims == ["nats1", "nats2"]
    assert [target.unit for target in intent.targets] == ["nats2"]
