"""Whole runs of the real program: how it ends, how it dies, and what is left after that (nothing)."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from soakd_run import Soakd, processes_of, soak_file, wait

from supervisor.journal import events as ev
from supervisor.journal.replay import replay


def test_a_soak_passes_and_leaves_its_run_directory(soakd: Soakd) -> None:
    soakd.start(soak_file(duration="1h", on={"end": {"command": ["sh", "-c", "echo $SOAKD_VERDICT > told"]}}))
    wait("a closed episode", lambda: soakd.events(ev.EpisodeClosed))
    wait("a use of the system", soakd.used)
    soakd.run_out()
    assert soakd.passes(), soakd.output
    here = {path.name for path in soakd.run_dir.iterdir()}
    assert {
        "soak.yaml",
        "journal-0001.jsonl",
        "ping.log",
        "a.mon.log",
        "verdict.json",
        "junit.xml",
        "summary.md",
        "evidence.csv",
    } <= here
    assert (soakd.folder / "told").read_text() == soakd.verdict()["verdict"] + "\n"
    assert [event.reason for event in soakd.events(ev.RunEnded)] == [ev.EndReason.DURATION]  # type: ignore[attr-defined]
    closed = soakd.events(ev.EpisodeClosed)
    assert [(event.episode, event.recovered) for event in closed] == [("bounce#1", True)]  # type: ignore[attr-defined]
    for line in soakd.output.splitlines():
        json.loads(line)
    assert soakd.units() == []


def test_report_judges_again_and_reaches_the_same_verdict(soakd: Soakd) -> None:
    soakd.start(soak_file(thresholds=["load ping: failed > 100"]))
    wait("a use of the system", soakd.used)
    soakd.stop()
    assert soakd.end() == 1, soakd.output
    first = soakd.verdict()
    (soakd.run_dir / "verdict.json").unlink()
    page = soakd.run_dir / "page.html"
    again = soakd.command("report", str(soakd.run_dir), "--output", str(page))
    assert page.read_text() == (soakd.run_dir / "report.html").read_text()
    assert again.returncode == 1, again.stderr
    assert soakd.verdict() == first
    assert "load ping: failed > 100" in again.stdout


def test_sigterm_ends_in_order_and_a_cut_soak_is_inconclusive(soakd: Soakd) -> None:
    soakd.start(soak_file(duration="1h"))
    wait("soaking", soakd.soaking)
    soakd.stop()
    assert soakd.end() == 3, soakd.output
    ended = soakd.events(ev.RunEnded)
    assert [(event.reason, event.detail) for event in ended] == [(ev.EndReason.SIGNAL, "SIGTERM")]  # type: ignore[attr-defined]
    assert soakd.units() == []
    assert "SIGTERM" in json.dumps(soakd.verdict()["reasons"])


def test_a_soak_without_duration_that_is_stopped_can_pass(soakd: Soakd) -> None:
    soakd.start(soak_file())
    wait("a closed episode", lambda: soakd.events(ev.EpisodeClosed))
    wait("a use of the system", soakd.used)
    soakd.stop(signal.SIGINT)
    assert soakd.passes(), soakd.output


def test_a_second_signal_leaves_at_once_and_the_guardian_heals(soakd: Soakd) -> None:
    soakd.start(slow_to_stop(grace="60s"))
    wait("an intent", lambda: soakd.events(ev.FaultIntent))
    soakd.stop()
    wait("the end", lambda: soakd.events(ev.RunEnded))
    soakd.stop()
    assert soakd.end() == 3, soakd.output
    assert soakd.units() == []


STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)",
]


def slow_to_stop(**changes: Any) -> dict[str, Any]:
    """A soak whose fault stays in the middle of its inject: the unit it restarts does not listen to SIGTERM."""
    soak = soak_file(faults={"bounce": {"restart": ["a"], "at": ["100ms"]}}, **changes)
    soak["engines"]["local"]["process"]["units"]["a"].update(command=STUBBORN, stop_timeout="60s")
    return soak


@pytest.mark.parametrize("slow", [False, True])
def test_sigkill_of_the_daemon_ends_every_process_and_undoes_open_episodes(soakd: Soakd, slow: bool) -> None:
    soakd.start(slow_to_stop() if slow else soak_file())
    wait("an intent", lambda: soakd.events(ev.FaultIntent))
    os.kill(soakd.daemon(), signal.SIGKILL)
    wait("no unit left", lambda: not soakd.units())
    assert soakd.end() == 3, soakd.output
    undone = soakd.events(ev.FaultUndone)
    assert [event.episode for event in undone] == ["bounce#1"]  # type: ignore[attr-defined]
    assert any(event.reason is ev.EndReason.DIED for event in soakd.events(ev.RunEnded))  # type: ignore[attr-defined]
    assert soakd.verdict()["verdict"] in ("inconclusive", "fail")


def test_sigkill_of_the_guardian_makes_the_daemon_stop_in_order(soakd: Soakd) -> None:
    soakd.start(soak_file())
    wait("soaking", soakd.soaking)
    daemon = soakd.daemon()
    assert soakd.process is not None
    soakd.process.kill()
    soakd.process.wait()
    wait("the daemon's end", lambda: not Path(f"/proc/{daemon}/exe").exists())
    assert soakd.units() == []
    assert [event.reason for event in soakd.events(ev.RunEnded)] == [ev.EndReason.GUARDIAN_GONE]  # type: ignore[attr-defined]
    assert soakd.verdict()["verdict"] == "inconclusive"


def kill_both(soakd: Soakd) -> None:
    wait("an intent", lambda: soakd.events(ev.FaultIntent))
    daemon = soakd.daemon()
    assert soakd.process is not None
    os.kill(soakd.process.pid, signal.SIGSTOP)  # so that it cannot heal in between
    os.kill(daemon, signal.SIGKILL)
    soakd.process.kill()
    soakd.process.wait()
    wait("the daemon's end", lambda: not Path(f"/proc/{daemon}/exe").exists())


@pytest.mark.timeout(240)  # four commands, one after the other
@pytest.mark.parametrize("by", ["directory", "file"])
def test_recover_heals_after_the_death_of_both(soakd: Soakd, by: str) -> None:
    soakd.start(slow_to_stop())
    kill_both(soakd)
    assert soakd.units(), "units outlive both: there is something to heal"
    target = str(soakd.run_dir) if by == "directory" else "soak.yaml"
    healed = soakd.command("recover", target)
    assert healed.returncode == 0, healed.stderr
    assert soakd.units() == []
    assert len(soakd.events(ev.FaultUndone)) == 1
    again = soakd.command("recover", target)
    assert again.returncode == 0, again.stderr
    assert len(soakd.events(ev.FaultUndone)) == 1
    assert soakd.command("report", str(soakd.run_dir)).returncode == 3


def test_the_next_start_heals_after_the_death_of_both(soakd: Soakd) -> None:
    soakd.start(slow_to_stop())
    kill_both(soakd)
    assert soakd.units()
    first, run = soakd.run_dir.resolve(), soakd.events(ev.RunStarted)[0].run  # type: ignore[attr-defined]
    soakd.start(soak_file(thresholds=[]))
    wait("the next run", lambda: soakd.run_dir.resolve() != first)
    wait("a closed episode", lambda: soakd.events(ev.EpisodeClosed))
    wait("a use of the system", soakd.used)
    soakd.stop()
    assert soakd.passes(), soakd.output
    assert processes_of(run) == []
    undone = [record.event for record in replay(first) if isinstance(record.event, ev.FaultUndone)]
    assert [event.by for event in undone] == ["recover"]


def test_two_runs_of_one_soak_do_not_get_at_the_same_units(soakd: Soakd) -> None:
    soakd.start(soak_file())
    wait("soaking", soakd.soaking)
    second = soakd.command("run", "soak.yaml")
    assert second.returncode == 2
    assert "small" in second.stderr
    assert str(soakd.daemon()) in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_a_lost_terminal_does_not_end_a_run(soakd: Soakd) -> None:
    path = soakd.write(soak_file(duration="1h"))
    master, slave = pty.openpty()
    soakd.process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "run", str(path)],
        cwd=soakd.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    while b"soaking" not in seen:
        seen += os.read(master, 65536)
    os.close(master)
    wait("a closed episode", lambda: soakd.events(ev.EpisodeClosed))
    wait("a use of the system", soakd.used)
    soakd.run_out()
    assert soakd.passes()


def test_the_soak_file_is_known_by_its_full_path_for_recovery_may_be_elsewhere(soakd: Soakd) -> None:
    soakd.write(soak_file(duration="200ms", faults={}))
    soakd.command("run", "soak.yaml")
    started = soakd.events(ev.RunStarted)[0]
    assert started.file == str(soakd.folder / "soak.yaml")  # type: ignore[attr-defined]


def test_a_run_directory_that_is_removed_meanwhile_makes_the_verdict_inconclusive(soakd: Soakd) -> None:
    soakd.start(soak_file())
    wait("soaking", soakd.soaking)
    # Renamed first: a file may be added while others are removed.
    gone = soakd.run_dir.resolve().rename(soakd.folder / "gone")
    shutil.rmtree(gone)
    soakd.stop()
    assert soakd.end() == 3
    assert "Traceback" not in soakd.output
    assert "the journal is in trouble" in soakd.output
    assert "verdict: inconclusive" in soakd.output
