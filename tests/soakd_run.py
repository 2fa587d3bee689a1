"""One run of the real program in a folder of its own, as tests start it, look into it and end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor.engines.spawn import stopped
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

    def kill_guardian(self) -> None:
        """SIGKILL the guardian and leave the daemon frozen: it must not see that end and stop in order."""
        daemon = self.daemon()
        os.kill(daemon, signal.SIGSTOP)
        wait("all threads of the daemon to stand still", lambda: stopped(daemon))
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

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
