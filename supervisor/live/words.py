"""Names and numbers as cells of fixed width. Names come from outside: what is in them must not reach the terminal."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len, set_cell_size

UNKNOWN: Final = "?"


def clean(text: str) -> str:
    """Replace what would move the cursor, ring the bell or turn the writing round."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Make a text exactly `width` columns wide. A long one loses its middle: names differ at their ends."""
    text = clean(text)
    size = cell_len(text)
    if size > width:
        text, size = _cut(text, width), width
    return f"{' ' * (width - size)}{text}" if right else f"{text}{' ' * (width - size)}"


def _cut(text: str, width: int) -> str:
    if width < 4:
        return set_cell_size(text, width)
    tail = ""
    for character in reversed(text[-width:]):
        if cell_len(character) + cell_len(tail) > (width - 1) // 3:
            break
        tail = character + tail
    return f"{set_cell_size(text, width - 1 - cell_len(tail))}…{tail}"


def amount(number: int | None) -> str:
    """Write a count in at most eight columns."""
    if number is None:
        return UNKNOWN
    if number < 1_000_000:
        return f"{number:,}"
    for unit in ("M", "G", "T"):
        number_ = number / 1_000_000
        if number_ < 10_000 or unit == "T":
            return f"{number_:,.1f}{unit}"
        number //= 1_000
    return UNKNOWN


def age(seconds: float | None) -> str:
    """Write how long ago something was, in at most four columns; `-` for longer than anybody has looked."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(max(seconds, 0))}s"
