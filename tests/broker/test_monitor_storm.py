"""Nodes paused, killed, restarted and sent into lame-duck mode at random: a short version of `scripts/prove_monitor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARGUMENTS = ("--duration", "6s", "--longest", "2s", "--seed", "3", "--streams", "60")


def test_the_monitor_is_not_fooled() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prove_monitor"), *ARGUMENTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
