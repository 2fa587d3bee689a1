"""What a dead run left of its links: found by the mark in its environment, made sure to be plain, ended last.

Blocks where it does not say `async`: for worker threads and for recovery.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from supervisor.links.base import LinkError
from supervisor.links.marks import MARK, PLAIN
from supervisor.links.toxics import Toxic

PATIENCE: Final = 5.0
"""Seconds that it may take to turn every link into a plain relay; it takes milliseconds."""
LOOK: Final = 0.01


class Remains:
    """The links of a dead run, for undo (`base.Control`): nothing can be asked of them any more."""

    def __init__(self, run: str) -> None:
        self._run = run

    async def take(self, episode: str) -> None:  # noqa: ARG002  # nothing of any episode is left once all are plain
        """Make sure that no link does anything but relay; a process that does not get there is ended. LinkError if it cannot be."""
        await anyio.to_thread.run_sync(self._settle)

    async def put(self, episode: str, toxics: Mapping[str, Toxic]) -> None:
        """Refuse."""
        raise LinkError(f"cannot do anything to {', '.join(toxics)} for {episode}: its run is over")

    async def kill(self, link: str, share: float, seed: int) -> int:  # noqa: ARG002
        """Refuse."""
        raise LinkError(f"cannot do anything to {link}: its run is over")

    async def connections(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}

    def _settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(not _is_plain(pid) for pid in processes(self._run)):
            if time.monotonic() > deadline:
                end(self._run)
                return
            time.sleep(LOOK)


def end(run: str) -> int:
    """End the process of the links of a run, if it is there; return how many were ended. LinkError if one does not go."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while found := list(processes(run)):
        if time.monotonic() > deadline:
            raise LinkError(f"cannot end the process of the links: SIGKILL does not end pid {found[0]}")
        for pid in found:
            ended.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK)
    return len(ended)


def processes(run: str) -> Iterator[int]:
    """Yield the pids of those that carry the mark of a run; a zombie has no environment any more."""
    mark = f"{MARK}={run}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def _is_plain(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == PLAIN
    except OSError:
        return True  # it has ended: nothing is done to anything
