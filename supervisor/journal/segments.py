"""The files a journal is kept in: `journal-0001.jsonl`, `journal-0002.jsonl` and so on, closed ones compressed.

Everything here blocks: it runs in the journal's threads, or in a replay.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Literal

PLAIN: Final = ".jsonl"
PACKED: Final = ".jsonl.xz"
_NAME: Final = re.compile(r"journal-(\d{4,})\.jsonl(\.xz)?")
_CHUNK: Final = 1 << 14
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


Trouble = Literal["disk-full", "short-write", "fsync-failed", "write-failed"]
"""The words `journal.trouble` has for it."""


class DiskError(Exception):
    """Bytes could not be written or made durable."""

    def __init__(self, what: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.what, self.detail = what, detail

    @classmethod
    def of(cls, error: OSError, doing: str) -> DiskError:
        """Sort an OSError into what it means for the journal."""
        what: Trouble = "disk-full" if error.errno in _FULL else "write-failed"
        return cls(what, f"cannot {doing}: {error.strerror or error}")


class Disk:
    """The system calls that a full or failing disk answers with an error; tests put one in that does."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file; not inherited by the processes soakd starts."""
        return os.open(path, flags, 0o644)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write once; the number of bytes taken may be less than all."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fsync(descriptor)


def segments(run_dir: Path) -> dict[int, Path]:
    """Return the segments of a run by number, in order. One that exists plain and packed (a crash in between) counts as plain."""
    found: dict[int, Path] = {}
    for path in sorted(run_dir.iterdir()):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), path)  # "….jsonl" sorts before "….jsonl.xz"
    return dict(sorted(found.items()))


def segment_path(run_dir: Path, number: int) -> Path:
    """Return the plain file of a segment."""
    return run_dir / f"journal-{number:04}{PLAIN}"


def lines_of(path: Path) -> Iterator[bytes]:
    """Read a segment line by line, newlines included; the last one may lack it."""
    if path.name.endswith(PLAIN):
        try:
            with path.open("rb") as file:
                yield from file
                return
        except FileNotFoundError:  # it was compressed since the directory was listed
            path = path.with_name(path.name.removesuffix(PLAIN) + PACKED)
    rest = b""
    with closing(_unpacked(path)) as chunks:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
    if rest:
        yield rest


def _unpacked(path: Path) -> Generator[bytes, None, None]:
    """Decompress a segment; if it is damaged, as much as there is, and then a line that says so by being none."""
    decompressor = lzma.LZMADecompressor()
    with path.open("rb") as file, suppress(lzma.LZMAError, EOFError):
        while packed := file.read(_CHUNK):
            yield decompressor.decompress(packed)
    if not decompressor.eof:
        yield b"damaged"


def sync_directory(path: Path, disk: Disk) -> None:
    """Make the creation, renaming or removal of a file in a directory durable."""
    descriptor = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(descriptor)
    finally:
        os.close(descriptor)


class Segment:
    """The segment that is being written. After a DiskError it is abandoned: nobody appends to it or syncs it again."""

    def __init__(self, run_dir: Path, number: int, disk: Disk) -> None:
        self.path, self.number = segment_path(run_dir, number), number
        self._disk = disk
        self.size = 0
        """Bytes of the lines that `append` succeeded with."""
        try:
            self._descriptor = disk.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        except OSError as error:
            raise DiskError.of(error, f"create {self.path}") from error
        try:
            sync_directory(run_dir, disk)
        except OSError as error:
            self.abandon()
            raise DiskError("fsync-failed", f"cannot sync {run_dir}: {error.strerror}") from error

    def append(self, lines: bytes, *, sync: bool) -> None:
        """Write whole lines with one call, durably if asked; DiskError if not all of it worked."""
        if lines:
            try:
                taken = self._disk.write(self._descriptor, lines)
            except OSError as error:
                raise DiskError.of(error, f"write to {self.path}") from error
            if taken != len(lines):
                raise DiskError("short-write", f"{self.path} took only {taken} of {len(lines)} bytes")
        if sync:
            try:
                self._disk.fsync(self._descriptor)
            except OSError as error:
                raise DiskError("fsync-failed", f"cannot sync {self.path}: {error.strerror}") from error
            if not os.fstat(self._descriptor).st_nlink:
                raise DiskError("write-failed", f"{self.path} was removed by somebody")
        self.size += len(lines)

    def abandon(self) -> None:
        """Close it after an error, and take back what nobody was promised: half a line, lines not synced, an empty file."""
        with suppress(OSError):
            if self.size:
                os.ftruncate(self._descriptor, self.size)
            else:
                self.path.unlink()
        self.close()

    def close(self) -> None:
        """Close the file. What was not synced is safe from the death of the process, not from that of the machine."""
        with suppress(OSError):
            os.close(self._descriptor)
