"""Recovery of runs that died: one that cannot be healed keeps neither others nor a new start waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dead_run import started

from supervisor.abandoned import heal_abandoned, recover_all
from supervisor.engines.base import EngineContext, EngineError
from supervisor.engines.process import ProcessEngine
from supervisor.journal.events import (
    EpisodeClosed,
    Event,
    FaultIntent,
    FaultUndone,
    RunStarted,
    Target,
    UndoFailed,
)
from supervisor.journal.replay import replay
from supervisor.journal.runs import RunIndex
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import open_journal
from supervisor.judge.verdict import judge
from supervisor.past import CannotRecover
from supervisor.soakfile.errors import SoakFileError


class Graveyard:
    """Runs that died: in the index, without anybody who holds them, each with a process that it left."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.index = folder, RunIndex(state)
        self.left: dict[str, subprocess.Popen[bytes]] = {}
        self.ids = defaultdict[str, str](lambda: f"test-{uuid.uuid4().hex}")
        """By what the test calls a run: recovery ends every process of this machine that bears the run's id."""

    async def bury(self, name: str, *events: Event, soak: dict[str, Any] | None = None) -> Path:
        """Make what a run leaves that died after these events; without any it has no journal."""
        run, directory = self.ids[name], self.folder / name
        directory.mkdir()
        (directory / "soak.yaml").write_text(json.dumps({"soak": "small"} | (soak or {})))
        if events:
            async with open_journal(directory) as journal:
                for event in events:
                    await journal.commit(event)
        self.index.enter(run, directory, "small", self.folder / "soak.yaml").lock.release()
        self.left[name] = subprocess.Popen(  # noqa: ASYNC220  # a test may wait for a millisecond
            [sys.executable, "-c", "import time; time.sleep(3600)"],
            env={**os.environ, "SOAKD_RUN": run},
            start_new_session=True,
        )
        return directory

    def started(self, name: str, **more: Any) -> RunStarted:
        return started(self.ids[name], file=str(self.folder / "soak.yaml"), **more)

    def known(self) -> set[str]:
        entries = {entry.run_id for entry in self.index.abandoned()}
        return {name for name, run in self.ids.items() if run in entries}

    def ended(self, name: str) -> bool:
        return self.left[name].wait(20) != 0


@pytest.fixture
def graveyard(tmp_path: Path, state_dir: Path) -> Iterator[Graveyard]:
    one = Graveyard(tmp_path, state_dir)
    yield one
    for process in one.left.values():
        process.kill()
        process.wait()


def intent(number: int = 1) -> FaultIntent:
    return FaultIntent(episode=f"f#{number}", fault="f", type="command", n=number)


NEEDY = {"loads": {"a": {"command": "true", "env": {"A": "${SOAKD_TEST_NOT_SET}"}}}}
"""A soak that cannot be read without a variable which nobody has set."""


async def test_a_run_that_cannot_be_read_back_is_kept_and_no_reason_not_to_start_or_heal_others(
    graveyard: Graveyard,
) -> None:
    await graveyard.bury("one", graveyard.started("one"), soak=NEEDY)
    await graveyard.bury("two", graveyard.started("two"))
    await heal_abandoned(graveyard.index)
    assert graveyard.ended("one"), "its processes carry its id: they need no soak file"
    assert graveyard.ended("two")
    assert graveyard.known() == {"one"}


async def test_every_dead_run_of_a_soak_file_is_healed_whatever_becomes_of_the_first(
    graveyard: Graveyard,
) -> None:
    first = await graveyard.bury("one", graveyard.started("one"), soak=NEEDY)
    await graveyard.bury("two", graveyard.started("two"))
    file = graveyard.folder / "soak.yaml"
    file.write_text("soak: small\n")
    with pytest.raises(CannotRecover) as refusal:
        await recover_all(file)
    assert "SOAKD_TEST_NOT_SET is not set" in str(refusal.value)
    assert f"soakd recover {first}" in str(refusal.value)
    assert graveyard.known() == {"one"}


async def test_a_run_of_the_soak_file_that_lives_is_left_alone_and_named(graveyard: Graveyard) -> None:
    directory = await graveyard.bury("dead", graveyard.started("dead"))
    file = graveyard.folder / "soak.yaml"
    file.write_text("soak: small\n")
    alive = graveyard.index.enter("alive", graveyard.folder, "small")
    healed = await recover_all(file)
    assert healed[0] == f"{directory}:"
    assert healed[-1].startswith(f"{graveyard.folder}: left alone")
    assert f"`kill {os.getpid()}`" in healed[-1]
    nothing, left_alone = await recover_all(file)
    assert "nothing was left to heal" in nothing
    assert left_alone == healed[-1]
    alive.leave()
    assert len(await recover_all(file)) == 1


