"""What this machine's kernel shows of containers that run on it: their processes, and who was killed for want of memory.

An engine may be elsewhere, also behind a socket that looks local; then nothing here is about its containers. Blocks.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def runs_here(pid: int | None, container: str) -> bool:
    """Say whether a container's process is one of this machine."""
    with suppress(OSError):
        # The engine mounts files into each container that have its id in their paths.
        marks = (Path(f"/proc/{pid}/{name}").read_text() for name in ("mountinfo", "cgroup"))
        return pid is not None and any(container in mark for mark in marks)
    return False


def oom_kills() -> int | None:
    """Return how often this machine's kernel has killed for want of memory, in all control groups. It counts before it kills."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None
