"""A scene as lines of a screen of any size: pure. What is unknown is `?`, never nothing and never zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from supervisor.live.cursor import Cursor
from supervisor.live.head import head
from supervisor.live.panes import Pane, panes
from supervisor.live.picture import Scene
from supervisor.live.table import cropped, folded
from supervisor.live.words import clean

NARROWEST: Final = 40


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn."""

    lines: list[Text]
    shown: dict[str, int]
    """Rows that there is room for, by pane."""
    totals: dict[str, int]


def draw(scene: Scene, cursor: Cursor, width: int, height: int) -> Frame:
    """Return the frame for a screen, exactly `height` lines."""
    width = max(width, NARROWEST)
    top = [row for line in head(scene) for row in folded(line, width)][: max(height - 4, 1)]
    tables = panes(scene, cursor, width)
    room = max(height - len(top) - 1, 0)
    names = [pane.name for pane in tables]
    focus = names.index(cursor.focus) if cursor.focus in names else 0
    heights = allot(room, [pane.total + 1 for pane in tables], focus)
    lines, shown = top, dict[str, int]()
    for pane, lot in zip(tables, heights, strict=True):
        lines += pane.table(lot - 1)[:lot] if lot else []
        shown[pane.name] = max(lot - 1, 0)
    lines = lines[: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    lines.append(cropped(_foot(cursor, tables), width))
    return Frame(lines[-height:], shown, {pane.name: pane.total for pane in tables})


def plain(scene: Scene, width: int) -> list[Text]:
    """Return all rows that a scene has, without anything for keys."""
    lines = [row for line in head(scene) for row in folded(line, width)]
    for pane in panes(scene, Cursor(focus=""), width):
        lines += [Text(), *pane.table(pane.total)]
    return lines


def allot(room: int, wants: Sequence[int], focus: int) -> list[int]:
    """Part the lines among panes: the one in focus has what the others leave, which is at least a fair share of each."""
    if not wants:
        return []
    fair = max(room // (len(wants) + 1), 2)
    lots = [0] * len(wants)
    for index in [focus, *(index for index in range(len(wants)) if index != focus)]:
        lots[index] = min(wants[index], fair, room - sum(lots))
    for index in [focus, *range(len(wants))]:
        lots[index] += min(wants[index] - lots[index], room - sum(lots))
    return lots


def _foot(cursor: Cursor, tables: Sequence[Pane]) -> Text:
    if cursor.editing:
        return Text.assemble(
            ("/", "bold"), clean(cursor.match), ("█", "blink"), ("  enter keep  esc drop", "dim")
        )
    line = Text.assemble(
        ("q", "bold"), " quit  ", ("↑↓ PgUp PgDn", "bold"), " scroll  ", ("s", "bold"), f" by {cursor.sort}  "
    )
    if len(tables) > 1:
        line.append("tab", "bold").append(f" {cursor.focus}  ")
    line.append("/", "bold").append(" filter" if not cursor.match else "")
    if cursor.match:
        line.append(clean(cursor.match), "bold yellow").append("  ").append("esc", "bold").append(" all")
    return line
