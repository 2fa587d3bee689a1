"""`soakd report`: judges runs again from their journals, and shows several side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor.cli.common import add, complain, importing, reading_much

if TYPE_CHECKING:
    from rich.table import Table

    from supervisor.judge.compare import Run
    from supervisor.judge.verdict import Judgement

SHOWN: Final = 8
"""Reasons of a verdict that are printed; the summary has all of them."""
WIDE: Final = 200
"""Columns of a table that goes into a file."""


def add_to(commands: Any) -> None:
    """Add the command to the parser's."""
    text = (
        "Judge runs again from their journals, write their reports anew, and show several runs side by side."
    )
    report = add(commands, "report", _report, text)
    report.add_argument("run_dirs", metavar="RUN_DIR", type=Path, nargs="+")
    report.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the report of one run, or several side by side, there too: a page (.html) or JSON (.json)",
    )


def _report(arguments: argparse.Namespace) -> int:
    with importing():
        from supervisor.journal.replay import ReplayError, replay
        from supervisor.judge.compare import Run
        from supervisor.judge.report import write_reports
        from supervisor.judge.verdict import judge

    reading_much()
    output: Path | None = arguments.output
    if wrong := _no_output(output):
        return complain(f"soakd: {wrong}")
    runs: list[Run] = []
    for directory in arguments.run_dirs:
        try:
            judgement = judge(replay(directory))
            write_reports(directory, judgement)
        except ReplayError as error:
            return complain(f"soakd: {error}")
        except OSError as error:
            return complain(f"soakd: cannot write the reports into {directory}: {error.strerror or error}")
        print(conclusion(judgement, directory), end="")
        runs.append(Run(directory, judgement, _soak_file(directory)))
    if len(runs) > 1:
        _side_by_side(runs)
    if output:
        try:
            output.write_text(_text(output, runs), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            return complain(f"soakd: cannot write {output}: {error.strerror or error}")
    worst = max((run.judgement.verdict for run in runs), key=lambda verdict: verdict.rank)
    return worst.exit_code


def _text(output: Path, runs: Sequence[Run]) -> str:
    """Return what goes into a file of that name: of one run its report, of several what they have side by side."""
    from supervisor.judge.beside import FORMATS
    from supervisor.judge.report import render

    if len(runs) == 1:
        name = "report.html" if output.suffix == ".html" else "verdict.json"
        return render(runs[0].directory, runs[0].judgement)[name]
    return FORMATS[output.suffix](runs)


def _no_output(output: Path | None) -> str:
    """Return why nothing can be written there; empty if it can be tried."""
    from supervisor.judge.beside import FORMATS

    if output is None:
        return ""
    if output.suffix not in FORMATS:
        return f"cannot write {output}: expected a name that ends in {' or '.join(FORMATS)}"
    return ""


def _soak_file(directory: Path) -> str:
    try:
        return (directory / "soak.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:  # moved without it: then the runs tell nothing of what sets them apart
        return ""


def conclusion(judgement: Judgement, directory: Path) -> str:
    """Return what a person at a terminal is told at the end of a run: the verdict, why, and where to look."""
    from rich.console import Console
    from rich.text import Text

    from supervisor.judge.summary import in_favour

    style = {"pass": "bold green", "inconclusive": "bold yellow", "fail": "bold red"}[judgement.verdict]
    text = StringIO()
    console = Console(file=text, force_terminal=os.isatty(1), width=columns())
    console.print(Text(judgement.verdict.upper(), style))
    if judgement.verdict == "pass":
        console.print(f"  {in_favour(judgement)}")
    for reason in judgement.reasons[:SHOWN]:
        console.print(Text(f"  {reason}"))
    if len(judgement.reasons) > SHOWN:
        console.print(f"  and {len(judgement.reasons) - SHOWN} more", style="dim")
    console.print(Text(f"  {directory}/summary.md", "dim"), soft_wrap=True)
    return text.getvalue()


def _side_by_side(runs: list[Run]) -> None:
    from rich.console import Console

    console = Console(width=columns() if os.isatty(1) else WIDE)
    console.print()
    console.print(_table(runs))


def _table(runs: list[Run]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from supervisor.judge.compare import names, rows

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in names(runs):
        table.add_column(Text(name), overflow="fold")
    section = ""
    for row in rows(runs):
        if row.section != section:
            section = row.section
            table.add_row(Text(section, "bold underline"))
        style = "" if row.differs else "dim"
        table.add_row(Text(f"  {row.what}", style), *(Text(value, style) for value in row.values))
    return table


def columns() -> int:
    """Return how wide the terminal is."""
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 100
