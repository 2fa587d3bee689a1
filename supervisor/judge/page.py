"""report.html: the summary as one page for a browser, with the course of the run as a picture. No script, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from supervisor.judge import summary
from supervisor.judge.course import course
from supervisor.judge.verdict import Judgement

_INLINE: Final = re.compile(r"\\(?P<plain>.)|\*\*(?P<bold>.+?)\*\*|(?P<fence>`+) ?(?P<code>.+?) ?(?P=fence)")
_CELL: Final = re.compile(r"((?:\\.|[^\\|])*)\|")
_VALUE: Final = r"(?:[\d,.]+(?:%|/s|(?:(?:ms|[dhms])[\d.]*)*)|-)"
_WHOLE: Final = re.compile(
    rf"{_VALUE}(?: / {_VALUE})*|{_VALUE} of {_VALUE} \({_VALUE}\)|\d\d-\d\d \d\d:\d\d:\d\d(?: \(.*\))?|\S+#\d+"
)
"""Numbers, times and episodes: what is torn apart at the end of a line cannot be compared."""
STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --dim: #777; --fail: #cc3b3b; --pass: #3d8a4d; --doubt: #b8860b; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; border-left: .4em solid var(--verdict); padding-left: .5em; }
h2 { font-size: 1.1em; margin: 2em 0 .5em; }
table { border-collapse: collapse; margin: .5em 0 1em; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; }
td.fail, strong.fail { color: var(--fail); font-weight: 600; }
td.pass { color: var(--pass); }
td.inconclusive, strong.inconclusive { color: var(--doubt); font-weight: 600; }
code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6em; border: 1px solid var(--line); }
.course { overflow-x: auto; margin: 1em 0; }
svg { width: 100%; min-width: 760px; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg text.small { font-size: 9.5px; opacity: .7; }
svg line.grid { stroke: currentColor; opacity: .15; }
.key span { display: inline-block; margin-right: 1.4em; color: var(--dim); }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; vertical-align: -.05em; }
"""
KEY: Final = """<p class="key"><span><i style="background:#4f8f5b"></i>ok a second</span>
<span><i style="background:#cc3b3b"></i>failed or dropped; crashes</span>
<span><i style="background:#3f6fb5"></i>slowest ok response</span>
<span>episodes: full until undone, pale until recovered, framed in red if something went wrong</span></p>"""
COLOURS: Final = {"pass": "var(--pass)", "inconclusive": "var(--doubt)", "fail": "var(--fail)"}


def render(judgement: Judgement, directory: str = ".") -> str:
    """Return the text of report.html; `directory` is the run directory as commands should name it."""
    started = judgement.tally.started
    title = f"{started.soak if started else 'soak'}: {judgement.verdict}"
    head, *rest = _sections(summary.render(judgement, directory))
    picture = [*course(judgement.tally)]
    framed = ('<div class="course">', *picture, "</div>", KEY) if picture else ()
    body = [*_blocks(head), *framed]
    for section in rest:
        body += _blocks(section)
    return whole(title, body, COLOURS[judgement.verdict])


def whole(title: str, body: Iterable[str], colour: str) -> str:
    """Return a page of its own, with nothing from elsewhere; `colour` marks its heading."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    lines = (
        "<!doctype html>",
        '<html lang="en">',
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<style>{STYLE}:root {{ --verdict: {colour}; }}</style>",
        *body,
        "</html>",
    )
    return "\n".join(lines) + "\n"


def _sections(markdown: str) -> list[list[str]]:
    """Return the lines of the summary: up to the end of its reasons, and each section after that."""
    sections: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("## ") and line != "## Why":
            sections.append([])
        sections[-1].append(line)
    return sections


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Turn our own Markdown, and no other, into HTML."""
    kind = ""
    for line in [*lines, ""]:
        now = _kind(line, kind)
        if now != kind and kind in _ENDS:
            yield _ENDS[kind]
        if now != kind and now in _BEGINS:
            yield _BEGINS[now]
        yield from _line(line, now, first=now != kind)
        kind = "" if now == "pre end" else now
    if kind in _ENDS:
        yield _ENDS[kind]


_BEGINS: Final = {"table": "<table>", "list": "<ul>", "pre": "<pre>"}
_ENDS: Final = {"table": "</table>", "list": "</ul>", "pre": "</pre>"}


def _kind(line: str, before: str) -> str:
    if line.startswith("```"):
        return "pre end" if before == "pre" else "pre"
    if before == "pre":
        return "pre"
    return "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"


def _line(line: str, kind: str, *, first: bool) -> Iterator[str]:
    if kind == "pre":
        if not line.startswith("```"):
            yield escape(line)
    elif kind == "table":
        cells = [cell.strip() for cell in _CELL.findall(line[1:])]
        if not all(set(cell) == {"-"} for cell in cells) or "---" not in line:
            yield "<tr>" + "".join(_cell(cell, head=first) for cell in cells) + "</tr>"
    elif kind == "list":
        yield f"<li>{_inline(line[2:])}</li>"
    elif line.startswith("#"):
        level = len(line) - len(line.lstrip("#"))
        yield f"<h{level}>{_inline(line[level + 1 :])}</h{level}>"
    elif kind == "text" and line:
        yield f"<p>{_inline(line)}</p>"


def _cell(cell: str, *, head: bool) -> str:
    if head:
        return f"<th>{_inline(cell)}</th>"
    name = cell if cell in COLOURS else "n" if _WHOLE.fullmatch(cell) else ""
    return f'<td class="{name}">{_inline(cell)}</td>' if name else f"<td>{_inline(cell)}</td>"


def _inline(text: str) -> str:
    done, last = [], 0
    for match in _INLINE.finditer(text):
        done.append(escape(text[last : match.start()]))
        if match["plain"]:
            done.append(escape(match["plain"]))
        elif match["bold"]:
            name = f' class="{match["bold"]}"' if match["bold"] in COLOURS else ""
            done.append(f"<strong{name}>{_inline(match['bold'])}</strong>")
        else:
            done.append(f"<code>{escape(match['code'])}</code>")
        last = match.end()
    return "".join([*done, escape(text[last:])])
