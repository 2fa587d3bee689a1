"""Who a message is: (run, load, epoch, writer, n), written at the beginning of its payload so that everybody can read it."""

from __future__ import annotations

import time
from typing import NamedTuple


class Identity(NamedTuple):
    """One writer of one life of a load. It numbers its messages 1, 2, 3 ... without a gap."""

    run: str
    load: str
    epoch: int
    """Which life of the load: it begins anew with each restart, so that nothing of the one before is taken for its own."""
    writer: int = 0

    @classmethod
    def new(cls, run: str, load: str, writer: int = 0) -> Identity:
        """Return the identity of a life that begins now. `writer` tells the processes apart that share a load."""
        return cls(run, load, time.time_ns() // 1_000_000, writer)

    @property
    def prefix(self) -> bytes:
        """What every message begins with; the number follows."""
        return f"{self.run} {self.load} {self.epoch} {self.writer} ".encode()


class Writer:
    """Writes the messages of one identity."""

    def __init__(self, identity: Identity, size: int) -> None:
        """`size`: bytes that a message has at least."""
        self.identity, self._prefix, self._size = identity, identity.prefix, size
        self.n = 0
        """The number of the last message."""

    def next(self, more: bytes = b"") -> bytes:
        """Return the next message; `more` follows its number."""
        self.n += 1
        return self.message(self.n, more)

    def message(self, n: int, more: bytes = b"") -> bytes:
        """Return the message with a number. The one with 0 is a greeting, which is never missed."""
        return (self._prefix + b"%d " % n + more).ljust(self._size, b".")

    def take_back(self, n: int) -> None:
        """Give a number out again: its message was never sent, and none was written after it."""
        if self.n == n:
            self.n -= 1

    def read(self, payload: bytes) -> int | None:
        """Return the number of a message of ours, -1 if it cannot be read; None for a message of anybody else."""
        if not payload.startswith(self._prefix):
            return None
        number = payload[len(self._prefix) :].split(b" ", 1)[0]
        return int(number) if number.isdigit() else -1

    def ours(self, payload: bytes) -> bool:
        """Say whether a message is of this load, though another process or an earlier life of it may have written it."""
        return payload.startswith(f"{self.identity.run} {self.identity.load} ".encode())

    def word(self, payload: bytes) -> str:
        """Return the word that follows the number of a message of this load, whoever wrote it; empty for any other."""
        words = payload.split(b" ", 6)
        return words[5].decode(errors="replace") if self.ours(payload) and len(words) > 6 else ""

    def read_more(self, payload: bytes) -> bytes:
        """Return the word that follows the number of a message of ours; empty if there is none."""
        words = payload[len(self._prefix) :].split(b" ", 2)
        return words[1] if len(words) > 2 else b""
