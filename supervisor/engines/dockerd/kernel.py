"""What this machine's kernel shows of containers that run on it, their processes and who was killed for want of memory, and does to them.

An engine may be elsewhere, also behind a socket that looks local; then nothing here is about its containers. Blocks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOG: Final = Path("/dev/kmsg")
_RECORD: Final = 16_384
"""Bytes of a record of the kernel's log at most."""
SKEW: Final = 5.0
"""Seconds by which the clock of the kernel's log may differ from the monotonic one."""


def runs_here(pid: int | None, container: str) -> bool:
    """Say whether a container's process is one of this machine."""
    with suppress(OSError):
        # The engine mounts files into each container that have its id in their paths.
        marks = (Path(f"/proc/{pid}/{name}").read_text() for name in ("mountinfo", "cgroup"))
        return pid is not None and any(container in mark for mark in marks)
    return False


def signalled(pid: int | None, container: str, number: int) -> bool:
    """Send a container's process a signal; return whether it is one of this machine to which we may."""
    if pid is None:
        return False
    with suppress(OSError):
        process = os.pidfd_open(pid)  # whoever has that number later is not meant
        try:
            if runs_here(pid, container):
                signal.pidfd_send_signal(process, number)
                return True
        finally:
            os.close(process)
    return False


def oom_kills() -> int | None:
    """Return how often this machine's kernel has killed for want of memory, in all control groups. It counts before it kills."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def oom_record(container: str, started: float) -> int:
    """Return the number of the last record in the kernel's log of a kill for want of memory in a container; 0: there is none.

    Not those before `started`, monotonic seconds. That there is none says nothing: not everybody may read that log, and of many kills
    in a few seconds the kernel writes down only some.
    """
    found = 0
    for record in _records():
        head, _, text = record.partition(b";")
        if text.startswith(b"oom-kill:") and container.encode() in text.partition(b"task_memcg=")[2]:
            _, number, micros, *_ = head.split(b",")
            if int(micros) / 1e6 >= started - SKEW:
                found = int(number)
    return found


def _records() -> Iterator[bytes]:
    """Yield what the kernel's log holds; nothing if we may not read it."""
    with suppress(OSError):
        log = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:  # until there is no more, which is a BlockingIOError
                with suppress(BrokenPipeError):  # this one has just been overwritten
                    yield os.read(log, _RECORD)
        finally:
            os.close(log)
