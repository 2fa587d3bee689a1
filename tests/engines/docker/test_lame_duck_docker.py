"""config/lame-duck-docker.yaml, as it stands, on a compose project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from docker_engine import Client
from provisioning import ROOT, passed, provisioning


@pytest.mark.timeout(240)
def test_a_rolling_update_of_containers_fails_no_operation(
    docker: Client, images: str, tmp_path: Path
) -> None:
    compose = ROOT / "deploy" / "lame-duck" / "compose.yaml"
    with provisioning(docker, images, compose, ROLLOUT_AFTER="3s", DURATION="50s") as system:
        before = system.as_found()
        file = ROOT / "config" / "lame-duck-docker.yaml"
        done = system.run("run", str(file), "--run-dir", str(tmp_path), cwd=tmp_path, timeout=180)
        (path,) = tmp_path.glob("lame-duck-docker/*Z/verdict.json")
        verdict = json.loads(path.read_text())
        assert passed(done.returncode, verdict), verdict["reasons"]
        assert all(load["counters"]["hot_swaps"] >= 1 for load in verdict["loads"].values())
        assert system.as_found() == before
