"""Rows under a heading, in columns of fixed width; on a narrow screen some columns are left out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.text import Text

from supervisor.live.words import fit

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column."""

    title: str
    width: int
    text: Callable[[Row], str]
    least: int = 0
    """Columns that the screen must have for it."""
    left: bool = False


def lines(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    style: Callable[[Row], str],
    width: int,
    *,
    focus: bool,
) -> list[Text]:
    """Return heading and rows. The first column takes what the others leave."""
    columns = [column for column in columns if column.least <= width]
    first = max(width - sum(column.width + 1 for column in columns[1:]), 8)
    widths = [first, *(column.width for column in columns[1:])]
    heading = " ".join(fit(c.title, w, right=not c.left) for c, w in zip(columns, widths, strict=True))
    drawn = [Text.assemble((heading, "bold reverse" if focus else "dim"))]
    for row in rows:
        cells = " ".join(fit(c.text(row), w, right=not c.left) for c, w in zip(columns, widths, strict=True))
        drawn.append(Text.assemble((cells, style(row))))
    return [cropped(line, width) for line in drawn]


def cropped(line: Text, width: int) -> Text:
    """Cut a line to the width of the screen."""
    line.truncate(width, overflow="ellipsis")
    return line


def folded(line: Text, width: int) -> list[Text]:
    """Cut a line to the width of the screen; one that may be folded goes on in a second row, from its last word that does not fit."""
    end = line.plain.rfind(" ", 0, width + 1)
    if line.overflow != "fold" or line.cell_len <= width or end < width // 2:
        return [cropped(line, width)]
    first, rest = line.divide([end])
    rest.plain = f" {rest.plain}"
    return [cropped(first, width), cropped(rest, width)]
