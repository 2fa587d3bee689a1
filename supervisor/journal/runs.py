"""Where runs live: their directories, the index of those that are not over, and the locks that keep two off the same units.

All locks are `flock`s: the kernel drops them when their owner dies, however it dies, and the commands it starts do not inherit them.
Everything here blocks; the daemon calls it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from supervisor.journal.segments import Disk, sync_directory

log = structlog.get_logger("soakd.runs")

_STRANGE: Final = re.compile(r"[^\w.-]+")
_LONGEST: Final = 200
"""Bytes of a file name that is made from a name; file systems take 255."""


class Locked(Exception):  # noqa: N818  # it says what is the matter
    """Somebody else holds what this run needs; the text says who, and what to do."""


def boot_id() -> str:
    """Return the kernel's id of this boot: monotonic clocks and pids compare only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def state_dir() -> Path:
    """Return the directory for what must outlive a run, index and locks. It need not exist."""
    if chosen := os.environ.get("SOAKD_STATE_DIR"):
        return Path(chosen)
    if given := os.environ.get("STATE_DIRECTORY"):  # systemd may name several, parted by colons
        return Path(given.split(":")[0])
    if home := os.environ.get("XDG_STATE_HOME"):
        return Path(home) / "soakd"
    return Path.home() / ".local" / "state" / "soakd"


def create_run_dir(root: Path, soak: str, now: float) -> Path:
    """Make `<root>/<soak>/<UTC time>/`, point `latest` beside it there, and return it in full.

    `now` is wall seconds. Two starts within one second get two directories. OSError if it cannot be made.
    """
    parent = root / (_cut(_STRANGE.sub("-", soak).strip(".-")) or "soak")
    parent.mkdir(parents=True, exist_ok=True)
    stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)), 1
    path = parent / stamp
    while True:
        try:
            path.mkdir()
            break
        except FileExistsError:
            number += 1
            path = parent / f"{stamp}-{number}"
    link = parent / f".latest-{path.name}"
    link.symlink_to(path.name)
    link.replace(parent / "latest")
    sync_directory(parent, Disk())
    return path.resolve()


