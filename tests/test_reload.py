"""The soak file of a run is changed while it soaks."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from soakd_run import Soakd, soak_file, wait

from supervisor.journal import events as ev
from supervisor.reload import Difference

DEPLOY = Path(__file__).parent.parent / "deploy" / "soakd@.service"


def test_differences_are_told_by_their_paths() -> None:
    before = {"a": {"x": 1, "y": [1]}, "b": 1, "c": {"d": 1}}
    after = {"a": {"x": 2, "y": [1, 2], "z": 1}, "b": 1, "e": {}}
    assert Difference.between(before, after) == Difference(("e", "a.z"), ("c",), ("a.x", "a.y"))
    assert not Difference.between(before, before)


def reload(soakd: Soakd, soak: dict[str, Any], code: int = 0) -> str:
    soakd.write(soak)
    done = soakd.command("reload")
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


@pytest.mark.timeout(200)  # a dozen commands, one after the other
def test_a_soak_file_is_changed_while_it_soaks(soakd: Soakd) -> None:  # the fixture
    outage = {"stop": ["a"], "hold": "1h", "at": ["100ms"]}
    stays = {"kill": ["b"], "every": "1h"}
    first = soak_file(faults={"outage": outage, "stays": stays}, duration="1h")
    soakd.start(first)
    wait("the outage", lambda: soakd.events(ev.FaultInjected))
    wait("the endpoint", (soakd.run_dir / "control.sock").exists)
    assert "says what it said before" in reload(soakd, first)

    wrong = reload(
        soakd, {**first, "faults": {"outage": {"stop": ["nobody"], "hold": "1h", "every": "1h"}}}, 1
    )
    assert "soak.yaml:1:" in wrong
    assert "nobody" in wrong
    lost = {"command": "/nowhere/break", "undo": "none", "every": "1h"}
    other = {"seed": 9, "web": {"port": 1}, "loads": {"ping": {"command": ["false"]}}}
    stuck = reload(soakd, {**first, **other, "faults": {**first["faults"], "lost": lost}}, 1)
    for path, why in (
        ("seed", "every draw"),
        ("web", "scrapes"),
        ("loads.ping.command", "start a new one"),
        ("faults.lost", "/nowhere/break"),
    ):
        assert path in stuck
        assert why in stuck
    assert not soakd.events(ev.FaultUndone), "what is refused changes nothing"

    second = {**first, "thresholds": ["recovery < 1h"], "duration": "2h", "grace": "9s"}
    second["watchdogs"] = [{"units": ["a"], "restart": "temporary"}, {"units": ["b"]}]
    second["steady_state"] = [{"unit": "b"}]
    second["faults"] = {"new": {"restart": ["b"], "every": "100ms", "times": 1}, "stays": stays}
    told = reload(soakd, second)
    for path in (
        "faults.new",
        "removed faults.outage",
        "thresholds",
        "duration",
        "watchdogs",
        "steady_state",
        "grace",
    ):
        assert path in told
    assert next(event.episode for event in soakd.events(ev.FaultUndone)) == "outage#1"  # type: ignore[attr-defined]
    assert "outage" not in (soakd.run_dir / "soak.yaml").read_text(), "recovery goes by what is in use"
    wait("the new fault", lambda: [e for e in soakd.events(ev.EpisodeClosed) if e.episode == "new#1"])  # type: ignore[attr-defined]

    assert soakd.events(ev.SoakFileRead)[-1].probes == ("unit b up",)  # type: ignore[attr-defined]
    watched = (soakd.run_dir / "a.mon.log").read_text()
    assert "from now on: temporary" in watched

    third = {
        **second,
        "duration": "1s",
        "faults": {**second["faults"], "outage": outage | {"hold": "10ms", "every": "50ms", "times": 2}},
    }
    del third["faults"]["outage"]["at"]
    third.pop("duration")
    soakd.write({**third, "faults": {"outage": {"stop": "b", "hold": "1h", "evry": "1h"}}})
    subprocess.run(["kill", "-HUP", str(soakd.daemon())], check=True)  # who has only the daemon's pid
    refused = wait("the refusal", lambda: [e for e in soakd.events(ev.SoakFileRead) if "evry" in e.refused])  # type: ignore[attr-defined]
    assert "soak.yaml:1:" in refused[0].refused
    assert "did you mean every" in refused[0].refused
    soakd.write(third)
    soakd.stop(signal.SIGHUP)  # the guardian passes it on
    again = wait(
        "a fault that comes back is numbered on",
        lambda: [e for e in soakd.events(ev.FaultIntent) if e.episode == "outage#2"],
    )  # type: ignore[attr-defined]
    assert again
    third["duration"] = "1s"
    reload(soakd, third)  # which is over already
    soakd.end(40)
    ended = soakd.events(ev.RunEnded)
    assert [event.reason for event in ended] == [ev.EndReason.DURATION]  # type: ignore[attr-defined]
    assert [one["threshold"] for one in soakd.verdict()["thresholds"]] == ["recovery < 1h"]
    summary = (soakd.run_dir / "summary.md").read_text()
    assert "the soak file was changed 3 times" in summary
    assert "a change of the soak file was refused 3 times" in summary


def processes_in_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
                session = int(stat.rpartition(b")")[2].split()[3])
            except OSError:
                continue
            if session == group:
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(120)
def test_a_service_manager_stops_kills_and_heals(soakd: Soakd) -> None:  # the fixture
    """As systemd does: SIGTERM to the main process, after the timeout SIGKILL to all that is left, then ExecStopPost."""
    stubborn = soak_file(grace="1h", faults={"outage": {"stop": ["a"], "hold": "1h", "at": ["100ms"]}})
    unit = stubborn["engines"]["local"]["process"]["units"]["a"]
    unit.update(command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], stop_timeout="1h")
    soakd.start(stubborn)
    wait("an intent", lambda: soakd.events(ev.FaultIntent))
    soakd.stop()  # KillMode=mixed: the main process alone
    wait("the end", lambda: soakd.events(ev.RunEnded))
    # TimeoutStopSec is over: everything of the control group, which for a test is the session and what bears the run's mark.
    os.kill(soakd.process.pid, signal.SIGSTOP)
    for pid in {*processes_in_group(soakd.process.pid), *soakd.units()}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    soakd.process.wait(40)
    stop_post = next(line for line in DEPLOY.read_text().splitlines() if line.startswith("ExecStopPost="))
    assert stop_post == "ExecStopPost=/usr/local/bin/soakd recover /etc/soakd/%i.yaml"
    healed = soakd.command("recover", "soak.yaml")
    assert healed.returncode == 0, healed.stderr
    assert [event.episode for event in soakd.events(ev.FaultUndone)] == ["outage#1"]  # type: ignore[attr-defined]
    assert not soakd.units()
    again = soakd.command("recover", "soak.yaml")
    assert (again.returncode, "nothing was left" in again.stdout) == (0, True), (
        "and does nothing after an end in order"
    )


def test_the_service_does_what_was_shown() -> None:
    lines = DEPLOY.read_text().splitlines()
    for line in (
        "KillMode=mixed",
        "TimeoutStopSec=60",
        "ExecReload=/usr/local/bin/soakd reload /etc/soakd/%i.yaml",
        "ExecStopPost=/usr/local/bin/soakd recover /etc/soakd/%i.yaml",
    ):
        assert line in lines
