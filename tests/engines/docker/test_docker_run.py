"""A whole run on containers, from the command line, that ends in order; how it dies is in test_docker_faults.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker_client import NAME, Client
from docker_soak import IDLE, new_name
from provisioning import passed

from supervisor.broker.ports import free_ports
from supervisor.engines.dockerd.names import NUMBER, PROJECT, SERVICE
from supervisor.journal.events import Cause, UnitExited
from supervisor.journal.replay import replay

PATIENCE = 60.0

FILE = """
soak: containers
seed: 1
engines:
  local:
    process:
      units:
        client: {{command: ["{python}", client.py], after: [compose/nats, compose/spare], ready: {{log: ^ready, timeout: 60s}}}}
  compose:
    docker:
      project: {project}
      host: "{url}"
      own_policy: suspend
      start: true
      stop_timeout: 2s
      ready: {{nats: {{port: {port}, timeout: 60s}}}}
broker: {{servers: "127.0.0.1:{port}", reach: 60s}}
watchdogs: [{{units: [nats, client, worker, worker-2], intensity: 100 / 1m}}]
loads: {{ask: {{request: client.echo, rate: 20/s}}}}
faults:
  outage: {{restart: nats, every: 300ms}}
  death: {{kill: local/client, every: 300ms}}
  replicas: {{restart: {{label: "com.docker.compose.service=worker"}}, every: 300ms}}
thresholds: ["load ask: ok >= 1%"]
"""
CLIENT = """
import asyncio, os, nats

async def main():
    connection = await nats.connect(os.environ["SOAKD_NATS_URL"], max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    async def answer(message):
        await message.respond(message.data)
    await connection.subscribe("client.echo", cb=answer)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
SERVICES = {"nats": 1, "worker": 2, "spare": 1}
"""How many containers each has; all but the spare one are up."""


def containers(project: str) -> list[tuple[str, str, str]]:
    """Return service, number and name of each."""
    return [
        (service, str(n + 1), f"{project}-{service}-{n + 1}")
        for service, several in SERVICES.items()
        for n in range(several)
    ]


def begun(docker: Client, tmp_path: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Make a project of three services, one of them a NATS server and one of them down, and start a soak on it and a process."""
    project, image, port = new_name("project"), f"{NAME}-nats-server", next(free_ports())
    docker.import_program(Path(sys.executable).with_name("nats-server"), image)
    server: dict[str, Any] = {
        "Image": image,
        "Cmd": ["/nats-server", "-a", "127.0.0.1", "-p", str(port)],
        "init": False,
    }
    for service, number, name in containers(project):
        labels = {PROJECT: project, SERVICE: service, NUMBER: number}
        host = {"RestartPolicy": {"Name": "always"}, "NetworkMode": "host" if service == "nats" else "none"}
        docker.create(name, IDLE, labels, host=host, **(server if service == "nats" else {}))
        if service != "spare":
            docker.start(name)
    (tmp_path / "client.py").write_text(CLIENT)
    text = FILE.format(project=project, url=docker.url, port=port, python=sys.executable)
    (tmp_path / "soak.yaml").write_text(text)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "supervisor", "run", "soak.yaml", "--run-dir", "runs"]
        return project, subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)


def wait(holds: Callable[[], object], tmp_path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.005)


def journal(tmp_path: Path) -> str:
    files = (tmp_path / "runs" / "containers" / "latest").glob("journal-*.jsonl")
    return "".join(file.read_text() for file in files)


def as_found(docker: Client, project: str) -> None:
    for service, _, name in containers(project):
        found = docker.inspect(name)
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
        assert found["State"]["Status"] == ("exited" if service == "spare" else "running")
    locks = json.dumps({"label": ["soakd.lock"]})
    assert not docker.call("GET", "volumes", filters=locks)["Volumes"]


@pytest.mark.timeout(180)
def test_a_soak_of_a_broker_in_docker_and_its_client_as_a_process(docker: Client, tmp_path: Path) -> None:
    """Each of them is disturbed, and so are all replicas of a service, found by its label; it ends in order, and all is as it was."""
    project, run = begun(docker, tmp_path)
    try:
        for fault in ("outage", "death", "replicas"):
            wait(lambda of=fault: recovered(tmp_path, of), tmp_path)
    finally:
        run.send_signal(signal.SIGTERM)
        code = run.wait(PATIENCE)
    directory = tmp_path / "runs" / "containers" / "latest"
    assert passed(code, json.loads((directory / "verdict.json").read_text())), (tmp_path / "log").read_text()
    as_found(docker, project)
    events = [record.event for record in replay(directory)]
    disturbed = {e.unit for e in events if isinstance(e, UnitExited) and e.cause is Cause.EPISODE}
    assert disturbed == {"nats", "client", "worker", "worker-2"}, "units of two engines, and both replicas"


def recovered(tmp_path: Path, fault: str) -> bool:
    """Say whether an episode of a fault is over, and all was well after it."""
    closed = [line for line in journal(tmp_path).splitlines() if '"episode.closed"' in line]
    return any(f'"{fault}#' in line for line in closed)
