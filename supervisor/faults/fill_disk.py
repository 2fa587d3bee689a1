"""The fault that fills the disk that a unit writes to."""

from __future__ import annotations

import errno
import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Self

from anyio import to_thread
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError
from supervisor.engines.capabilities import HasVolumes
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Aim, CannotAim, Layout, Site, UndoError, World
from supervisor.faults.units import UnitFault, able
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration, Share, Size

CHUNK: Final = 64_000_000
"""Bytes that are taken at once, in a thread: inject can be cut short between two of them."""
BLOCK: Final = 1_000_000
"""Bytes that are written at once where space cannot be taken without writing."""
BLOCKS: Final = 4096
"""Bytes: file systems give space in blocks of that size, or of a part of it."""
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOOKS: Final = 3


class FillDisk(UnitFault):
    """Fill the file system of a unit's volume for `hold`, with one file that has the episode's name.

    What becomes free meanwhile stays free. The journal's file system is never filled.
    """

    key: ClassVar[str] = "fill_disk"
    needs = HasVolumes
    in_targets: ClassVar[bool] = False
    undo_needs_engines: ClassVar[bool] = False

    fill_disk: Selector = Field(description="The units whose disk is filled.")
    path: str = Field(
        min_length=1,
        description="A directory of the volume: as a container sees it, for a local process seen from the soak file's folder.",
    )
    size: Size | None = Field(None, gt=0, description="How much to take at most.")
    share: Share | None = Field(None, gt=0, description="Which share of the free space to take.")
    leave: Size = Field(0, description="How much to leave free in any case.")
    hold: Duration = Field(gt=0, description="How long it stays full.")

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.size is not None and self.share is not None:
            raise ValueError("expected one of size or share, found both")
        return self

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:
        """Volumes that are not there or not to be reached, and the journal's own file system."""
        for unit in layout.selected(self.selector):
            try:
                if volume := layout.volume(unit, self.path, site.base):
                    _check(volume, site.runs)
            except (EngineError, OSError) as error:
                yield f"cannot fill the disk of {unit}: {error}"

    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose the units, find their volumes, and see how much there is to take; units on one file system share one file."""
        aim, files = await super().aim(world, rng), dict[int, dict[str, str | int]]()
        try:
            for target in aim.targets:
                engine, name = able(world.fleet, target.unit, HasVolumes)
                volume = await engine.volume(name, self.path)
                device, size = await to_thread.run_sync(self._measure, volume, world.run_dir)
                if size <= 0:
                    raise CannotAim(
                        f"there is nothing to take in {volume}: no more is free than is to be left"
                    )
                files.setdefault(device, {"folder": str(volume), "size": size})
        except (EngineError, OSError) as error:
            raise CannotAim(str(error)) from error
        return Aim(aim.targets, {"files": list(files.values()), "mark": secrets.token_hex(4)})

    def _measure(self, volume: Path, run_dir: Path | None) -> tuple[int, int]:
        """Return the device of a volume, and how many bytes to take."""
        _check(volume, run_dir)
        free = _free(volume)
        wanted = self.size if self.size is not None else int(free * (1 if self.share is None else self.share))
        return volume.stat().st_dev, min(wanted, free - self.leave)

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Take the space, a part after the other, until it is taken or the disk is full."""
        for file, size in _files(intent):
            await to_thread.run_sync(_create, file, world.run_dir)
            taken, more = 0, True
            while more and taken < size:
                more = await to_thread.run_sync(_take, file, taken, min(CHUNK, size - taken), self.leave)
                taken += CHUNK

    async def undo(self, world: World, intent: FaultIntent) -> None:  # noqa: ARG002  # the files are all there is of it
        """Remove the files."""
        for file, _ in _files(intent):
            try:
                await to_thread.run_sync(file.unlink, True)  # missing: no error
            except NotADirectoryError:
                continue
            except OSError as error:
                raise UndoError(
                    f"the disk is still full: cannot remove {file}: {error.strerror}; remove it by hand"
                ) from error


def _files(intent: FaultIntent) -> Iterator[tuple[Path, int]]:
    """Yield the files of an episode, each with its size. The mark keeps them apart from those of other runs."""
    for file in intent.undo["files"]:
        name = f".soakd-fill-{intent.episode.replace('#', '-')}-{intent.undo['mark']}"
        yield Path(file["folder"]) / name, file["size"]


def _free(volume: Path) -> int:
    """Return the bytes that are free for us: root may also take what is reserved for it."""
    seen = os.statvfs(volume)
    return (seen.f_bfree if os.geteuid() == 0 else seen.f_bavail) * seen.f_frsize


def _check(volume: Path, run_dir: Path | None) -> None:
    """Raise EngineError if a volume cannot be filled without filling the journal's disk."""
    if not volume.is_dir():
        raise EngineError(f"{volume} is not a directory")
    if not os.access(volume, os.W_OK):
        raise EngineError(f"{volume} may not be written to; run soakd as root")
    if run_dir is not None and same_space(volume, run_dir):
        raise EngineError(
            f"{volume} is on the file system of the run directory, which would lose the journal; "
            "keep them on different ones, with --run-dir or a volume of its own"
        )


def same_space(one: Path, other: Path) -> bool:
    """Say whether two places share their free space; of a place that is not there yet the folder above it counts.

    One file system may be seen as several devices (overlay, subvolumes): then sizes and free blocks are the same, to the block.
    """
    while not other.exists():
        other = other.absolute().parent
    if one.stat().st_dev == other.stat().st_dev:
        return True
    seen = ((os.statvfs(one), os.statvfs(other)) for _ in range(_LOOKS))
    return any((a.f_blocks, a.f_bfree, a.f_files) == (b.f_blocks, b.f_bfree, b.f_files) for a, b in seen)


def _create(file: Path, run_dir: Path | None) -> None:
    """Make the file, empty; it must not be there, nor anything that leads elsewhere."""
    _check(file.parent, run_dir)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


def _take(file: Path, start: int, size: int, leave: int) -> bool:
    """Make the file larger by `size` bytes, as far as that leaves enough; return whether all of it was to be had."""
    wanted, size = size, min(size, (_free(file.parent) - leave) // BLOCKS * BLOCKS)
    if size <= 0:
        return False
    descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        try:
            os.posix_fallocate(descriptor, start, size)
        except OSError as error:
            if error.errno in _FULL:
                _write(descriptor, start, size)
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            return _write(descriptor, start, size) and size == wanted
    finally:
        os.close(descriptor)
    return size == wanted


def _write(descriptor: int, start: int, size: int) -> bool:
    """Write what no file system can make smaller; return whether there was room for all of it."""
    block, end = os.urandom(BLOCK), start + size
    while start < end:
        try:
            start += os.pwrite(descriptor, block[: end - start], start)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
    return True
