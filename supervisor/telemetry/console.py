"""The live view of a run at a terminal: what one wants to watch for an afternoon.

Log lines scroll; below them stands the picture of the run: time left, units, open episodes, loads, the last crash.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import IO, Final, cast

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from supervisor.journal.events import Phase
from supervisor.telemetry.output import Output
from supervisor.telemetry.pictures import EpisodePicture, LoadPicture, UnitPicture
from supervisor.telemetry.status import Status
from supervisor.values import format_duration

REFRESH: Final = 0.5
"""Seconds between two frames: quick enough to follow, slow enough for an ssh line; a frame costs some 5 ms."""
UNITS_SHOWN: Final = 14
LOADS_SHOWN: Final = 6
UNIT_COLUMNS: Final = 46
"""Columns between a unit's name and its last crash."""
LOAD_COLUMNS: Final = 84
"""Columns between a load's name and its last failure."""
_STYLES: Final = {"up": "green", "starting": "yellow", "down": "red", "given up": "bold red"}
_VERDICTS: Final = {"pass": "bold green", "inconclusive": "bold yellow", "fail": "bold red"}


def latency(seconds: float | None) -> str:
    """Write a latency for a table cell."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.2f}s"


def share(value: float | None) -> str:
    """Write a share for a table cell, never rounding a failure away."""
    if value is None:
        return "-"
    text = f"{value:.1%}"
    return ">99.9%" if text == "100.0%" and value < 1 else text


def _age(seconds: float) -> str:
    return format_duration(float(int(max(seconds, 0.0)))) if seconds >= 1 else "0s"


def frame(status: Status, width: int = 100) -> RenderableType:
    """Draw the picture, `width` columns wide at most."""
    now = time.monotonic()
    parts: list[RenderableType] = [
        Rule(_title(status), align="left", style="dim"),
        _clock(status, now, width),
    ]
    if status.units:
        parts.append(_units(status, now, width))
    if status.loads:
        parts.append(_loads(status, width))
    parts.append(_episodes(status, now))
    if crash := status.last_crash:
        at = dt.datetime.fromtimestamp(crash.wall, dt.UTC).strftime("%H:%M:%S")
        parts.append(
            Text.assemble(
                ("last crash  ", "dim"),
                f"{at} ",
                (crash.unit, "bold"),
                f" {crash.how}: ",
                (crash.signature, "red"),
            )
        )
    if status.trouble:
        parts.append(
            Text(
                "journal in trouble: " + ", ".join(status.trouble) + "; the verdict is inconclusive",
                "bold red",
            )
        )
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
    return Group(*parts)


def _title(status: Status) -> Text:
    if status.started is None:
        return Text("soakd")
    return Text.assemble(
        ("soakd ", "dim"), (status.started.soak, "bold"), (f"  seed {status.started.seed}", "dim")
    )


def _clock(status: Status, now: float, width: int) -> RenderableType:
    if status.verdict:
        return Text(status.verdict.verdict.upper(), _VERDICTS[status.verdict.verdict])
    words = Text.assemble(("phase ", "dim"), (status.phase, "bold"))
    if status.soaking_since is None:
        return words
    ran = now - status.soaking_since
    words.append(f"  {_age(ran)} soaked")
    left = status.time_left(now)
    if left is None:
        words.append("  until stopped")
    elif status.phase is Phase.SOAKING:
        words.append(f"  {_age(left)} left", "bold")
    if status.paused_until > now:
        words.append("  faults paused", "yellow")
    if status.steady is not None:
        words.append(
            "  steady" if status.steady.holds else "  not steady",
            "green" if status.steady.holds else "yellow",
        )
    duration = status.started.duration if status.started else None
    if not duration or width < 90:
        return words
    row = Table.grid(padding=(0, 2))
    row.add_row(words, ProgressBar(total=duration, completed=min(ran, duration), width=24))
    return row


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        right = not column.startswith("last")
        table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _units(status: Status, now: float, width: int) -> RenderableType:
    def urgency(item: tuple[str, UnitPicture]) -> tuple[bool, int]:
        return item[1].state == "up", -item[1].crashes

    table = _table("unit", "state", "for", "crashes", "restarts", "last crash")
    items = list(status.units.items())
    shown = items if len(items) <= UNITS_SHOWN else sorted(items, key=urgency)[:UNITS_SHOWN]
    name_width = max(len(name) for name, _ in shown)
    for name, unit in shown:
        last = Text(unit.signature)
        last.truncate(max(width - name_width - UNIT_COLUMNS, 10), overflow="ellipsis")
        crashes = Text(str(unit.crashes), "red" if unit.crashes else "")
        state = Text(unit.state, _STYLES[unit.state])
        table.add_row(name, state, _age(now - unit.since), crashes, str(unit.restarts), last)
    if len(items) > len(shown):
        up = sum(unit.state == "up" for _, unit in items)
        table.add_row(Text(f"{up} of {len(items)} up", "dim"))
    return table


def _loads(status: Status, width: int) -> RenderableType:
    columns = ["load", "ok", "ops", "rate", "failed", "indet.", "dropped", "p50", "p99", "last failure"]
    if width < 90:  # the last failure stands in the log lines above as well
        columns.pop()
    table = _table(*columns)
    for name, load in list(status.loads.items())[:LOADS_SHOWN]:
        cells = _load_cells(load, max(width - len(name) - LOAD_COLUMNS, 10))
        table.add_row(name, *cells[: len(columns) - 1])
    if len(status.loads) > LOADS_SHOWN:
        table.add_row(Text(f"and {len(status.loads) - LOADS_SHOWN} more", "dim"))
    return table


def _load_cells(load: LoadPicture, room: int) -> list[str | Text]:
    last = Text(load.last_failure)
    last.truncate(room, overflow="ellipsis")

    def bad(count: int) -> Text:
        return Text(str(count), "red" if count else "")

    return [
        share(load.ok_share()),
        str(load.operations),
        f"{load.rate():.1f}/s",
        bad(load.outcomes["failed"]),
        bad(load.outcomes["indeterminate"]),
        bad(load.dropped),
        latency(load.response.quantile(0.5)),
        latency(load.response.quantile(0.99)),
        last,
    ]


def _episodes(status: Status, now: float) -> Text:
    text = Text.assemble(("episodes    ", "dim"))
    for name, fault in status.faults.items():
        recovered = fault.outcomes["recovered"]
        text.append(f"{name} {fault.episodes}")
        if lost := fault.outcomes["not_recovered"]:
            text.append(f" ({lost} not recovered)", "bold red")
        elif recovered:
            median = fault.recovery.quantile(0.5)
            text.append(f" ({recovered} recovered, median {latency(median)})", "dim")
        text.append("  ")
    for episode in status.open.values():
        text.append(f"{episode.episode} {_stage(episode)} {_age(now - episode.since)}", "bold yellow")
        text.append(f" on {', '.join(episode.targets[:4])}{' ...' if len(episode.targets) > 4 else ''}  ")
    if not status.faults:
        text.append("no faults")
    return text


def _stage(episode: EpisodePicture) -> str:
    return {"inject": "begins", "hold": "holds", "recover": "recovers"}.get(episode.stage, episode.stage)


class Screen:
    """A terminal with the picture at its foot; also the stream that log lines are written to, above the picture."""

    def __init__(self, status: Status, output: Output) -> None:
        self._status, self._output = status, output
        self._console = Console(file=cast("IO[str]", output), force_terminal=True)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def write(self, text: str) -> int:
        """Print log text above the picture."""
        if text.strip():
            self._console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""

    async def run(self) -> None:
        """Draw a frame twice a second until cancelled, then take it away. A leaf task."""
        self._live.start()
        try:
            while not self._output.gone:
                self._live.update(frame(self._status, self._console.width), refresh=True)
                await anyio.sleep(REFRESH)
        finally:
            self._live.stop()
