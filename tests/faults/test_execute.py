"""exec: programs inside units, on real processes; on containers in test_docker_faults.py, the engines' side in test_contract.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError
from real_units import IDLE, kind, watched
from scripted_fault import Open, Stage, until

from supervisor.journal.events import EpisodeClosed, FaultFailed, FaultInjected, FaultUndone, UnitRestarted

pytestmark = pytest.mark.usefixtures("short_pauses")

RUN = ["sh", "-c", "echo $SOAKD_EPISODE > $SOAKD_UNIT_DIR/made"]
UNDO = ["sh", "-c", "rm -f $SOAKD_UNIT_DIR/made"]


def made(stage: Stage) -> list[str]:
    return sorted(file.read_text().strip() for file in Path(stage.journal.run_dir).glob("units/*/made"))


async def test_what_a_program_does_inside_units_is_taken_back_though_one_has_crashed(
    stage: Stage, opened: Open
) -> None:
    """Undo waits until the watchdog has brought it back."""
    async with opened(n1=IDLE, n2=IDLE) as fleet, watched(stage, "n1", "n2"):
        async with stage.running(a=kind(exec=["n1", "n2"], run=RUN, undo=UNDO, hold="1h")):
            await stage.watch.until(FaultInjected)
            assert made(stage) == ["a#1", "a#1"]
            os.kill(fleet.status("n1").observed.pid or 0, signal.SIGKILL)
        closed = await stage.watch.until(EpisodeClosed)
        assert made(stage) == []
        assert len(stage.watch.all(FaultUndone)) == 1
        await until(lambda: len(stage.watch.all(UnitRestarted)) == 1)
    assert closed.episode == "a#1"


async def test_a_program_that_fails_is_a_fault_that_failed(stage: Stage, opened: Open) -> None:
    failing = ["sh", "-c", f"{RUN[2]}; echo no such luck >&2; exit 3"]
    async with opened(n1=IDLE):
        async with stage.running(a=kind(exec="n1", run=failing, undo=UNDO, hold="1h")):
            failed = await stage.watch.until(FaultFailed)
            await stage.watch.until(EpisodeClosed)
        assert "in n1 ended with exit code 3: no such luck" in failed.error
        assert made(stage) == []


def test_what_nothing_takes_back_cannot_be_held() -> None:
    with pytest.raises(ValidationError, match="with undo: none nothing is taken back"):
        kind(exec="n1", run="true", undo="none", hold="1s")
