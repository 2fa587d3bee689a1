"""A whole run on containers, from the command line, that ends in order; how it dies is in test_docker_faults.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_engine import Client
from docker_soak import IDLE, new_name
from provisioning import passed

from supervisor.engines.dockerd.names import NUMBER, PROJECT, SERVICE
from supervisor.journal.events import Cause, UnitExited
from supervisor.journal.replay import replay

PATIENCE = 60.0

FILE = """
soak: containers
seed: 1
engines:
  local: {{process: {{units: {{client: {{command: [sleep, "1000"], after: [compose/api, compose/spare]}}}}}}}}
  compose: {{docker: {{project: {project}, host: "{url}", own_policy: suspend, start: true, stop_timeout: 2s}}}}
watchdogs: [{{units: [api, worker, client]}}]
loads: {{nothing: {{command: "true", pause: 200ms}}}}
faults: {{outage: {{restart: [api, worker, local/client], every: 300ms}}}}
"""


def begun(docker: Client, tmp_path: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Make a project of three services, one of them down, and start a soak on it."""
    project = new_name("project")
    for service in ("api", "worker", "spare"):
        labels = {PROJECT: project, SERVICE: service, NUMBER: "1"}
        name = f"{project}-{service}-1"
        docker.create(name, IDLE, labels, host={"RestartPolicy": {"Name": "always"}})
        if service != "spare":
            docker.start(name)
    (tmp_path / "soak.yaml").write_text(FILE.format(project=project, url=docker.url))
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
    states = {}
    for service in ("api", "worker", "spare"):
        found = docker.inspect(f"{project}-{service}-1")
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
        states[service] = found["State"]["Status"]
    assert states == {"api": "running", "worker": "running", "spare": "exited"}
    locks = json.dumps({"label": ["soakd.lock"]})
    assert not docker.call("GET", "volumes", filters=locks)["Volumes"]


@pytest.mark.timeout(180)
def test_a_run_ends_in_order(docker: Client, tmp_path: Path) -> None:
    project, run = begun(docker, tmp_path)
    try:
        wait(lambda: journal(tmp_path).count('"fault.undone"') >= 2, tmp_path)
    finally:
        run.send_signal(signal.SIGTERM)
        code = run.wait(PATIENCE)
    directory = tmp_path / "runs" / "containers" / "latest"
    assert passed(code, json.loads((directory / "verdict.json").read_text())), (tmp_path / "log").read_text()
    as_found(docker, project)
    events = [record.event for record in replay(directory)]
    restarted = {e.unit for e in events if isinstance(e, UnitExited) and e.cause is Cause.EPISODE}
    assert restarted == {"api", "worker", "client"}, "units of two engines in one fault"