async def test_a_soak_file_that_is_wrong_by_now_leads_to_the_runs_that_were_started_with_it(
    graveyard: Graveyard,
) -> None:
    await graveyard.bury("dead", graveyard.started("dead"))
    file, other = graveyard.folder / "soak.yaml", graveyard.folder / "other.yaml"
    for one in (file, other):
        one.write_text("soak: small\nduration: [half a li")
    with pytest.raises(SoakFileError):
        await recover_all(other)
    assert graveyard.known() == {"dead"}
    await recover_all(file)
    assert graveyard.ended("dead")
    assert graveyard.known() == set()
    with pytest.raises(SoakFileError):
        await recover_all(file)


async def test_of_a_run_without_a_beginning_the_processes_are_ended_and_it_is_forgotten(
    graveyard: Graveyard,
) -> None:
    await graveyard.bury("one")
    await heal_abandoned(graveyard.index)
    assert graveyard.ended("one")
    assert graveyard.known() == set()


async def test_so_they_are_of_one_whose_directory_is_gone(graveyard: Graveyard) -> None:
    directory = await graveyard.bury("one")
    (directory / "soak.yaml").unlink()
    directory.rmdir()
    assert "ended 1 processes" in (await recover_all_of(graveyard, "one"))
    assert graveyard.ended("one")


async def recover_all_of(graveyard: Graveyard, run: str) -> str:
    file = graveyard.folder / "soak.yaml"
    file.write_text("soak: small\n")
    done = "\n".join(await recover_all(file))
    assert run not in graveyard.known()
    return done


async def test_an_episode_that_was_undone_in_time_is_closed(graveyard: Graveyard) -> None:
    directory = await graveyard.bury("one", graveyard.started("one"), intent(), FaultUndone(episode="f#1"))
    await recover_all(directory)
    timeline = Timeline()
    for record in replay(directory):
        timeline.apply(record)
    assert timeline.open_episodes() == ()
    assert "never-closed" not in {finding.rule for finding in judge(replay(directory)).findings}


async def test_a_process_that_does_not_end_leaves_no_fault_in_place(
    graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_: ProcessEngine, __: EngineContext) -> list[str]:
        raise EngineError("SIGKILL does not end pid 1")

    monkeypatch.setattr(ProcessEngine, "recover", stuck)
    soak = {
        "engines": {"local": {"process": {"units": {"a": {"command": ["true"]}}}}},
        "faults": {
            "f": {"command": ["true"], "undo": ["touch", str(graveyard.folder / "undone")], "every": "1s"}
        },
    }
    directory = await graveyard.bury("one", graveyard.started("one"), intent(), soak=soak)
    with pytest.raises(CannotRecover, match="SIGKILL does not end pid 1"):
        await recover_all(directory)
    assert (graveyard.folder / "undone").exists()
    assert graveyard.known() == {"one"}


@pytest.mark.parametrize("engines", [{"cart": "away", "box/cart": "box"}, {}], ids=["", "older-journal"])
async def test_an_engine_that_is_away_keeps_no_other_undo_from_running(
    graveyard: Graveyard, engines: dict[str, str]
) -> None:
    mark = graveyard.folder / "undone"
    soak = {
        "engines": {
            "away": {"docker": {"project": "shop", "host": f"unix://{graveyard.folder}/none.sock"}},
            "gone": {"docker": {"names": ["pay"], "host": f"unix://{graveyard.folder}/none.sock"}},
        },
        "faults": {
            "f": {
                "command": ["true"],
                "undo": ["touch", str(mark)],
                "units": {"label": "a=b"},
                "every": "1s",
            },
            "g": {"pause": {"label": "a=b"}, "hold": "1h", "every": "1s"},
        },
    }
    directory = await graveyard.bury(
        "one",
        graveyard.started("one", units=("cart",), engines=engines),
        intent().model_copy(update={"targets": (Target(unit="cart", incarnation="1"),)}),
        FaultIntent(episode="g#1", fault="g", type="pause", n=1, targets=(Target(unit="cart"),)),
        soak=soak,
    )
    with pytest.raises(CannotRecover) as refusal:
        await recover_all(directory)
    assert mark.exists(), "a command needs no engine"
    assert "f#1: undone (command of cart)" in refusal.value.done
    for said in (
        "away: cannot look at its containers: cannot reach the Docker engine",
        "gone: cannot",
        "g#1: cannot undo it: cannot reach cart",
    ):
        assert said in str(refusal.value)
    assert "run `soakd recover`" in str(refusal.value)
    records = [record.event for record in replay(directory)]
    assert [e.episode for e in records if isinstance(e, FaultUndone)] == ["f#1"]
    assert [e.episode for e in records if isinstance(e, EpisodeClosed)] == ["f#1"]
    broken = [e.broken for e in records if isinstance(e, UndoFailed)]
    assert broken == ["pause may still be in place on cart: mend the cause and run `soakd recover`"]
    assert graveyard.known() == {"one"}, "it is kept, for the next attempt"
