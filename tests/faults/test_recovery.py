from __future__ import annotations

import anyio
import pytest
from scripted_fault import PATIENCE, Script, Scripted, Stage

from supervisor.faults import recovery
from supervisor.faults.base import UndoError, World
from supervisor.faults.recovery import undo_open
from supervisor.journal.events import EpisodeClosed, FaultIntent, FaultUndone, Target, UndoFailed
from supervisor.journal.timeline import Timeline

pytestmark = pytest.mark.usefixtures("short_pauses")


def intents(*episodes: str) -> dict[str, FaultIntent]:
    return {
        episode: FaultIntent(
            episode=episode,
            fault=episode.partition("#")[0],
            type="scripted",
            n=1,
            targets=(Target(unit="nats1", incarnation="1:2"),),
        )
        for episode in episodes
    }


def fault(script: Script, **keys: object) -> Scripted:
    return Scripted.model_validate({"scripted": script, "every": "1s", **keys})


async def test_every_open_episode_is_undone_and_closed(stage: Stage) -> None:
    one, two = Script(), Script()
    timeline = Timeline()
    stage.journal.subscribe(timeline.apply)
    for intent in intents("one#1", "two#7").values():
        await stage.journal.commit(intent)
    lines = await undo_open(
        timeline.intents(), {"one": fault(one), "two": fault(two)}, stage.world, stage.journal
    )
    assert lines == ["one#1: undone (scripted of nats1)", "two#7: undone (scripted of nats1)"]
    assert (one.asked, two.asked) == (["undo one#1"], ["undo two#7"])
    for episode in ("one#1", "two#7"):
        assert stage.watch.all(FaultUndone, episode=episode, by="recover")
        assert stage.watch.all(EpisodeClosed, episode=episode, recovered=None)
    assert (timeline.intents(), timeline.open_episodes()) == ({}, ())


async def test_an_undo_that_fails_or_hangs_keeps_no_other_waiting(stage: Stage) -> None:
    released = anyio.Event()

    async def fail(_: FaultIntent) -> None:
        raise UndoError("the limit of nats1 is still 64m: `docker update --memory 0 nats1`")

    async def hang_until_the_other_is_undone(_: FaultIntent) -> None:
        await released.wait()

    async def release(_: FaultIntent) -> None:
        await anyio.lowlevel.checkpoint()
        released.set()

    faults = {
        "bad": fault(Script(undo=fail)),
        "slow": fault(Script(undo=hang_until_the_other_is_undone)),
        "good": fault(Script(undo=release)),
    }
    with anyio.fail_after(PATIENCE):
        lines = await undo_open(intents("bad#1", "slow#1", "good#1"), faults, stage.world, stage.journal)
    assert lines[0].startswith("bad#1: cannot undo it: UndoError: the limit of nats1 is still 64m")
    assert lines[1:] == ["slow#1: undone (scripted of nats1)", "good#1: undone (scripted of nats1)"]
    assert len(stage.watch.all(UndoFailed, episode="bad#1")) == recovery.ATTEMPTS
    assert stage.watch.all(UndoFailed)[0].broken.endswith("`docker update --memory 0 nats1`")
    assert not stage.watch.all(FaultUndone, episode="bad#1")
    assert not stage.watch.all(EpisodeClosed, episode="bad#1")


async def test_an_episode_of_a_fault_that_the_soak_file_lost_is_said_to_be_open(stage: Stage) -> None:
    lines = await undo_open(intents("gone#3"), {}, stage.world, stage.journal)
    assert lines[0].startswith("gone#3: cannot undo it: the soak file has no scripted fault named gone")
    assert "nats1" in stage.watch.all(UndoFailed, episode="gone#3")[0].broken


async def test_a_kind_hears_that_the_run_is_dead(stage: Stage) -> None:
    heard: list[bool] = []

    class Listening(Scripted):
        async def undo(self, world: World, intent: FaultIntent) -> None:
            heard.append(world.recovering)
            await super().undo(world, intent)

    listening = Listening.model_validate({"scripted": Script(), "every": "1s"})
    await undo_open(intents("one#1"), {"one": listening}, stage.world, stage.journal)
    assert heard == [True]
    assert stage.world.recovering is False
