"""The provisioning system as a compose project, and its soak: what the tests and scripts/prove_provisioning do with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from docker_client import LABEL, Client
from docker_engine import want
from ruamel.yaml import YAML

from supervisor.broker.ports import free_ports
from supervisor.engines.dockerd.names import PROJECT
from supervisor.journal.events import (
    CleanedUp,
    EntriesChanged,
    EpisodeClosed,
    Event,
    UnitCrashed,
    UnitRestarted,
)
from supervisor.journal.replay import replay

ROOT = Path(__file__).parents[3]
SOAK = ROOT / "config" / "provisioning.yaml"
COMPOSE = ROOT / "deploy" / "provisioning" / "compose.yaml"
SERVICES = {"dispatcher", "prefill", "udm-transformer", "udm-listener"}
NODES = {"nats1", "nats2", "nats3"}
UP = 120.0
ITERATIONS = 4
"""Of the end-to-end tests, two each; what a restart hits may fail."""
DONE = 60.0
"""Seconds beyond its duration that a soak may take: its beginning, and its way to the steady state at the end."""


def build_images(docker: Client, prefix: str) -> None:
    """Build the images with scripts/images, as a person would."""
    environment = os.environ | {"DOCKER_HOST": docker.url}
    command = [sys.executable, ROOT / "scripts" / "images", prefix]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, end="", flush=True)  # noqa: T201  # scripts/prove_provisioning shows it, and pytest if a test fails


def compose_command() -> list[str]:
    """Return Docker Compose as it is called here: v2, or v1, which Debian calls docker-compose."""
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            asked = subprocess.run([*command, "version"], capture_output=True, timeout=30, check=False)
        except FileNotFoundError:
            continue
        if asked.returncode == 0:
            return command
    return want("Docker Compose is missing; scripts/test installs docker-compose on Debian")


def labelled(file: Path) -> IO[str]:
    """Return a further compose file, which puts the tests' label on all that the first one makes. It is gone when it is closed."""
    made, label = YAML(typ="safe").load(file), {"labels": {LABEL: "true"}}
    networks = {name for name, network in made.get("networks", {}).items() if "external" not in network}
    text = {
        "services": dict.fromkeys(made["services"], label),
        "volumes": dict.fromkeys(made.get("volumes", {}), label),
        "networks": dict.fromkeys(networks or {"default"}, label),
    }
    further = NamedTemporaryFile("w", suffix=".yaml")  # noqa: SIM115  # closed by the caller
    further.write(json.dumps(text))
    further.flush()
    return further


@dataclass(frozen=True)
class System:
    """The project while it is up."""

    docker: Client
    project: str
    environment: Mapping[str, str]
    """What says where it is; for compose, and for soakd."""

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine says about each container, by its service."""
        filters = json.dumps({"label": [f"{PROJECT}={self.project}"]})
        found = [
            self.docker.inspect(one["Id"])
            for one in self.docker.call("GET", "containers/json", all=1, filters=filters)
        ]
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def as_found(self) -> dict[str, object]:
        """Return what a soak may not change."""
        return {
            service: (
                one["Id"],
                one["State"]["Status"],
                one["HostConfig"]["RestartPolicy"],
                one["HostConfig"]["Memory"],
            )
            for service, one in self.containers().items()
        }

    def run(self, *arguments: str, cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run soakd, from the command line."""
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *arguments],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def provisioning(docker: Client, images: str, file: Path = COMPOSE, **more: str) -> Iterator[System]:
    """Bring the project of a compose file up with free ports, and take it away again with all that belongs to it."""
    ports, project = free_ports(), f"provisioning-{uuid.uuid4().hex[:8]}"
    names = [f"NATS{number}_{what}" for number in (1, 2, 3) for what in ("PORT", "MONITOR")]
    environment = {
        **os.environ,
        **{name: str(port) for name, port in zip(names, ports, strict=False)},
        "SOAKD_PORT": "0",
        "DOCKER_HOST": docker.url,
        "COMPOSE_PROJECT_NAME": project,
        "NATS_IMAGE": f"{images}-nats",
        "SOAKD_IMAGE": images,
        "SOAKD_PYTHON": sys.executable,
        **more,
    }
    labels = labelled(file)
    command = [*compose_command(), "-f", str(file), "-f", labels.name]

    def compose(*arguments: str) -> None:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=UP, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    servers = [f"nats://127.0.0.1:{environment[f'NATS{number}_PORT']}" for number in (1, 2, 3)]
    credentials = {"SOAKD_NATS_USER": "admin", "SOAKD_NATS_PASSWORD": "admin"}
    check = [sys.executable, "-m", "supervisor.demo", "check", "--servers", ",".join(servers)]
    try:
        deadline = time.monotonic() + UP
        while True:
            compose("up", "-d")  # a service that the nodes kept waiting for too long has crashed: again
            if file != COMPOSE:
                break  # nothing but nodes, for which the soak itself waits
            looked = subprocess.run(
                check, env=environment | credentials, capture_output=True, text=True, timeout=60, check=False
            )
            if looked.returncode == 0:
                break
            assert time.monotonic() < deadline, looked.stdout + looked.stderr
        yield System(docker, project, environment)
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "1")
        labels.close()


