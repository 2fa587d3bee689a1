"""What a run left is found by its mark, whenever one looks."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from supervisor.engines.survivors import RUN, end_survivors, survivors


def test_one_that_is_just_being_executed_is_found() -> None:
    """For a moment it has no environment yet: about one in fifty is looked at then."""
    for _ in range(100):
        run = f"here-{uuid.uuid4().hex}"
        with subprocess.Popen(["sleep", "60"], env={RUN: run, "PATH": "/usr/bin:/bin"}) as process:
            found = [survivor.pid for survivor in survivors(run)]
            process.kill()
        assert found == [process.pid]


def test_one_without_any_environment_is_nobodys(tmp_path: Path) -> None:
    run = f"wiped-{uuid.uuid4().hex}"
    with subprocess.Popen(["/usr/bin/env", "-i", "sleep", "60"], env={RUN: run}) as process:
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0]:  # env itself
            pass
        assert end_survivors(run) == []
        process.kill()
