"""summary.md: what happened, in the order in which one wants to know it on a Monday morning."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import chain
from typing import Final

from supervisor.judge import failing, tables
from supervisor.judge.counting import Moment, plural
from supervisor.judge.evaluation import Verdict
from supervisor.judge.markdown import ROWS, code, table, text
from supervisor.judge.notes import notes
from supervisor.judge.tables import clock
from supervisor.judge.tally import Tally
from supervisor.judge.verdict import Judgement
from supervisor.judge.violations import violations
from supervisor.values import format_duration

FILES: Final = 3
"""Crash files that are named to begin with."""


def render(judgement: Judgement, directory: str = ".") -> str:
    """Return the text of summary.md; `directory` is the run directory as commands should name it."""
    tally = judgement.tally
    lines = chain(
        _head(judgement),
        _why(judgement),
        _firsts(tally),
        violations(tally),
        failing.unexplained(tally),
        tables.thresholds(judgement),
        tables.crashes(tally),
        tables.faults(tally),
        tables.episodes(tally),
        tables.loads(tally),
        failing.beside_baseline(tally),
        failing.errors(tally),
        _notes(tally),
        _where(judgement, directory),
    )
    return "\n".join(lines).rstrip() + "\n"


def _head(judgement: Judgement) -> Iterator[str]:
    tally = judgement.tally
    started, ended = tally.started, tally.ended
    yield f"# {text(started.soak if started else 'A run without a beginning')}: {judgement.verdict.upper()}"
    yield ""
    if started and tally.began:
        meant = f" of {format_duration(started.duration)}" if started.duration is not None else ""
        end = f"ended by {ended.reason}" if ended else "not ended in order"
        yield (
            f"Soaked {_span(tally.soaked)}{meant} from {_utc(tally.began)}, {end}. "
            f"Run {code(started.run)}, seed {started.seed}, soakd {text(started.soakd)} on {text(started.host)}."
        )
        yield ""
        if started.facts:
            yield "; ".join(f"{text(name)} {text(value)}" for name, value in started.facts.items()) + "."
            yield ""


def _why(judgement: Judgement) -> Iterator[str]:
    yield "## Why"
    yield ""
    for finding in judgement.findings[:ROWS]:
        where = f" (see {code(finding.where)})" if finding.where else ""
        yield f"- **{finding.verdict}**: {text(finding.text, 400)}{where}"
    if len(judgement.findings) > ROWS:
        yield f"- … and {len(judgement.findings) - ROWS:,} more, in `verdict.json`"
    if judgement.verdict is Verdict.PASS:
        yield in_favour(judgement)
    yield ""


def in_favour(judgement: Judgement) -> str:
    """Return the sentence that a pass is told with: what was kept, recovered and ok."""
    tally = judgement.tally
    seen = (
        (len(judgement.thresholds), "threshold", "kept"),
        (sum(fault.recovered for fault in tally.episodes.faults.values()), "episode", "recovered"),
        (sum(load.ok for load in tally.loads.values()), "operation", "ok"),
    )
    told = ", ".join(f"{plural(count, noun)} {how}" for count, noun, how in seen if count)
    return f"Nothing speaks against it{': ' + told if told else ''}."


def _firsts(tally: Tally) -> Iterator[str]:
    last_name = {
        first: name for name, first in tally.firsts.items()
    }  # one that is the first in two ways is told once
    rows = [
        (name, _into(first.moment, tally), first.what, ", ".join(first.episodes) or "nothing")
        for first, name in sorted(last_name.items(), key=lambda item: item[0].moment.mono)
    ]
    if rows:
        yield "## First failures, and what was open then"
        yield ""
        yield from table(("first", "when", "what", "open"), rows, len(rows), "kinds of failure")


def _notes(tally: Tally) -> Iterator[str]:
    told = notes(tally)
    if told:
        yield "## Worth knowing"
        yield ""
        yield from (f"- {text(note, 400)}" for note in told[:ROWS])
        if len(told) > ROWS:
            yield f"- … and {len(told) - ROWS:,} more, in `verdict.json`"
        yield ""


def _where(judgement: Judgement, directory: str) -> Iterator[str]:
    """Yield the commands to run next."""
    tally, place = judgement.tally, shlex.quote(directory)
    yield "## Where to look"
    yield ""
    yield "```sh"
    groups = [group for unit in tally.units.values() for group in unit.groups.values()]
    if groups:
        yield f"soakd crashes {place}    # root causes, grouped"
    for group in sorted(groups, key=lambda group: (-group.unexplained, -group.count))[:FILES]:
        yield from (f"less {_inside(directory, file)}" for file in group.files[:1])
    rules = {finding.rule for finding in judgement.findings}
    if rules & {"undo-failed", "never-closed", "no-end", "died"}:
        yield f"soakd recover {place}    # undo whatever is still open"
    yield f"less {_inside(directory, 'verdict.json')}    # every number, and all episodes"
    yield f"less {_inside(directory, 'evidence.csv')}    # what the probes saw before, during and after"
    yield f"soakd report {place}    # judge again from the journal"
    yield "```"


def _inside(directory: str, name: str) -> str:
    return shlex.quote(f"{directory}/{name}")


def _utc(moment: Moment) -> str:
    return moment.utc.strftime("%Y-%m-%d %H:%M:%S UTC")


def _into(moment: Moment, tally: Tally) -> str:
    """Write a moment with the time since the soak began."""
    origin = tally.soaking or tally.began or moment
    return f"{clock(moment)} (+{_span(max(moment.mono - origin.mono, 0.0))})"


def _span(seconds: float) -> str:
    return format_duration(round(seconds)) if seconds >= 1 else "0s"
