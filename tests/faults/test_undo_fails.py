"""A whole run in which one undo fails on purpose: the others are made, the verdict is fail, the report says what to do."""

from __future__ import annotations

import pytest
from soakd_run import Soakd, soak_file, wait

from supervisor.journal import events as ev


@pytest.mark.timeout(120)
def test_the_others_are_undone_and_the_report_says_what_is_broken(soakd: Soakd) -> None:  # the fixture
    broken = {
        "command": "touch dam",
        "undo": ["sh", "-c", "echo the dam is stuck >&2; exit 7"],
        "hold": "1h",
        "at": ["100ms"],
    }
    other = {"stop": ["a"], "hold": "1h", "at": ["100ms"]}
    soakd.start(soak_file(faults={"broken": broken, "other": other}, grace="30s"))
    wait("both injects", lambda: len(soakd.events(ev.FaultInjected)) == 2)
    soakd.stop()
    assert soakd.end(100) == 1, soakd.output
    assert [event.episode for event in soakd.events(ev.FaultUndone)] == ["other#1"]  # type: ignore[attr-defined]
    assert {event.episode for event in soakd.events(ev.UndoFailed)} == {"broken#1"}  # type: ignore[attr-defined]
    assert soakd.verdict()["verdict"] == "fail"
    summary = (soakd.run_dir / "summary.md").read_text()
    assert "undo failed" in summary
    assert "soakd recover" in summary
    assert "dam is stuck" in summary
