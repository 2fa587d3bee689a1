"""Standard output as the daemon uses it: never blocking, never fatal.

A reader that is slow (a pager, a full pipe) or gone (a closed terminal, a dead ssh session) must neither stall the event loop nor
end a run. One thread writes; a bounded queue stands before it; what does not fit is dropped and counted.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from types import TracebackType
from typing import Final, Self

QUEUE: Final = 2000
"""Chunks, a log line or a console frame each: some seconds of a very busy run."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the last lines may take."""


class Output:
    """A file-like object for text, good enough for logging and for rich. Use it as a context manager."""

    encoding: Final = "utf-8"
    errors: Final = "replace"

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._write_all, name="soakd-output", daemon=True)
        self.dropped = 0
        """Chunks lost because the reader was too slow."""
        self.gone = False
        """True once the other side is closed: everything written from then on is thrown away."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._queue.put(None, timeout=CLOSE_TIMEOUT)
        except queue.Full:
            return  # the reader hangs: a daemon thread dies with us
        self._thread.join(CLOSE_TIMEOUT)

    def write(self, text: str) -> int:
        """Queue text; never blocks, never raises."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self.dropped += 1
        return len(text)

    @property
    def busy(self) -> bool:
        """Whether something is not written yet: who draws pictures leaves some out rather than queue them."""
        return self._queue.unfinished_tasks > 0

    def flush(self) -> None:
        """Nothing to do: the thread writes at once."""

    def isatty(self) -> bool:
        """Say whether a terminal is on the other side."""
        return self._terminal

    def fileno(self) -> int:
        """Return the descriptor, for those who ask for the terminal's size."""
        return self._descriptor

    def _write_all(self) -> None:
        # The daemon is a background process group of its terminal: under `stty tostop` a write would stop it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        while (text := self._queue.get()) is not None:
            if not self.gone:
                self._write(text.encode(errors="replace"))
            self._queue.task_done()

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # EPIPE, EIO: nobody reads any more, and the run goes on
            self.gone = True
