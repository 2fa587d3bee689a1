"""Whole runs of the real program: how it ends, how it dies, and what is left after that (nothing)."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor.journal import events as ev
from supervisor.journal.replay import replay

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(3600)"]
PATIENCE = 40.0


def wait(what: str, look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until `look` says something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {seconds}s in vain: {what}"
        time.sleep(0.02)
    return seen


def soak_file(**changes: Any) -> dict[str, Any]:
    """A small soak of two processes, one load and one fault that fires at once."""
    unit = {"command": SLEEPER, "ready": {"log": "up"}}
    return {
        "soak": "small",
        "seed": 1,
        "engines": {"local": {"process": {"units": {"a": unit, "b": {**unit, "after": ["a"]}}}}},
        "watchdogs": [{"units": ["a", "b"], "restart": "permanent"}],
        "loads": {"ping": {"command": ["true"], "pause": "100ms"}},
        "faults": {"bounce": {"restart": ["a"], "at": ["200ms"]}},
        "thresholds": ["load ping: ok >= 95%", "recovery < 30s"],
        **changes,
    }


class Soakd:
    """One run of the program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, soak: dict[str, Any], name: str = "soak.yaml") -> Path:
        path = self.folder / name
        path.write_text(json.dumps(soak))  # YAML 1.2 is a superset of JSON
        return path

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, soak: dict[str, Any], *words: str) -> None:
        path = self.write(soak)
        output = (self.folder / "output").open("wb")
        with output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "supervisor", "run", str(path), *words],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "small" / "latest"

    def events(self, *kinds: type[ev.Event]) -> list[ev.Event]:
        if not self.run_dir.is_dir() or not list(self.run_dir.glob("journal-*")):
            return []
        return [record.event for record in replay(self.run_dir.resolve()) if isinstance(record.event, kinds)]

    def soaking(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.output
        return any(event.phase is ev.Phase.SOAKING for event in self.events(ev.PhaseEntered))  # type: ignore[attr-defined]

    def daemon(self) -> int:
        return self.events(ev.RunStarted)[0].pid  # type: ignore[attr-defined, no-any-return]

    def units(self) -> list[int]:
        """Pids of all processes that carry the mark of the run."""
        run = self.events(ev.RunStarted)
        return processes_of(run[0].run) if run else []  # type: ignore[attr-defined]

    def used(self, *loads: str) -> bool:
        """Whether these loads, or the one of `soak_file`, have told of an operation that was ok."""
        told = [window for window in self.events(ev.LoadWindow) if any(part.ok for part in window.slices)]  # type: ignore[attr-defined]
        return {window.load for window in told} >= set(loads or ["ping"])  # type: ignore[attr-defined]

    def run_out(self) -> None:
        """Have the duration of the soak be over: however long it took until all had happened that it is for."""
        wait("the endpoint", (self.run_dir / "control.sock").exists)
        soak = json.loads((self.folder / "soak.yaml").read_text())
        self.write({**soak, "duration": "100ms"})
        done = self.command("reload")
        assert done.returncode == 0, (done.stdout, done.stderr, self.output)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the run to end."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def passes(self) -> bool:
        """Wait for the end; say whether the run passed, but for a machine so busy that soakd does not trust itself and says so."""
        code, reasons = self.end(), [reason["rule"] for reason in self.verdict()["reasons"]]
        return (code, set(reasons)) in ((0, set()), (3, {"own-lag"}))

    def verdict(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "verdict.json").read_text())  # type: ignore[no-any-return]


def processes_of(run: str) -> list[int]:
    """Return the pids of all living processes with the mark of a run; a zombie has no environment any more."""
    mark, found = f"SOAKD_RUN={run}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture
