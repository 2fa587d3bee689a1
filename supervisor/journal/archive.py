"""Keeps a journal small: closed segments are compressed, and above the byte budget the oldest are folded.

It works in a thread of its own, so that two seconds of compressing never keep a commit waiting.
"""

from __future__ import annotations

import lzma
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.journal.fold import fold
from supervisor.journal.replay import superseded_from
from supervisor.journal.segments import PACKED, PLAIN, Disk, lines_of, segments, sync_directory

log = structlog.get_logger("soakd.journal")

SPANS: Final = (60.0, 600.0, 3600.0)
"""Seconds over which windows are folded, in turn."""
FILTERS: Final[list[dict[str, Any]]] = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]
"""xz makes segments a quarter smaller than gzip and reads back 100 MB/s. A dictionary of 1 MB costs 0.2 % of that against the
preset's 8 MB, and 12 MB of memory instead of 94 (`scripts/bench/journal_day`)."""
_CHUNK: Final = 1 << 18


class StoppedError(Exception):
    """The journal is being closed; what is left to do is done when it is next opened."""


class Archiver(threading.Thread):
    """Packs and folds the segments below the one that is being written, whenever one was closed."""

    def __init__(self, run_dir: Path, budget: int, crashed: Callable[[Exception], None]) -> None:
        """`crashed` is told, in this thread, what ended it before its time."""
        super().__init__(name="soakd-archive", daemon=True)
        self._run_dir, self._budget, self._crashed = run_dir, budget, crashed
        self._closed: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._levels: dict[int, int] = {}
        self._full = False

    def closed(self, number: int) -> None:
        """Hear that a segment, and with it all before, will not be written any more."""
        self._closed.put(number)

    def stop(self) -> None:
        """End soon, in the middle of a segment if need be."""
        self._stopping.set()
        self._closed.put(None)

    def run(self) -> None:
        """Work until stopped."""
        with suppress(OSError):  # Linux: of this thread alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            while (number := self._closed.get()) is not None:
                self._tidy(number)
        except StoppedError:
            return
        except Exception as error:  # noqa: BLE001  # told to the loop, where it is journalled
            self._crashed(error)

    def _tidy(self, last: int) -> None:
        """Pack and fold the segments up to `last`. A full disk leaves them for the next time."""
        try:
            for number, path in segments(self._run_dir).items():
                if number <= last and path.name.endswith(PLAIN):
                    self._replace(path, path.read_bytes())
            while self._fold_one(last):
                pass
        except OSError as error:
            log.warning("cannot compress the journal: it is tried again later", error=str(error))

    def _fold_one(self, last: int) -> bool:
        """Fold one more segment if the journal is above its budget; say whether there may be more to do."""
        paths = segments(self._run_dir)
        if sum(path.stat().st_size for path in paths.values()) <= self._budget:
            return False
        levels = {number: self._levels.get(number, 0) for number in paths if number <= last}
        number = min(levels, key=lambda number: (levels[number], number), default=None)
        if number is None or levels[number] == len(SPANS):
            if not self._full:
                log.warning(
                    "the journal is above its budget though all is folded", run_dir=str(self._run_dir)
                )
            self._full = True
            return False
        span, until = SPANS[levels[number]], superseded_from(paths)[number]
        self._replace(paths[number], fold(lines_of(paths[number]), span, until))
        self._levels[number] = levels[number] + 1
        return True

    def _replace(self, path: Path, lines: bytes) -> None:
        """Put the packed form of a segment in its place. A crash at any moment leaves the old file, the new one or both."""
        packed = path.with_name(path.name.removesuffix(PACKED).removesuffix(PLAIN) + PACKED)
        temporary = path.with_name(f".{packed.name}.tmp")
        compressor = lzma.LZMACompressor(filters=FILTERS)
        with temporary.open("wb") as file:
            for start in range(0, len(lines), _CHUNK):
                if self._stopping.is_set():
                    temporary.unlink()
                    raise StoppedError
                file.write(compressor.compress(lines[start : start + _CHUNK]))
            file.write(compressor.flush())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(packed)
        sync_directory(self._run_dir, Disk())
        if path != packed:
            path.unlink()
