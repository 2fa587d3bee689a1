"""Control groups for local processes: how much of the machine a unit may use, changed while it runs. All of this blocks.

Each unit has a group of its own, from its first moment on, since the kernel charges memory to the group that a process was in when it
took it. Groups of a run are made below the nearest control group whose children have what is needed, nobody else's processes are
moved: in version 1 that is our own, in version 2 an ancestor, as a rule, for a group that has processes of its own cannot be divided.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.engines.base import EngineError

CONTROLLERS: Final = ("cpu", "memory")
PERIOD: Final = 100_000
"""Microseconds: the kernel's own period, of which a quota is a part."""
UNLIMITED: Final = -1
GONE: Final = 5.0
"""Seconds that the kernel may take to let go of a group whose last process has ended."""
_PREFIX: Final = "soakd-"
_HUGE: Final = 2**62
"""Bytes from which a limit is none: version 1 writes its own largest number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups can be made."""

    version: int
    parents: Mapping[str, Path]
    """Controller -> directory. In version 2 it is the same for all."""
    roots: frozenset[Path]
    """Where the hierarchies begin."""


def find(controllers: Sequence[str] = CONTROLLERS, proc: Path = Path("/proc/self")) -> Place:
    """Say where groups can be made; EngineError if there is no such place."""
    ours = dict(_groups(proc))
    mounts = list(_mounts(proc))
    if parents := _version_1(controllers, ours, mounts):
        return Place(1, parents, frozenset(root for _, root, _, kinds in mounts if kinds & {*controllers}))
    for top, root, kind, _ in mounts:
        if kind == "cgroup2" and "" in ours:
            own = root / _below(ours[""], top)
            for parent in (own, *own.parents):
                if _divides(parent, controllers) and os.access(parent, os.W_OK):
                    return Place(2, dict.fromkeys(controllers, parent), frozenset({root}))
                if parent == root:
                    break
    raise EngineError(
        "cannot make control groups: no control group of this process may be divided by it; run soakd as root, or drop cgroups: true"
    )


def _version_1(
    controllers: Sequence[str], ours: Mapping[str, str], mounts: Sequence[tuple[str, Path, str, set[str]]]
) -> dict[str, Path]:
    """Return the parents if all controllers are mounted in version 1 and can be written."""
    parents = {
        controller: root / _below(ours[controller], top)
        for controller in controllers
        for top, root, kind, kinds in mounts
        if kind == "cgroup" and controller in kinds and controller in ours
    }
    usable = len(parents) == len(controllers) and all(os.access(one, os.W_OK) for one in parents.values())
    return parents if usable else {}


def _groups(proc: Path) -> Iterator[tuple[str, str]]:
    """Yield controller and path of the groups we are in; version 2 has the empty name (cgroups(7))."""
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path


def _mounts(proc: Path) -> Iterator[tuple[str, Path, str, set[str]]]:
    """Yield of each mounted hierarchy which of its directories is mounted, where, its type and its options (proc(5))."""
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind.startswith("cgroup"):
            top, root = before.split()[3:5]
            yield top, Path(root), kind, set(options.split(","))


def _below(path: str, top: str) -> str:
    """Return a group's path seen from the directory that is mounted."""
    return path.removeprefix(top).lstrip("/") if path.startswith(top) else path.lstrip("/")


def _divides(parent: Path, controllers: Sequence[str]) -> bool:
    with suppress(OSError):
        return {*controllers} <= {*(parent / "cgroup.subtree_control").read_text().split()}
    return False


