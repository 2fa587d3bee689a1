"""The seam between the journal and everybody who writes to it or follows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from supervisor.journal.events import Event, Record

T = TypeVar("T")

Listener = Callable[[Record], None]
"""Called on the event loop, in sequence order, once a record is written. It must be quick and must not raise."""


class JournalError(Exception):
    """A record could not be made durable. Whoever depends on it must not act."""


class Log(Protocol):
    """A rotated text file of the run directory, written by the writer thread."""

    def write(self, data: bytes) -> None:
        """Queue bytes; never blocks. Above the queue's bound the bytes are dropped and counted, and a line says how many."""


class Emitter(Protocol):
    """What those see of the journal who only tell it what happened."""

    def emit(self, event: Event) -> None:
        """Queue an event; never blocks. It is on disk within the flush interval, or `journal.trouble` says it is not."""


class Journal(Emitter, Protocol):
    """What the rooms see of the journal and of the one thread that touches files."""

    async def commit(self, event: Event) -> Record:
        """Write an event and wait until it is fsynced; JournalError if that failed."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Follow all records from now on; the return value ends that."""

    async def write_file(self, name: str, data: bytes, *, sync: bool = True) -> Path:
        """Write a whole file into the run directory, atomically and, with `sync`, fsynced; JournalError if that failed."""

    async def sync_file(self, name: str) -> None:
        """Wait until a file that was written without `sync` is fsynced, while the journal goes on; JournalError if that failed."""

    def log(self, name: str, *, max_bytes: int = 10_000_000, keep: int = 3) -> Log:
        """Open (once for each name) a rotated file: at most `keep` old generations of `max_bytes` each."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a short blocking function in the writer thread, after everything queued before it; its exception is raised here."""
