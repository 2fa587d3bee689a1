"""config/lame-duck-docker.yaml, as it stands but for its times, on a compose project.

With a client that moves in time; `scripts/prove_lame_duck_docker` takes nats-py's own as well.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docker_client import Client
from provisioning import ROOT, passed, provisioning
from test_lame_duck_soak import Rollout, failures

CLIENTS = os.environ.get("SOAKD_CLIENTS", "make_before_break").split()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_rolling_update_of_containers_costs_each_client_what_it_does(
    docker: Client, images: str, tmp_path: Path, client: str
) -> None:
    compose = ROOT / "deploy" / "lame-duck" / "compose.yaml"
    with provisioning(docker, images, compose, ROLLOUT_AFTER="3s") as system:
        before = system.as_found()
        rollout = Rollout("lame-duck-docker", tmp_path / "soak", **system.environment, CLIENT=client)
        try:
            code, verdict = rollout.end()
        finally:
            rollout.close()
        loads = verdict["loads"].values()
        assert all(load["counters"]["lame_ducks"] >= 1 for load in loads)
        if client == "make_before_break":
            assert passed(code, verdict), verdict["reasons"]
            assert all(load["counters"]["hot_swaps"] >= 1 for load in loads)
        else:  # it fails or passes by what happened to its operations
            bad = failures(verdict) or verdict["loads"]["events"]["counters"]["lost"]
            bad = bad or any(load["ok_share"] < 0.95 for load in loads)
            assert code == 1 if bad else passed(code, verdict), verdict["reasons"]
        assert system.as_found() == before
