"""A terminal that is ours for a while: keys as they are pressed, and a screen of which only changed lines are written."""

from __future__ import annotations

import os
import termios
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Final

import anyio
from rich.console import Console
from rich.text import Text

from supervisor.live.cursor import Keys
from supervisor.telemetry.output import Output

ESCAPE: Final = 0.05
"""Seconds after which an escape with nothing behind it is the key of that name."""
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without a cursor, long lines cut."""
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN: Final = "\x1b[?2026h"
"""Synchronized output: a terminal that knows it shows a frame at once; others do not mind."""
_END: Final = "\x1b[?2026l"


class Painter:
    """Writes frames to a terminal."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._console = Console(file=StringIO(), force_terminal=True)
        self._shown: list[Text] = []
        self._size = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal now."""
        try:
            size = os.get_terminal_size(self._output.fileno())
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24  # a terminal that nobody told its size says 0

    @property
    def gone(self) -> bool:
        """Nobody reads any more."""
        return self._output.gone

    @contextmanager
    def screen(self) -> Iterator[None]:
        """Take the screen, and give it back as it was."""
        self._output.write(_ENTER)
        try:
            yield
        finally:
            self._output.write(_LEAVE)

    def paint(self, lines: Sequence[Text], size: tuple[int, int]) -> None:
        """Write what changed. A frame is left out while the terminal has not taken the one before."""
        if self._output.busy:
            return
        anew = size != self._size
        parts = ["\x1b[2J"] if anew else []
        for number, line in enumerate(lines):
            if anew or number >= len(self._shown) or not _same(line, self._shown[number]):
                # A full line leaves the cursor on its last cell: erasing to the end would take that away.
                rest = "" if line.cell_len >= size[0] else "\x1b[0m\x1b[K"
                parts.append(f"\x1b[{number + 1};1H{self._render(line, size[0])}{rest}")
        if parts:
            self._output.write(f"{_BEGIN}{''.join(parts)}{_END}")
        self._shown, self._size = list(lines), size

    def _render(self, line: Text, width: int) -> str:
        with self._console.capture() as written:
            self._console.print(line, end="", width=width, no_wrap=True, overflow="crop", highlight=False)
        return written.get()


def _same(one: Text, other: Text) -> bool:
    return one.plain == other.plain and one.spans == other.spans


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Have keys as they are pressed and not shown; Ctrl-C stays a signal, Ctrl-Z does nothing."""
    before = termios.tcgetattr(descriptor)
    ours = termios.tcgetattr(descriptor)
    ours[3] &= ~(termios.ICANON | termios.ECHO)
    ours[6][termios.VMIN], ours[6][termios.VTIME] = 1, 0
    ours[6][termios.VSUSP] = b"\0"  # stopped, we would leave the shell with our screen
    termios.tcsetattr(descriptor, termios.TCSANOW, ours)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


async def keys(descriptor: int) -> AsyncGenerator[list[str]]:
    """Yield keys, those that came together at once, until the terminal is closed."""
    decoder = Keys()
    while True:
        with anyio.move_on_after(ESCAPE if decoder.pending else None) as waiting:
            await anyio.wait_readable(descriptor)
        if waiting.cancelled_caught:
            yield decoder.flush()
            continue
        try:
            data = os.read(descriptor, 1024)
        except OSError:
            return
        if not data:
            return
        yield decoder.feed(data)