class Group:
    """The control group of one unit of a run, over all of its lives."""

    def __init__(self, place: Place, run: str, unit: str) -> None:
        self._version, self.unit = place.version, unit
        self._paths = {name: parent / f"{_PREFIX}{run}" / unit for name, parent in place.parents.items()}

    def make(self) -> None:
        """Make it; EngineError if that is refused."""
        try:
            for path in {*self._paths.values()}:
                path.parent.mkdir(exist_ok=True)
                if self._version == 2:
                    (path.parent / "cgroup.subtree_control").write_text(
                        " ".join(f"+{name}" for name in self._paths)
                    )
                path.mkdir(exist_ok=True)
        except OSError as error:
            raise EngineError(f"cannot make a control group for {self.unit}: {error}") from error

    def add(self, pid: int) -> None:
        """Put a process into it; one that has ended already is no error."""
        try:
            for path in {*self._paths.values()}:
                (path / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            return
        except OSError as error:
            raise EngineError(f"cannot put {self.unit} into its control group: {error}") from error

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed for want of memory."""
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        with suppress(OSError, KeyError, ValueError):
            lines = (self._paths["memory"] / file).read_text().splitlines()
            return int(dict(line.split(" ", 1) for line in lines)["oom_kill"])
        return 0

    def limits(self) -> dict[str, int]:
        """Return its limits in the words of a container engine; -1 is none."""
        found: dict[str, int] = {}
        try:
            if "cpu" in self._paths:
                found |= self._cpu()
            if "memory" in self._paths:
                found |= {key: self._bytes(file) for key, file in self._memory().items() if self._has(file)}
        except OSError as error:
            raise EngineError(f"cannot read the limits of {self.unit}: {error}") from error
        return found

    def _cpu(self) -> dict[str, int]:
        cpu = self._paths["cpu"]
        if self._version == 2:
            quota, period = (cpu / "cpu.max").read_text().split()
            return {"CpuQuota": UNLIMITED if quota == "max" else int(quota), "CpuPeriod": int(period)}
        files = {"CpuQuota": "cpu.cfs_quota_us", "CpuPeriod": "cpu.cfs_period_us"}
        return {key: int((cpu / file).read_text()) for key, file in files.items()}

    def _memory(self) -> dict[str, str]:
        if self._version == 2:
            return {"Memory": "memory.max", "Swap": "memory.swap.max"}
        return {"Memory": "memory.limit_in_bytes", "MemorySwap": "memory.memsw.limit_in_bytes"}

    def _has(self, file: str) -> bool:
        return (self._paths["memory"] / file).exists()  # swap is not accounted for everywhere

    def _bytes(self, file: str) -> int:
        text = (self._paths["memory"] / file).read_text().strip()
        return UNLIMITED if text == "max" or int(text) >= _HUGE else int(text)

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set some of its limits."""
        try:
            if "CpuQuota" in limits:
                self._limit_cpu(limits["CpuQuota"], limits.get("CpuPeriod", PERIOD))
            files = [(limits[key], file) for key, file in self._memory().items() if key in limits]
            # Version 1: memory and swap together are never less than memory alone, in between neither.
            if files and self._bytes(files[0][1]) >= 0 and not 0 <= files[0][0] < self._bytes(files[0][1]):
                files.reverse()
            for value, file in files:
                self._write_bytes(file, value)
        except OSError as error:
            why = (
                "it uses more, and the kernel cannot take so much back"
                if error.errno == errno.EBUSY
                else str(error)
            )
            raise EngineError(f"cannot limit {self.unit}: {why}") from error

    def _limit_cpu(self, quota: int, period: int) -> None:
        cpu = self._paths["cpu"]
        if self._version == 2:
            (cpu / "cpu.max").write_text(f"{'max' if quota < 0 else quota} {period}")
        else:
            (cpu / "cpu.cfs_period_us").write_text(str(period))
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))

    def _write_bytes(self, file: str, value: int) -> None:
        none = "max" if self._version == 2 else str(UNLIMITED)
        (self._paths["memory"] / file).write_text(none if value < 0 else str(value))

    def tightened(self, *, cpus: float | None = None, memory: int | None = None) -> dict[str, int]:
        """Return the limits that leave it so many processors' time, or bytes of memory; EngineError if it has no more already."""
        now = self.limits()
        if cpus is not None:
            return tightened_cpu(self.unit, cpus, now["CpuQuota"], now["CpuPeriod"])
        page = resource.getpagesize()
        wanted = (memory or 0) // page * page
        if 0 <= now["Memory"] <= wanted:
            raise EngineError(f"{self.unit} has no more than {now['Memory']} bytes of memory as it is")
        swap = {"Swap": 0, "MemorySwap": wanted}
        return {"Memory": wanted} | {key: value for key, value in swap.items() if key in now}

    def remove(self) -> None:
        """Remove it, and with the last unit the run's own group; its processes have ended."""
        for path in {*self._paths.values()}:
            _remove(path)
            with suppress(OSError):
                path.parent.rmdir()


def tightened_cpu(unit: str, cpus: float, quota: int, period: int) -> dict[str, int]:
    """Return the quota for so many processors' time; EngineError if there is no more of it already."""
    if 0 < quota <= cpus * period:
        raise EngineError(f"{unit} has no more than {quota / period:g} processors as it is")
    return {"CpuQuota": round(cpus * PERIOD), "CpuPeriod": PERIOD}


def left_by(run: str) -> list[Path]:
    """Return the groups that a run has made and not removed, wherever that was; `run` may be a pattern (fnmatch)."""
    try:
        roots = find().roots
    except (EngineError, OSError):
        return []
    return [
        Path(folder) / name
        for root in sorted(roots)
        for folder, names, _ in os.walk(root)  # which does not mind that others' groups come and go
        for name in fnmatch.filter(names, f"{_PREFIX}{run}")
    ]


def remove_all(run: str) -> int:
    """Remove what groups a run has left; its processes have ended. Return how many."""
    count = 0
    for group in left_by(run):
        with suppress(FileNotFoundError):
            for unit in [one for one in group.iterdir() if one.is_dir()]:
                _remove(unit)
                count += 1
        _remove(group)
    return count


def _remove(path: Path) -> None:
    deadline = time.monotonic() + GONE
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise EngineError(f"cannot remove the control group {path}: {error}") from error
        else:
            return
        time.sleep(0.01)
