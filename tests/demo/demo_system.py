"""The demo's cluster and services as plain processes, started and ended by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import supervisor.demo
from supervisor.broker.embedded import expand
from supervisor.broker.ports import free_ports

E2E = Path(supervisor.demo.__file__).parent / "e2e"
SERVICES = ("dispatcher", "prefill", "transformer", "listener")
PATIENCE = 90.0
"""Seconds for one step on a busy machine: a cluster without a leader and four services that have to come up take some."""


def wait_for(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait for a condition; AssertionError with `what` when the time is up."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


class DemoSystem:
    """Three nodes and four services, each with a log in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        engine, broker = expand({"nodes": 3}, free_ports())
        self.nodes = engine["process"]["units"]
        self.environment = {
            **os.environ,
            "SOAKD_NATS_URL": ",".join(f"nats://{server}" for server in broker["servers"]),
            "SOAKD_NATS_USER": broker["user"],
            "SOAKD_NATS_PASSWORD": broker["password"],
            "E2E_PATIENCE": "20",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, node in self.nodes.items():
            (directory / name).mkdir()
            for file, content in node["files"].items():
                (directory / name / file).write_text(content)

    def start_nodes(self) -> None:
        for name, node in self.nodes.items():
            self._spawn(name, node["command"], self.directory / name)

    def start_services(self) -> None:
        for name in SERVICES:
            self._start_service(name)

    def wait_until_healthy(self) -> None:
        """Be the watchdog until the system says that it is able to do its work."""
        deadline, last = time.monotonic() + PATIENCE, ""
        while time.monotonic() < deadline:
            for name in SERVICES:
                if self.processes[name].poll() is not None:
                    self._start_service(name)
            check = self.run("-m", "supervisor.demo", "check")
            if check.returncode == 0:
                return
            last = check.stdout + check.stderr
            time.sleep(0.1)
        raise AssertionError(last + "".join(self.log(name)[-1000:] for name in SERVICES))

    def stop(self, names: Iterable[str]) -> None:
        """Send SIGTERM to all at once and wait for them."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            self.processes[name].wait(PATIENCE)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of this Python that is told where the broker is."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd or self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _start_service(self, name: str) -> None:
        self._spawn(name, [sys.executable, "-m", "supervisor.demo", name], self.directory)

    def _spawn(self, name: str, command: list[str], cwd: Path) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=cwd, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
