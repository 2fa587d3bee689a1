"""The demo's cluster and services as plain processes, started and ended by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import supervisor.demo
from supervisor.broker.embedded import expand, free_ports

E2E = Path(supervisor.demo.__file__).parent / "e2e"
SERVICES = ("dispatcher", "prefill", "transformer", "listener")


def wait_for(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Wait for a condition; AssertionError with `what` when the time is up."""
    deadline = time.monotonic() + seconds
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
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, node in self.nodes.items():
            (directory / name).mkdir()
            for file, content in node["files"].items():
                (directory / name / file).write_text(content)

    def start_nodes(self) -> None:
        for name, node in self.nodes.items():
            self._spawn(name, node["command"], self.directory / name)

    def wait_for_nodes(self) -> None:
        for name, node in self.nodes.items():
            wait_for(lambda url=node["ready"]["http"]: _answers(url), 30, lambda name=name: self.log(name))  # type: ignore[misc]

    def start_services(self) -> None:
        for name in SERVICES:
            self._spawn(name, [sys.executable, "-m", "supervisor.demo", name], self.directory)

    def wait_for_services(self, times: int = 1) -> None:
        for name in SERVICES:
            wait_for(
                lambda name=name: self.log(name).count(f"{name} is ready") >= times,  # type: ignore[misc]
                30,
                lambda name=name: self.log(name),  # type: ignore[misc]
            )

    def stop(self, names: Iterable[str]) -> None:
        """Send SIGTERM to all at once and wait for them."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            self.processes[name].wait(10)

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
            timeout=60,
            check=False,
        )

    def _spawn(self, name: str, command: list[str], cwd: Path) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=cwd, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # our own server
            return bool(answer.status == 200)
    except OSError:
        return False