def soak_it(system: System, folder: Path, duration: int | None = None) -> str:
    """Soak the project; see that it passed, for the right reasons, and that all is as it was. Return the counts in words.

    `duration`: seconds; None: until the nodes were restarted and all is well again, which is not for a clock to say.
    """
    before = system.as_found()
    assert set(before) == SERVICES | NODES
    check = system.run("check", str(SOAK), cwd=folder, timeout=UP)
    assert check.returncode == 0, check.stdout + check.stderr
    directory = folder / "runs" / "provisioning" / "latest"
    if duration is None:
        code, log = _until_well(system, folder, directory)
    else:
        done = system.run(
            "run", str(SOAK), "--duration", f"{duration}s", cwd=folder, timeout=duration + DONE + UP
        )
        code, log = done.returncode, done.stdout[-4000:] + done.stderr
    summary = directory / "summary.md"
    told = (summary.read_text() if summary.exists() else "") + log
    assert (directory / "verdict.json").exists(), told
    assert passed(code, json.loads((directory / "verdict.json").read_text())), told
    after = system.as_found()
    changed = {
        service: (before[service], after.get(service))
        for service in before
        if before[service] != after.get(service)
    }
    assert not changed, f"not as it was found: {changed}\n{log}"
    locks = json.dumps({"label": ["soakd.lock"]})
    assert not system.docker.call("GET", "volumes", filters=locks)["Volumes"]
    return judged(directory, [record.event for record in replay(directory)])


def passed(code: int, verdict: Mapping[str, Any]) -> bool:
    """Say whether a run passed, as far as this machine lets anybody say so: a busy one makes soakd itself late, which is inconclusive."""
    late = all("event loop once lagged" in str(reason) for reason in verdict["reasons"])
    return (code, verdict["verdict"]) in {(0, "pass"), *([(3, "inconclusive")] if late else [])}


def _until_well(system: System, folder: Path, directory: Path) -> tuple[int, str]:
    """Run the soak file without its duration, and end it in order; return its exit code and its log."""
    endless, log = folder / "endless.yaml", folder / "log"
    text = SOAK.read_text().replace("cwd: ../", f"cwd: {ROOT}/")
    assert "duration: 4h\n" in text
    endless.write_text(text.replace("duration: 4h\n", ""))
    command = [sys.executable, "-m", "supervisor", "run", str(endless)]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=system.environment, stdout=output, stderr=output) as run,
    ):
        try:
            deadline = time.monotonic() + UP
            while not _is_well(directory):
                assert run.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            run.terminate()
            code = run.wait(DONE)
        finally:
            run.kill()
    return code, log.read_text()[-4000:]


def _is_well(directory: Path) -> bool:
    """Say whether an episode is over, none is open, and the tests have been through often enough for a share of them."""
    journal = "".join(file.read_text() for file in directory.glob("journal-*.jsonl"))
    begun, over = journal.count('"fault.intent"'), journal.count('"episode.closed"')
    return begun == over > 0 and journal.count('"broker.cleaned"') >= ITERATIONS


def judged(directory: Path, events: list[Event]) -> str:
    """See that the soak did what the scripts did."""
    episodes = [event for event in events if isinstance(event, EpisodeClosed)]
    assert episodes, "no NATS node was restarted"
    assert all(episode.recovered for episode in episodes)

    crashes = [event for event in events if isinstance(event, UnitCrashed)]
    assert {crash.unit for crash in crashes} == SERVICES, (
        "they all lose their connection with every restart of the nodes"
    )
    for crash in crashes:
        assert crash.file, f"no crash file of {crash.unit}"
        text = (directory / crash.file).read_text()
        assert "restart-nats#" in text
        assert "Traceback (most recent call last)" in text
        assert re.match(r"[\w.]+(Error|EOF)\b", crash.signature), (
            text
        )  # a timeout at the root of it has no message
        assert text.count("\n") <= 200 + 40
    restarts = Counter(event.unit for event in events if isinstance(event, UnitRestarted))
    assert restarts == Counter(crash.unit for crash in crashes)
    for service in SERVICES:
        assert (directory / f"{service}.mon.log").read_text().count(" restarted as ") == restarts[service]

    assert "test_prefill_with_multiple_topics PASSED" in (directory / "e2e.log").read_text()
    entries = [
        event for event in events if isinstance(event, EntriesChanged) and event.bucket == "SUBSCRIPTIONS"
    ]
    assert sum(event.put for event in entries), "the monitor has seen no subscription"
    cleaned = [event for event in events if isinstance(event, CleanedUp)]
    assert sum(event.streams for event in cleaned) and sum(event.entries for event in cleaned)  # noqa: PT018  # both or none
    return f"{len(episodes)} restarts of all nodes, {len(crashes)} crashes and restarts of services, {len(cleaned)} cleanups"
