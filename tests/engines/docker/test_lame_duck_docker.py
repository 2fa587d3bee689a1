"""config/lame-duck-docker.yaml, as it stands but for its times, on a compose project."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker_engine import Client
from provisioning import ROOT, passed, provisioning
from test_lame_duck_soak import Rollout


@pytest.mark.timeout(240)
def test_a_rolling_update_of_containers_fails_no_operation(
    docker: Client, images: str, tmp_path: Path
) -> None:
    compose = ROOT / "deploy" / "lame-duck" / "compose.yaml"
    with provisioning(docker, images, compose, ROLLOUT_AFTER="3s") as system:
        before = system.as_found()
        rollout = Rollout("lame-duck-docker", tmp_path / "soak", **system.environment)
        try:
            code, verdict = rollout.end()
        finally:
            rollout.close()
        assert passed(code, verdict), verdict["reasons"]
        assert all(load["counters"]["hot_swaps"] >= 1 for load in verdict["loads"].values())
        assert system.as_found() == before
