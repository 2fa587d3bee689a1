"""Finding and ending what a run left behind: every process that carries its id in the environment, and their groups.

Blocks: for worker threads and for recovery.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from supervisor.engines.base import EngineError
from supervisor.engines.spawn import start_time

RUN: Final = "SOAKD_RUN"
UNIT: Final = "SOAKD_UNIT"
DEADLINE: Final = 5.0
"""Seconds; SIGKILL takes milliseconds unless the process hangs in the kernel."""
EXECUTED: Final = 0.2
"""Seconds that an exec(2) may take to set up the new program."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """A process that belongs to a run."""

    pid: int
    start: int
    group: int
    unit: str | None
    """None: nothing in its own environment says so, its group does."""


def end_survivors(run: str, units: Collection[str] | None = None) -> list[Survivor]:
    """SIGKILL the processes of a run, or of some units of it, until none is left; EngineError if some do not go within 5 s."""
    ended: dict[tuple[int, int], Survivor] = {}
    deadline = time.monotonic() + DEADLINE
    while found := survivors(run, units):
        if time.monotonic() > deadline:
            pids = ", ".join(str(survivor.pid) for survivor in found)
            raise EngineError(
                f"cannot end what run {run} left: SIGKILL does not end pid {pids}; see `ps -o stat,wchan`"
            )
        for survivor in found:
            ended[survivor.pid, survivor.start] = survivor
            _kill(survivor)
        time.sleep(0.005)
    return list(ended.values())


def survivors(run: str, units: Collection[str] | None = None) -> list[Survivor]:
    """Return the living processes of a run, or of some units of it, and of their groups, but none that the caller descends from."""
    spared = set(_ancestors(os.getpid()))
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    marked = {pid: unit for pid in pids if pid not in spared and (unit := _unit_of(pid, run)) is not None}
    if units is not None:
        marked = {pid: unit for pid, unit in marked.items() if unit in units}
    # Groups are looked at last: what has our mark has been executed and is in its own group by then. A moment earlier it was
    # a copy of its parent, in its parent's group.
    living = [process for pid in pids if (process := _look(pid))]
    groups = {process.group for process in living if process.pid in marked}
    groups -= {process.group for process in living if process.pid in spared}
    return [
        replace(process, unit=marked.get(process.pid) or None)
        for process in living
        if process.pid in marked or (process.group in groups and process.pid not in spared)
    ]


def _unit_of(pid: int, run: str) -> str | None:
    """Return the unit that a process of the run says it is, empty if it says none; None if it is not of the run."""
    try:
        environ = _environ(pid).split(b"\0")
    except OSError:
        return None
    if f"{RUN}={run}".encode() not in environ:
        return None
    prefix = f"{UNIT}=".encode()
    return next(
        (entry[len(prefix) :].decode(errors="replace") for entry in environ if entry.startswith(prefix)), ""
    )


def _environ(pid: int) -> bytes:
    """Return a process's environment, of one that is just being executed once it has it; OSError if it has ended."""
    about = Path(f"/proc/{pid}")
    deadline = time.monotonic() + EXECUTED
    # In the middle of exec(2) there is no command line yet, and the environment comes just after it. Threads of the kernel
    # have no program.
    executed = False
    while not (found := (about / "environ").read_bytes()):
        (about / "exe").readlink()
        if executed or time.monotonic() > deadline:
            break
        executed = bool((about / "cmdline").read_bytes())
        time.sleep(0.001)
    return found


def _look(pid: int) -> Survivor | None:
    """Return what there is to know of a process; None if it has ended, as zombies have."""
    with suppress(OSError, IndexError, ValueError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        state, _, group, *rest = stat[stat.rindex(b")") + 2 :].split()
        if state not in {b"Z", b"X"}:
            return Survivor(pid, int(rest[16]), int(group), None)
    return None


def _ancestors(pid: int) -> Iterator[int]:
    """Yield a process and all it descends from."""
    while pid > 0:
        yield pid
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return
        pid = int(stat[stat.rindex(b")") + 2 :].split()[1])


def _kill(survivor: Survivor) -> None:
    """SIGKILL exactly this process: the pidfd holds on to it while its start time is checked."""
    with suppress(OSError):
        pidfd = os.pidfd_open(survivor.pid)
        try:
            if start_time(survivor.pid) == survivor.start:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
