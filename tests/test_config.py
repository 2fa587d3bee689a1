"""The soak files that come with soakd, and the files of deploy/ that belong to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.engines.docker import DockerEngine
from supervisor.soakfile.load import load

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_soak_file_of_config_passes_check(path: Path) -> None:
    """One whose containers are not there fails for them alone; test_provisioning checks it with its containers."""
    soak = load(path).soak
    command = [sys.executable, "-m", "supervisor", "check", str(path)]
    environment = os.environ | {"DOCKER_HOST": "unix:///nobody/answers/here.sock"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    if any(isinstance(engine, DockerEngine) for engine in soak.engines.values()):
        assert done.returncode == 2
        assert all("cannot reach the Docker engine" in line for line in done.stderr.splitlines()), done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_there_are_soak_files() -> None:
    assert {path.name for path in FILES} >= {"example.yaml", "provisioning.yaml"}