class Lock:
    """Locked files, released together."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def take(self, descriptor: int, how: int = fcntl.LOCK_EX) -> None:
        """Lock an open file and keep it; BlockingIOError if somebody else has it, and the file is closed."""
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptors.append(descriptor)

    def release(self) -> None:
        """Let go. Released already: no error."""
        while self._descriptors:
            os.close(self._descriptors.pop())


@dataclass(frozen=True, slots=True)
class Entry:
    """A run in the index: one that is going on, or one that died and is not healed."""

    run_id: str
    run_dir: Path
    soak: str
    pid: int
    boot: str
    started: float
    """Wall seconds."""
    file: Path = field(repr=False)
    source: str = ""
    """The soak file that it was started with, in full: it leads to its run whatever is in it by now."""
    lock: Lock = field(default_factory=Lock, compare=False, repr=False)
    """What says that the run lives, in the process that entered it."""

    def leave(self) -> None:
        """Take the run out of the index. Taken out already: no error."""
        self.file.unlink(missing_ok=True)
        sync_directory(self.file.parent, Disk())
        self.lock.release()


class RunIndex:
    """The runs of this host that are not over, and the locks of their units, by one state directory."""

    def __init__(self, state: Path) -> None:
        self._runs, self._locks = state / "runs", state / "locks"

    def enter(self, run_id: str, run_dir: Path, soak: str, source: Path | None = None) -> Entry:
        """Put a run on record, durably, for as long as this process lives; OSError if that cannot be. `source`: its soak file."""
        self._runs.mkdir(parents=True, exist_ok=True)
        file, written = self._runs / f"{_safe(run_id)}.json", str(source.resolve()) if source else ""
        entry = Entry(run_id, run_dir.resolve(), soak, os.getpid(), boot_id(), time.time(), file, written)
        # Locked before it has its name, so that nobody ever sees a living run without its lock.
        nameless = file.with_name(f".{file.name}.{os.getpid()}")
        entry.lock.take(descriptor := os.open(nameless, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        try:
            os.write(descriptor, _json(entry))
            os.fsync(descriptor)
            nameless.replace(file)
            sync_directory(self._runs, Disk())
        except OSError:
            nameless.unlink(missing_ok=True)
            entry.lock.release()
            raise
        return entry

    def abandoned(self) -> list[Entry]:
        """Return the runs whose process is dead, oldest first. Nobody holds them: two may heal the same one."""
        found = []
        for file in sorted(self._runs.glob("*.json")):
            try:
                if entry := _read_abandoned(file):
                    found.append(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning(
                    "cannot read an entry of the index of runs: delete it if nothing of that run is left",
                    file=str(file),
                    error=str(error),
                )
        return sorted(found, key=lambda entry: entry.started)

    def alive(self, run_dir: Path) -> int | None:
        """Return the pid of the daemon whose run has this directory and goes on, None if there is none."""
        for file in self._runs.glob("*.json"):
            try:
                data = json.loads(file.read_bytes())
                if Path(data["run_dir"]) == run_dir.resolve() and _read_abandoned(file) is None:
                    return int(data["pid"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # it has just left, or is no entry: `abandoned` complains about those
        return None

    def living(self, soak: str | None = None, source: Path | None = None) -> list[Path]:
        """Return the directories of the runs that go on, of one soak, of one soak file or of all, the latest first."""
        found, written = [], str(source.resolve()) if source else None
        for file in self._runs.glob("*.json"):
            try:
                data = json.loads(file.read_bytes())
                meant = soak in {None, data["soak"]} and written in {None, data.get("source")}
                if meant and _read_abandoned(file) is None:
                    found.append((float(data["started"]), Path(data["run_dir"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # as above
        return [directory for _, directory in sorted(found, reverse=True)]

    def lock(self, keys: Iterable[str], holder: str) -> Lock:
        """Lock all keys, or none and raise Locked. The locks die with this process."""
        self._locks.mkdir(parents=True, exist_ok=True)
        lock = Lock()
        for key in sorted(set(keys)):
            file = self._locks / _safe(key)
            try:
                lock.take(descriptor := os.open(file, os.O_RDWR | os.O_CREAT, 0o644))
            except BlockingIOError:
                lock.release()
                raise Locked(f"cannot use {key}: {_holder(file)}") from None
            except OSError:
                lock.release()
                raise
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"holder": holder, "pid": os.getpid()}).encode(), 0)
        return lock


def _json(entry: Entry) -> bytes:
    names = ("run_id", "soak", "pid", "boot", "started", "source")
    data: dict[str, Any] = {name: getattr(entry, name) for name in names} | {"run_dir": str(entry.run_dir)}
    return json.dumps(data).encode() + b"\n"


def _read_abandoned(file: Path) -> Entry | None:
    """Read an entry unless its run lives or has just left."""
    probe = Lock()
    try:
        # Shared: two that look at the same time must not take each other for the run.
        probe.take(os.open(file, os.O_RDONLY), fcntl.LOCK_SH)
        data = json.loads(file.read_bytes())
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        probe.release()
    return Entry(**(data | {"run_dir": Path(data["run_dir"]), "file": file}))


def _holder(file: Path) -> str:
    try:
        data = json.loads(file.read_bytes())
        return (
            f"the run {data['holder']} has it (pid {data['pid']}); "
            f"wait for its end, or end it with `kill {data['pid']}`"
        )
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not written yet who it is
        return "another run has just taken it; wait for its end"


def _safe(name: str) -> str:
    """Make a file name of any text, a different one for each."""
    quoted = quote(name, safe="").replace(".", "%2E")
    if len(quoted) <= _LONGEST:
        return quoted or "%"
    return f"{quoted[:100]}-{hashlib.sha256(name.encode()).hexdigest()}"


def _cut(name: str) -> str:
    return name.encode()[:_LONGEST].decode(errors="ignore")
