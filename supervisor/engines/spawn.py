"""Starting a local process, and telling how it ended.

A process is spawned with `subprocess.Popen`, which uses vfork, so that its price does not grow with our memory: 0.2 ms from a parent of
200 MB, where fork and exec took 10 ms and uvloop's own spawn 35 ms. Its exit is seen through a pidfd, which an event loop can wait
for, so nothing polls and no SIGCHLD handler is needed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_OWN: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MACHINE: Final = Path("/proc/vmstat")
_OURS_ALONE: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)
"""What a service manager tells soakd, not the units: a unit that announced itself there would speak for soakd."""


@dataclass(slots=True)
class Child:
    """A process of ours, leader of its own group, until it is reaped."""

    process: subprocess.Popen[bytes]
    pidfd: int
    output: int
    """Non-blocking read end of the pipe that is its standard output and error."""
    reports: int | None
    """The same of its standard output alone, if that was asked for; `output` is then its standard error."""
    incarnation: str
    started: float
    """Monotonic seconds."""
    oom_kills: int
    """What had been counted (`oom_kills`) before it was started."""
    killed: bool = field(default=False)
    """We sent SIGKILL."""

    @property
    def pid(self) -> int:
        """Process id, and the id of its group."""
        return self.process.pid

    def send(self, number: int) -> None:
        """Send a signal to the process itself; ended already: nothing happens."""
        self.killed |= number == signal.SIGKILL
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def send_group(self, number: int) -> None:
        """Send a signal to the whole group. Only before `reap`: until then nobody else can get the group's id."""
        self.killed |= number == signal.SIGKILL
        with suppress(
            ProcessLookupError, PermissionError
        ):  # PermissionError: all that is left runs as somebody else
            os.killpg(self.pid, number)

    def reap(self) -> tuple[int | None, str | None]:
        """End what is left of the group and return exit code and signal name. The process itself has ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self.process.wait()  # it has ended: this does not wait
        return (code, None) if code >= 0 else (None, signal_name(-code))

    def close(self) -> None:
        """Close our ends; the process must be reaped."""
        os.close(self.pidfd)
        os.close(self.output)
        if self.reports is not None:
            os.close(self.reports)


def spawn(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    *,
    apart: bool = False,
    pass_fds: Collection[int] = (),
) -> Child:
    """Start a process in a group of its own; OSError if it cannot be started. Blocks for about a millisecond.

    `apart`: its standard output has a pipe of its own, `Child.reports`. It inherits the descriptors in `pass_fds`, under the same
    numbers, and no others but the standard ones.
    """
    before = oom_kills()
    ends = [os.pipe2(os.O_CLOEXEC) for _ in range(2 if apart else 1)]
    try:
        for read_end, _ in ends:
            os.set_blocking(read_end, False)
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={name: value for name, value in env.items() if name not in _OURS_ALONE},
            stdin=subprocess.DEVNULL,
            stdout=ends[-1][1],
            stderr=ends[0][1],
            process_group=0,
            pass_fds=pass_fds,
        )
    except BaseException:
        for read_end, _ in ends:
            os.close(read_end)
        raise
    finally:
        for _, write_end in ends:
            os.close(write_end)
    started = time.monotonic()
    incarnation = f"{process.pid}:{start_time(process.pid)}"
    return Child(
        process,
        os.pidfd_open(process.pid),
        ends[0][0],
        ends[1][0] if apart else None,
        incarnation,
        started,
        before,
    )


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot: with its pid this names it for ever. OSError if it is gone."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def stopped(pid: int) -> bool:
    """Say whether all threads of a process stand still after SIGSTOP: the kernel stops them one by one. Gone counts as still."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # this thread has just ended
                stat = (thread / "stat").read_bytes()
                if stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] not in b"TtZX":
                    return False
    return True


def signal_name(number: int) -> str:
    """Return a name such as SIGKILL."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"SIG{number}"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory: in our control group or, where it has no count, in all.

    Our children are in ours, and containers are not: what becomes of these says nothing about them.
    """
    for path in _counts():
        with suppress(OSError, ValueError, IndexError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _counts() -> Iterator[Path]:
    """Yield the files that may have the count, the nearest first."""
    with suppress(OSError, ValueError):
        for line in _OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):  # cgroup v1
                yield _CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
            elif not controllers:
                yield _CGROUPS / path.lstrip("/") / "memory.events"
    yield _MACHINE
