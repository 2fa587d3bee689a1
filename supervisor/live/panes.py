"""The tables of units, streams and entries: what they have, and in which style. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from supervisor.broker.health.findings import size
from supervisor.live.cursor import Cursor
from supervisor.live.picture import BrokerPicture, EntryPicture, RunPicture, Scene, StreamPicture, UnitPicture
from supervisor.live.table import Column, lines
from supervisor.live.words import UNKNOWN, age, amount

LATELY: Final = 2.0
"""Seconds for which what changed stands out."""
_UNITS: Final = {"up": "", "starting": "yellow", "down": "red", "given up": "bold red"}
_OPERATIONS: Final = {"put": "", "delete": "deleted", "purge": "purged"}


@dataclass(frozen=True, slots=True)
class Pane:
    """One table."""

    name: str
    total: int
    table: Callable[[int], list[Text]]
    """Heading and at most that many rows."""


def panes(scene: Scene, cursor: Cursor, width: int) -> list[Pane]:
    """Return the tables of a scene, from top to bottom."""
    found = []
    if (run := scene.run) is not None and run.units:
        found.append(_units(run, cursor, width))
    if (broker := scene.broker) is not None:
        found.append(_streams(broker, cursor, width))
        if broker.buckets:
            found.append(_entries(broker, cursor, width))
    return found


def _place(cursor: Cursor, pane: str, total: int, title: str) -> str:
    offset, shown = cursor.offsets[pane], cursor.shown.get(pane, 0)
    if not cursor.focus or not shown or total <= shown:
        return title
    return f"{title} {offset + 1:,}-{min(offset + shown, total):,} of {total:,}"


def _streams(broker: BrokerPicture, cursor: Cursor, width: int) -> Pane:
    def known(text: Callable[[StreamPicture], str]) -> Callable[[StreamPicture], str]:
        return lambda row: text(row) if row.known else UNKNOWN if not row.deleted else ""

    def consumers(row: StreamPicture) -> str:
        return str(row.consumers.count) if row.consumers else "0"

    columns: tuple[Column[StreamPicture], ...] = (
        Column(_place(cursor, "streams", broker.matching, "stream"), 0, lambda row: row.name, left=True),
        Column("messages", 9, known(lambda row: amount(row.messages))),
        Column("bytes", 8, known(lambda row: size(row.bytes or 0))),
        Column("first", 10, known(lambda row: amount(row.first)), least=132),
        Column("last", 10, known(lambda row: amount(row.last)), least=100),
        Column("cons", 5, known(consumers)),
        Column("idle", 5, known(lambda row: str(row.consumers.idle) if row.consumers else "0"), least=120),
        Column(
            "pending",
            8,
            known(lambda row: amount(row.consumers.pending) if row.consumers else "0"),
            least=112,
        ),
        Column(
            "unacked",
            8,
            known(lambda row: amount(row.consumers.ack_pending) if row.consumers else "0"),
            least=120,
        ),
        Column(
            "redeliv",
            8,
            known(lambda row: amount(row.consumers.redelivered) if row.consumers else "0"),
            least=140,
        ),
        Column("repl", 4, known(lambda row: f"{row.current}/{row.replicas}")),
        Column("lag", 7, known(lambda row: amount(row.lag)), least=106),
        Column("leader", 9, known(_leader), left=True),
        Column("changed", 7, _stream_changed),
    )

    def table(room: int) -> list[Text]:
        rows = broker.streams[:room]
        return lines(rows, columns, _stream_style, width, focus=cursor.focus == "streams")

    return Pane("streams", broker.matching, table)


def _leader(row: StreamPicture) -> str:
    return "no quorum" if not row.quorum else row.leader or "-"


def _stream_changed(row: StreamPicture) -> str:
    if row.deleted:
        return "deleted"
    return "unsure" if row.doubted else age(row.changed)


def _stream_style(row: StreamPicture) -> str:
    if row.deleted:
        return "red"
    if row.doubted or not row.quorum or row.current < row.replicas:
        return "yellow"
    return _fresh(row.changed) or ("" if row.known else "dim")


def _fresh(changed: float | None) -> str:
    return "bold green" if changed is not None and changed < LATELY else ""


def _entries(broker: BrokerPicture, cursor: Cursor, width: int) -> Pane:
    several = len(broker.buckets) > 1
    title = "key" if several else f"key of {broker.buckets[0].name}"
    columns: tuple[Column[EntryPicture], ...] = (
        Column(_place(cursor, "entries", broker.matching_entries, title), 0, lambda row: row.key, left=True),
        *((Column("bucket", 16, lambda row: row.bucket, left=True),) if several else ()),
        Column("revision", 10, lambda row: amount(row.revision)),
        Column("", 8, lambda row: _OPERATIONS[row.operation], left=True),
        Column("changed", 7, lambda row: age(row.changed)),
    )

    def style(row: EntryPicture) -> str:
        return _fresh(row.changed) or ("" if row.operation == "put" else "dim")

    def table(room: int) -> list[Text]:
        return lines(broker.entries[:room], columns, style, width, focus=cursor.focus == "entries")

    return Pane("entries", broker.matching_entries, table)


_Unit = tuple[str, UnitPicture]


def _units(run: RunPicture, cursor: Cursor, width: int) -> Pane:
    part = cursor.match.casefold()
    units = [unit for unit in run.units.items() if part in unit[0].casefold()]
    if cursor.sort == "change":
        units.sort(key=lambda unit: (unit[1].state == "up", unit[1].since))
    elif cursor.sort == "name":
        units.sort()
    columns: tuple[Column[_Unit], ...] = (
        Column(_place(cursor, "units", len(units), "unit"), 0, lambda unit: unit[0], left=True),
        Column("state", 8, lambda unit: unit[1].state, left=True),
        Column("for", 4, lambda unit: age(unit[1].since)),
        Column("crashes", 7, lambda unit: str(unit[1].crashes)),
        Column("restarts", 8, lambda unit: str(unit[1].restarts)),
        Column("last crash", max(width // 2 - 12, 8), lambda unit: unit[1].last_crash or "", left=True),
    )

    def style(unit: _Unit) -> str:
        return _UNITS.get(unit[1].state, "yellow")

    def table(room: int) -> list[Text]:
        offset = cursor.offsets["units"]
        return lines(units[offset : offset + room], columns, style, width, focus=cursor.focus == "units")

    return Pane("units", len(units), table)
