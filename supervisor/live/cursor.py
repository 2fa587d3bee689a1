"""Which part of it all is on the screen, and what the keys do to that. Pure."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import Final, get_args

from supervisor.live.picture import ROWS, Sort, Wish

PANES: Final[tuple[str, ...]] = ("streams", "entries", "units")
_SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
_SEQUENCES: Final = {
    "[A": "up",
    "OA": "up",
    "[B": "down",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "OH": "home",
    "[1~": "home",
    "[F": "end",
    "OF": "end",
    "[4~": "end",
    "[Z": "back tab",
}
_SEQUENCE: Final = re.compile(r"\x1b(\[[0-9;]*[A-Za-z~]|O[A-Z])")
_BEGUN: Final = re.compile(r"\x1b(\[[0-9;]*|O)?$")
_CONTROLS: Final = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "erase",
    "\b": "erase",
    " ": " ",
    "\x15": "clear",
}


class Keys:
    """Makes keys of what a terminal sends; a sequence may come in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def pending(self) -> bool:
        """Something has begun that may be a sequence, or the escape key."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete: a character, or a name such as `page up`."""
        text, keys = self._rest + self._decoder.decode(data), list[str]()
        self._rest = ""
        while text:
            if match := _SEQUENCE.match(text):
                keys.append(_SEQUENCES.get(match[1], ""))
                text = text[match.end() :]
            elif _BEGUN.match(text):
                self._rest = text
                break
            elif text[0] == "\x1b":
                keys.append("escape")
                text = text[1:]
            else:
                keys.append(_CONTROLS.get(text[0], text[0] if text[0].isprintable() else ""))
                text = text[1:]
        return [key for key in keys if key]

    def flush(self) -> list[str]:
        """Nothing more came: it was the escape key."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest else []


@dataclass(slots=True)
class Cursor:
    """What the person in front of it wants to see."""

    focus: str = "streams"
    sort: Sort = "change"
    match: str = ""
    editing: bool = False
    """A filter is being typed."""
    offsets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PANES, 0))
    shown: dict[str, int] = field(default_factory=dict)
    """Rows that the last frame had room for, by the panes it had."""
    totals: dict[str, int] = field(default_factory=dict)

    def wish(self) -> Wish:
        """Return which rows a frame needs."""
        rows = max(self.shown.get("streams", 100), self.shown.get("entries", 100))
        return Wish(
            match=self.match,
            sort=self.sort,
            streams_from=self.offsets["streams"],
            entries_from=self.offsets["entries"],
            rows=min(rows + 1, ROWS),
        )

    def settle(self, shown: dict[str, int], totals: dict[str, int]) -> bool:
        """Take what a frame had room for, and how many rows there are; say whether it has to be drawn again."""
        before = (dict(self.offsets), self.wish().rows)
        self.shown, self.totals = shown, totals
        for pane in shown:
            self.offsets[pane] = min(self.offsets[pane], self._last(pane))
        if self.focus not in shown:
            self.focus = next(iter(shown), "streams")
        return self.offsets != before[0] or self.wish().rows > before[1]

    def press(self, key: str) -> bool:
        """Do what a key says; False for the one that ends it all."""
        if self.editing:
            self._edit(key)
            return True
        page = max(self.shown.get(self.focus, 10) - 1, 1)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, " ": page}
        if key in steps:
            self._scroll(self.offsets[self.focus] + steps[key])
        elif key in {"home", "g"}:
            self._scroll(0)
        elif key in {"end", "G"}:
            self._scroll(self._last(self.focus))
        elif key in {"tab", "back tab"}:
            panes = [pane for pane in PANES if pane in self.shown] or [self.focus]
            step = 1 if key == "tab" else -1
            self.focus = panes[(panes.index(self.focus) + step) % len(panes)]
        elif key == "s":
            self.sort = _SORTS[(_SORTS.index(self.sort) + 1) % len(_SORTS)]
            self._top()
        elif key == "/":
            self.editing = True
        elif key == "escape":
            self._filter("")
        return key not in {"q", "Q"}

    def _edit(self, key: str) -> None:
        if key in {"enter", "tab"}:
            self.editing = False
        elif key == "escape":
            self.editing = False
            self._filter("")
        elif key == "erase":
            self._filter(self.match[:-1])
        elif key == "clear":
            self._filter("")
        elif len(key) == 1 and len(self.match) < 100:
            self._filter(self.match + key)

    def _filter(self, match: str) -> None:
        if match != self.match:
            self.match = match
            self._top()

    def _top(self) -> None:
        self.offsets = dict.fromkeys(PANES, 0)

    def _last(self, pane: str) -> int:
        return max(self.totals.get(pane, 0) - self.shown.get(pane, 0), 0)

    def _scroll(self, to: int) -> None:
        self.offsets[self.focus] = min(max(to, 0), self._last(self.focus))
