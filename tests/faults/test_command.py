"""Faults by commands of the user's: what they are told, and what becomes of those that fail or hang."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from real_units import IDLE, kind, running
from scripted_fault import PATIENCE, Open, Stage, until

from supervisor.journal.events import (
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    UndoFailed,
)

pytestmark = pytest.mark.usefixtures("short_pauses")


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
    stage.base, told = tmp_path, tmp_path / "pid"
    hangs = ["sh", "-c", "sleep 3600 & echo $! > told; mv told pid; wait"]
    for time in ("300ms", "1s", "3s", "9s"):  # a busy machine may need longer to start it
        async with stage.running(a=kind(command=hangs, undo="none", inject_timeout=time)):
            failed = await stage.watch.until(FaultFailed, len(stage.watch.all(FaultFailed)) + 1)
        assert "inject_timeout" in failed.error or "took too long" in failed.error
        if told.exists():
            break
    pid = int(told.read_text())
    await until(lambda: not running(pid))
