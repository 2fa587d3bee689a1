"""Markdown that survives whatever a log line or an error text contains, and tables that stay short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

ROWS: Final = 20
"""Rows of a table before it says how many more there are."""
WIDTH: Final = 160
"""Characters of a cell: a table is to be read, the whole text is in verdict.json and the files it names."""
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<|~])")


def text(value: object, width: int = WIDTH) -> str:
    """Return a value as plain text of one line."""
    line = " ".join(str(value).split())
    line = line if len(line) <= width else line[: width - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def code(value: object) -> str:
    """Return a value as code, which nothing in it can end early."""
    line = " ".join(str(value).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], total: int, noun: str) -> Iterator[str]:
    """Yield the lines of a table of at most `ROWS` of `total` rows; nothing at all if there are none."""
    shown = list(islice(rows, ROWS))
    if not shown:
        return
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in shown:
        yield "| " + " | ".join(text(cell) for cell in row) + " |"
    yield ""
    if total > len(shown):
        yield f"… and {total - len(shown):,} more {noun}."
        yield ""
