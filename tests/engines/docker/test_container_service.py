"""soakd as a container, from deploy/Dockerfile and deploy/compose.yaml: the guardian is process 1, and has no privilege at all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker_client import LABEL, Client
from docker_gate import Gate, gated
from docker_soak import IDLE
from provisioning import ROOT, UP, compose_command, labelled, passed

from supervisor.broker.ports import free_ports

PATIENCE = 60.0
GROUP = 23_456
"""The group that may use the engine's socket."""
SOAK = """
soak: contained
grace: 10s
web: {{host: 0.0.0.0, port: 9464}}
engines:
  docker: {{docker: {{names: [{nats}, {worker}]}}}}
broker: {{servers: "{nats}:4222"}}
watchdogs: [{{units: {worker}}}]
loads:
  echo: {{request: soak.echo, responder: built_in, expect: echo, rate: 20/s}}
faults:
  freeze: {{pause: {worker}, hold: 10m, every: 1s}}
thresholds: ["load echo: ok >= 50%"]
"""
OVERRIDE = """
services:
  soakd:
    environment: {{DOCKER_HOST: "unix:///run/docker/gate.sock"}}
    volumes: ["{folder}:/run/docker"]
    group_add: ["{group}"]
    healthcheck: {{interval: 1s}}
"""


@dataclass
class Service:
    docker: Client
    gate: Gate
    name: str
    worker: str
    url: str

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.docker.inspect(self.name)["State"]
        return found

    def logs(self) -> str:
        text = self.docker.call("GET", f"containers/{self.name}/logs", stdout=1, stderr=1, tail=100)
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"{self.state}\n{self.logs()}\nrefused: {self.gate.refused}"
            time.sleep(0.05)

    def ended(self) -> int:
        self.until(lambda: not self.state["Running"])
        return int(self.state["ExitCode"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the verdicts of all runs, in order; of one that has none an empty one."""
        path = "/var/lib/soakd/runs/contained"
        data = self.docker.call("GET", f"containers/{self.name}/archive?path={path}")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = {one.name for one in tar if one.isdir() and one.name.count("/") == 1}
            files = {one.name: tar.extractfile(one) for one in tar if one.name.endswith("/verdict.json")}
        found = {str(Path(name).parent): json.load(file) for name, file in files.items() if file}
        return [found.get(name, {}) for name in sorted(names)]

    def in_a_fault(self) -> None:
        self.until(lambda: self.docker.state(self.worker) == "paused")


@contextmanager
def service(docker: Client, images: str, folder: Path) -> Iterator[Service]:
    """Start soakd as deploy/compose.yaml has it, on a broker and a worker, behind the gate instead of that file's proxy."""
    mark = uuid.uuid4().hex[:8]
    network, nats, worker, port = f"system-{mark}", f"nats-{mark}", f"worker-{mark}", next(free_ports())
    docker.call("POST", "networks/create", {"Name": network, "Labels": {LABEL: "true"}})
    docker.create(nats, ["-js"], init=False, host={"NetworkMode": network}, Image=f"{images}-nats")
    docker.create(worker, IDLE)
    for unit in (nats, worker):
        docker.start(unit)
    socket, soak, override = folder / "socket", folder / "soak.yaml", folder / "override.yaml"
    socket.mkdir()
    soak.write_text(SOAK.format(nats=nats, worker=worker))
    override.write_text(OVERRIDE.format(folder=socket, group=GROUP))
    environment = {
        **os.environ,
        "DOCKER_HOST": docker.url,
        "COMPOSE_PROJECT_NAME": f"soakd-{mark}",
        "SOAKD_IMAGE": images,
        "SOAKD_PORT": str(port),
        "SOAK": str(soak),
        "NETWORK": network,
    }
    file = ROOT / "deploy" / "compose.yaml"
    labels = labelled(file)
    command = [*compose_command(), "-f", str(file), "-f", labels.name, "-f", str(override)]

    def compose(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=UP, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    with gated(docker.url, socket) as gate:
        assert gate.path
        os.chown(gate.path, 0, GROUP)
        gate.path.chmod(0o660)
        try:
            compose("up", "-d", "--no-deps", "soakd")
            yield Service(docker, gate, compose("ps", "-q", "soakd"), worker, f"http://127.0.0.1:{port}")
        finally:
            compose("down", "--volumes", "--timeout", "1")
            labels.close()
    assert gate.refused == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_no_privilege(soakd: Service) -> None:
    """See what the kernel says of the guardian and the daemon."""
    guardian: int = soakd.state["Pid"]
    for pid in (guardian, *children(guardian)):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert set(status["Uid"].split()) == {"10001"}
        assert str(GROUP) in status["Groups"].split()
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
        assert status["NoNewPrivs"] == "1"
    command = Path(f"/proc/{guardian}/cmdline").read_bytes()
    assert b"soakd\0run\0/etc/soakd/soak.yaml" in command
    assert soakd.docker.inspect(soakd.name)["HostConfig"]["ReadonlyRootfs"] is True


def metrics(soakd: Service) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{soakd.url}/metrics", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


@pytest.mark.timeout(300)
@pytest.mark.skipif(
    os.geteuid() != 0, reason="gives the socket to a group, and looks into processes of others"
)
def test_soakd_in_a_container_judges_heals_and_is_healed(docker: Client, images: str, tmp_path: Path) -> None:
    with service(docker, images, tmp_path) as soakd:
        # In order: it is healthy, its metrics are published, and SIGTERM ends it with a verdict.
        soakd.until(lambda: soakd.state["Health"]["Status"] == "healthy")
        has_no_privilege(soakd)
        assert f'soakd_unit_up{{unit="{soakd.worker}"}}' in metrics(soakd)
        soakd.in_a_fault()
        docker.call("POST", f"containers/{soakd.name}/stop", t=60)
        code = soakd.ended()
        assert docker.state(soakd.worker) == "running"
        (verdict,) = soakd.runs()
        assert passed(code, verdict), soakd.logs()

        # SIGKILL of the daemon: process 1 heals and judges.
        docker.start(soakd.name)
        soakd.in_a_fault()
        (daemon,) = children(soakd.state["Pid"])
        os.kill(daemon, 9)
        assert soakd.ended() == 3, soakd.logs()
        assert docker.state(soakd.worker) == "running"
        assert soakd.runs()[1]["verdict"] == "inconclusive"

        # SIGKILL of everything: the next start heals.
        docker.start(soakd.name)
        soakd.in_a_fault()
        docker.call("POST", f"containers/{soakd.name}/kill")
        assert soakd.ended() == 137
        assert docker.state(soakd.worker) == "paused"
        docker.start(soakd.name)
        soakd.until(lambda: "healed a run that died" in soakd.logs())
        soakd.until(lambda: len(soakd.runs()) == 4)
        soakd.in_a_fault()
        docker.call("POST", f"containers/{soakd.name}/stop", t=60)
        code = soakd.ended()
        assert passed(code, soakd.runs()[3]), soakd.logs()
        assert docker.state(soakd.worker) == "running"