def soakd(tmp_path: Path) -> Iterator[Soakd]:
    one = Soakd(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.stop()
        try:
            one.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


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
    again = soakd.command("report", str(soakd.run_dir))
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


# --- bad input: one clear line, exit 2, everything started is stopped --------------------------------------------------


def refused(soakd: Soakd, soak: dict[str, Any], *words: str) -> str:
    done = soakd.command("run", str(soakd.write(soak)), *words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert soakd.units() == []
    return done.stderr


def test_an_unknown_unit_is_refused(soakd: Soakd) -> None:
    told = refused(soakd, soak_file(faults={"bounce": {"restart": ["aa"], "every": "1s"}}))
    assert "faults.bounce.restart" in told
    assert "aa" in told


def test_a_command_that_does_not_exist_is_refused(soakd: Soakd) -> None:
    soak = soak_file()
    soak["engines"]["local"]["process"]["units"]["a"]["command"] = ["no-such-program"]
    soak["loads"]["ping"]["command"] = ["no-such-load"]
    told = refused(soakd, soak)
    assert "no-such-program" in told
    assert "no-such-load" in told


def test_a_port_in_use_is_refused(soakd: Soakd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        soak = soak_file()
        soak["engines"]["local"]["process"]["units"]["a"]["ready"] = {"port": port}
        assert f"{port}" in refused(soakd, soak)
        assert f"{port}" in refused(soakd, soak_file(web={"port": port}))


def test_a_unit_that_cannot_start_is_refused_with_its_last_words(soakd: Soakd) -> None:
    soak = soak_file()
    soak["engines"]["local"]["process"]["units"]["b"]["command"] = ["sh", "-c", "echo no such table; exit 4"]
    told = refused(soakd, soak)
    assert "b" in told
    assert "no such table" in told


def test_a_broker_that_is_never_reachable_is_refused(soakd: Soakd, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = nobody.getsockname()[1]
        monkeypatch.setenv("SOAKD_REACH_BROKER", "2s")
        told = refused(soakd, soak_file(broker={"servers": [f"127.0.0.1:{port}"], "reach": "2s"}))
        assert f"127.0.0.1:{port}" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_refused(soakd: Soakd, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], check=True)
    try:
        with (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 4096) == 4096:  # a full disk makes a short write, or none
                if shutil.disk_usage(disk).free == 0:
                    break
        told = refused(soakd, soak_file(), "--run-dir", str(disk))
        assert str(disk) in told
        assert "--run-dir" in told
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    shutil.rmtree(disk)


def test_a_state_directory_that_cannot_be_used_is_named(
    soakd: Soakd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAKD_STATE_DIR", "/dev/null")
    told = refused(soakd, soak_file())
    assert "/dev/null" in told
    assert "SOAKD_STATE_DIR" in told
    assert len(told.splitlines()) == 1


def test_a_path_that_cannot_be_told_in_one_line_is_refused(soakd: Soakd) -> None:
    for name in ("two\nlines", os.fsdecode(b"not\xffutf8")):
        told = refused(soakd, soak_file(), "--run-dir", str(soakd.folder / name))
        assert len(told.splitlines()) == 1


def test_the_soak_file_is_known_by_its_full_path_for_recovery_may_be_elsewhere(soakd: Soakd) -> None:
    soakd.write(soak_file(duration="200ms", faults={}))
    soakd.command("run", "soak.yaml")
    started = soakd.events(ev.RunStarted)[0]
    assert started.file == str(soakd.folder / "soak.yaml")  # type: ignore[attr-defined]


def test_a_run_directory_that_is_removed_meanwhile_makes_the_verdict_inconclusive(soakd: Soakd) -> None:
    soakd.start(soak_file())
    wait("soaking", soakd.soaking)
    gone = soakd.run_dir.resolve().rename(
        soakd.folder / "gone"
    )  # at once: a file may be added while others are removed
    shutil.rmtree(gone)
    soakd.stop()
    assert soakd.end() == 3
    assert "Traceback" not in soakd.output
    assert "the journal is in trouble" in soakd.output
    assert "verdict: inconclusive" in soakd.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "FILE"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "x.yaml", "--duration", "5"], "duration"),
        (["report", "nowhere"], "nowhere"),
        (["crashes", "nowhere"], "nowhere"),
        (["walk"], "walk"),
        ([], "COMMAND"),
    ],
)
def test_wrong_words_are_answered_in_words(soakd: Soakd, words: list[str], told: str) -> None:
    done = soakd.command(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
