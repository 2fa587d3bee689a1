from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from supervisor.engines.descriptors import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(allow_descriptors(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [(256, 512, "512 512 512"), (512, 512, "512 512 512"), (300, 4096, "4096 4096 4096")],
)
def test_the_limit_is_raised_as_far_as_allowed(soft: int, hard: int, after: str) -> None:
    script = SCRIPT.format(
        soft=soft, hard=hard
    )  # in a process of its own: a hard limit cannot be raised again
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == after
