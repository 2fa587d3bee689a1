"""Nodes paused, killed, restarted and sent into lame-duck mode at random: a short version of `scripts/prove_monitor`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = ("--seed", "3", "--longest", "1s")
pytestmark = pytest.mark.timeout(300)


def prove(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prove_monitor"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )


def test_the_monitor_is_not_fooled() -> None:
    """Three rounds, which have all there is: SIGSTOP and SIGCONT, SIGKILL, restart, lame duck; one, two and three nodes at once."""
    done = prove(*LONGEST, "--duration", "1s", "--streams", "60", "--usable", "30s")
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = re.findall(r"^ *[0-9.]+s ([123] at a time: .*)$", done.stdout, re.MULTILINE)
    assert sorted(line[0] for line in rounds[:3]) == ["1", "2", "3"]
    assert set(re.findall(r"nats[123] (\w+)", " ".join(rounds))) == {"paused", "killed", "restarted", "lame"}
    assert done.stdout.splitlines()[-1].startswith("holds: seed 3, ")
    same = prove(*LONGEST, "--draws", str(len(rounds)))
    assert same.stdout.splitlines() == rounds, "what is done comes from the seed alone"
