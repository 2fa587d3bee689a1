"""Disks that fail on purpose: the writer's seam for system calls, with something wrong behind it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from supervisor.journal.segments import Disk


class FaultyDisk(Disk):
    """Asks `trouble` before each call: an errno is raised, for a write any other number is how many bytes are taken."""

    def __init__(self) -> None:
        self.trouble: Callable[[str, Path], int | None] = lambda _call, _path: None
        self.paths: dict[int, Path] = {}
        self.calls: list[tuple[str, str]] = []

    def open(self, path: Path, flags: int) -> int:
        self._ask("open", path)
        descriptor = super().open(path, flags)
        self.paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        if (short := self._ask("write", self.paths[descriptor])) is not None:
            return super().write(descriptor, data[:short])
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._ask("fsync", self.paths[descriptor])
        super().fsync(descriptor)

    def _ask(self, call: str, path: Path) -> int | None:
        self.calls.append((call, path.name))
        answer = self.trouble(call, path)
        if answer is not None and answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer


class SmallDisk(Disk):
    """Takes so many bytes and no more, as a disk does that is full: a part of the last write, then none."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = super().write(descriptor, data[: self.room])
        self.room -= taken
        return taken


def once(call: str, answer: int, name: str = "journal-") -> Callable[[str, Path], int | None]:
    """Fail the first such call on a file whose name begins so."""
    left = [answer]
    return lambda asked, path: left.pop() if asked == call and path.name.startswith(name) and left else None


def always(call: str, answer: int, name: str = "journal-") -> Callable[[str, Path], int | None]:
    """Fail every such call on files whose names begin so."""
    return lambda asked, path: answer if asked == call and path.name.startswith(name) else None
