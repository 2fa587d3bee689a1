"""`soakd watch` in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio

PATIENCE = 60.0  # a stream whose end was not announced is believed to be gone after 25 s
WHO = {"SOAKD_NATS_USER": "admin", "SOAKD_NATS_PASSWORD": "secret"}
_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([^\x1b]+)")


class Terminal:
    """A screen of 80 by 24, as far as the program uses one."""

    def __init__(self, *words: str, env: dict[str, str] | None = None) -> None:
        self.leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(follower)
        self.follower = follower
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "supervisor", "watch", *words],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=os.environ | (env or {}),
        )
        self.sent, self.rows = "", dict[int, str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        with suppress(OSError):
            while data := os.read(self.leader, 65536):
                rest += data
                end = rest.rfind(b"\x1b[?2026l") + 8
                if end >= 8:  # whole frames
                    self._show(rest[:end].decode())
                    rest = rest[end:]
                self.sent += data.decode(errors="replace")

    def _show(self, text: str) -> None:
        row = 0
        for match in _TOKEN.finditer(text):
            numbers, what, letters = match.groups()
            if what == "J":
                self.rows = {}
            elif what == "H":
                row = int(numbers.split(";")[0])
                self.rows[row] = ""
            elif letters:
                self.rows[row] = self.rows.get(row, "") + letters

    @property
    def text(self) -> str:
        return "\n".join(self.rows[row] for row in sorted(self.rows))

    async def shows(self, what: str | Callable[[str], Any], seconds: float = PATIENCE) -> None:
        holds = what if callable(what) else lambda text: what in text
        deadline = time.monotonic() + seconds
        while not holds(self.text):
            assert time.monotonic() < deadline, (
                f"waited in vain for {what}:\n{self.text}\n{self.sent[-500:]!r}"
            )
            assert self.process.poll() is None, self.sent[-2000:]
            await anyio.sleep(0.02)

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def ends(self) -> int:
        code = self.process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while not self.sent.endswith("\x1b[?1049l") and time.monotonic() < deadline:
            time.sleep(0.01)  # the last bytes may still be on their way
        assert termios.tcgetattr(self.follower)[3] == self.before[3]
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.follower)
        os.close(self.leader)


Watch = Callable[..., Terminal]
