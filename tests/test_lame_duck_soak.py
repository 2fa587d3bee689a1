"""config/lame-duck.yaml, run as it stands: what the client does decides whether the soak passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "config" / "lame-duck.yaml"


def soak(client: str, place: Path) -> tuple[int, dict[str, Any]]:
    """Run it for as long as one rollout takes; return exit code and verdict."""
    environment = os.environ | {"CLIENT": client, "ROLLOUT_AFTER": "5s", "DURATION": "65s"}
    command = [sys.executable, "-m", "supervisor", "run", str(FILE), "--run-dir", str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    verdicts = list(place.glob("lame-duck/*Z/verdict.json"))
    assert verdicts, done.stderr[-2000:] + done.stdout[-2000:]
    return done.returncode, json.loads(verdicts[0].read_text())


@pytest.mark.timeout(180)
def test_clients_that_move_in_time_fail_no_operation(tmp_path: Path) -> None:
    code, verdict = soak("make_before_break", tmp_path)
    late = all(
        "event loop once lagged" in reason for reason in verdict["reasons"]
    )  # a machine that is too busy for soakd itself
    assert (code, verdict["verdict"]) == (0, "pass") or (code == 3 and late), verdict["reasons"]
    assert len(verdict["thresholds"]) == 11
    for load in verdict["loads"].values():
        assert load["counters"]["lame_ducks"] >= 1
        assert load["counters"]["hot_swaps"] >= 1


@pytest.mark.timeout(180)
def test_the_default_client_is_seen_to_stay(tmp_path: Path) -> None:
    code, verdict = soak("default", tmp_path)
    assert (code, verdict["verdict"]) == (1, "fail")
    broken = [one["threshold"] for one in verdict["thresholds"] if one["verdict"] == "fail"]
    assert {"load rpc: hot_swaps >= 1", "load events: hot_swaps >= 1"} <= set(broken)
    assert all(load["counters"]["lame_ducks"] >= 1 for load in verdict["loads"].values()), "it heard of it"
