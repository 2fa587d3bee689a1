"""Several runs side by side as a file of its own: a page for a browser, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Final

from supervisor.judge import page
from supervisor.judge.compare import Row, Run, names, rows
from supervisor.judge.course import course
from supervisor.judge.document import document, strict

SCHEMA: Final = 1
_STYLE: Final = """<style>tr.section th { color: inherit; padding-top: 1em; } tr.same { color: var(--dim); }
td, th { overflow-wrap: anywhere; min-width: 8em; } td:first-child { min-width: 17em; }</style>"""


def as_page(runs: Sequence[Run]) -> str:
    """Return the text of a page: what the runs have of everything in one table, and the course of each below it."""
    heads = names(runs)
    title = f"{', '.join(_soaks(runs))}: {len(runs)} runs side by side"
    body = [_STYLE, f"<h1>{escape(title)}</h1>", "<table>", _row("th", "", heads)]
    for section, several in groupby(rows(runs), key=lambda row: row.section):
        body.append(f'<tr class="section"><th colspan="{len(runs) + 1}">{escape(section)}</th></tr>')
        body += [_table_row(row) for row in several]
    body.append("</table>")
    for head, run in zip(heads, runs, strict=True):
        body += _picture(head, run)
    worst = max((run.judgement.verdict for run in runs), key=lambda verdict: verdict.rank)
    return page.whole(title, [*body, page.KEY], page.COLOURS[worst])


def as_json(runs: Sequence[Run]) -> str:
    """Return JSON: the same table as texts, and of each run what its verdict.json says, so that the numbers are there too."""
    told = {
        "schema": SCHEMA,
        "rows": [
            {"section": row.section, "what": row.what, "values": list(row.values), "differs": row.differs}
            for row in rows(runs)
        ],
        "runs": [
            {"name": name, "directory": str(run.directory), **document(run.judgement)}
            for name, run in zip(names(runs), runs, strict=True)
        ],
    }
    return json.dumps(strict(told), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Final[Mapping[str, Callable[[Sequence[Run]], str]]] = {".html": as_page, ".json": as_json}
"""By the end of a file's name."""


def _soaks(runs: Sequence[Run]) -> list[str]:
    """Return the names of the soaks, each once."""
    started = [run.judgement.tally.started for run in runs]
    return list(dict.fromkeys(one.soak if one else "soak" for one in started))


def _table_row(row: Row) -> str:
    return _row("td", row.what, row.values, "" if row.differs else ' class="same"')


def _row(kind: str, what: str, cells: Sequence[str], attributes: str = "") -> str:
    told = "".join(f"<{kind}{_class(cell)}>{escape(cell)}</{kind}>" for cell in cells)
    return f"<tr{attributes}><{kind}>{escape(what)}</{kind}>{told}</tr>"


def _class(cell: str) -> str:
    """Return the attribute for a cell that is a verdict, or begins with one."""
    word = cell.partition(":")[0].lower()
    return f' class="{word}"' if word in page.COLOURS else ""


def _picture(head: str, run: Run) -> Iterator[str]:
    """Yield the course of a run under its name."""
    picture = [*course(run.judgement.tally)]
    if picture:
        verdict = run.judgement.verdict
        yield f'<h2>{escape(head)}: <strong class="{verdict}">{verdict}</strong></h2>'
        yield from ('<div class="course">', *picture, "</div>")
