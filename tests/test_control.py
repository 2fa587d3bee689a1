"""A run in the hands of an operator, by the commands he has."""

from __future__ import annotations

import json
import os
import signal

import pytest
from soakd_run import Soakd, soak_file, wait

from supervisor.journal import events as ev

FAULTS = {
    "bounce": {"restart": ["a"], "every": "1h"},
    "outage": {"stop": ["a", "b"], "hold": "1h", "at": ["200ms"]},
}


def said(soakd: Soakd, *words: str, code: int = 0) -> str:
    done = soakd.command(*words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return (done.stdout or done.stderr).strip()


@pytest.mark.timeout(160)  # a dozen commands, one after the other
def test_an_operator_works_on_a_run(soakd: Soakd) -> None:  # the fixture
    soakd.start(soak_file(faults=FAULTS))
    wait("the outage", lambda: soakd.events(ev.FaultInjected))
    wait("the endpoint", (soakd.run_dir / "control.sock").exists)
    seen = json.loads(said(soakd, "fault", "list", "--json"))
    assert [one["episode"] for one in seen["open"]] == ["outage#1"]
    assert "none of a is up and free: a is held down by outage#1" in said(
        soakd, "fault", "inject", "bounce", "soak.yaml", code=1
    )
    file = soakd.folder / "soak.yaml"
    written = file.read_text()
    file.write_text("soak: [half a li")  # somebody edits it
    assert "outage#1 is undone" in said(soakd, "fault", "pause", "soak.yaml", "--for", "30m")
    file.write_text(written)
    listed = said(soakd, "fault", "list", "runs/small/latest")
    assert "paused for 29m" in listed or "paused for 30m" in listed
    wait("the close", lambda: soakd.events(ev.EpisodeClosed))
    assert "bounce@operator#1 on a" in said(soakd, "fault", "inject", "bounce")
    wait("its close", lambda: len(soakd.events(ev.EpisodeClosed)) == 2)
    assert "operator#1" in said(soakd, "unit", "hold", "b", "--down")
    assert "held already" in said(soakd, "unit", "hold", "b", code=1)
    assert "b is held down by operator#1 (down)" in said(soakd, "fault", "list")
    assert "b is given back (up)" in said(soakd, "unit", "release", "b", "soak.yaml")
    wait("the last close", lambda: len(soakd.events(ev.EpisodeClosed)) == 3)
    assert "did you mean" in said(soakd, "fault", "inject", "bonce", code=1)
    assert said(soakd, "fault", "pause", "--for", "soon", code=2).startswith(
        "soakd: --for: expected a duration"
    )
    assert "nowhere.yaml" in said(soakd, "fault", "list", "nowhere.yaml", code=2)
    soakd.stop()
    soakd.end()
    assert "no run goes on here" in said(soakd, "fault", "list", code=1)
    summary = (soakd.run_dir / "summary.md").read_text()
    assert "bounce@operator" in summary
    assert "by hand: pause once: for 30m" in summary
    faults = soakd.verdict()["faults"]
    names = set(faults) if isinstance(faults, dict) else {fault["name"] for fault in faults}
    assert names == {"bounce", "outage", "bounce@operator", "operator"}
    assert not soakd.events(ev.UnitCrashed), "what an operator does is no crash"


def test_a_unit_that_is_held_when_soakd_dies_is_given_back(soakd: Soakd) -> None:  # the fixture
    soakd.start(soak_file(faults={}))
    wait("soaking", soakd.soaking)
    wait("the endpoint", (soakd.run_dir / "control.sock").exists)
    said(soakd, "unit", "hold", "b", "--down")
    os.kill(soakd.daemon(), signal.SIGKILL)
    soakd.end()
    assert [event.episode for event in soakd.events(ev.FaultUndone)] == ["operator#1"]  # type: ignore[attr-defined]
    assert not soakd.units()
