"""summary.md: what happened, in the order in which one wants to know it on a Monday morning."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from supervisor.judge.counting import Moment
from supervisor.judge.episodes import Damage, Episode, FaultTotals
from supervisor.judge.evaluation import Verdict, show
from supervisor.judge.markdown import ROWS, code, table, text
from supervisor.judge.notes import notes
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Unit
from supervisor.judge.verdict import Judgement
from supervisor.values import Histogram, format_duration

FILES: Final = 3
"""Crash files that are named to begin with."""


def render(judgement: Judgement, directory: str = ".") -> str:
    """Return the text of summary.md; `directory` is the run directory as commands should name it."""
    tally = judgement.tally
    lines = chain(
        _head(judgement),
        _why(judgement),
        _firsts(tally),
        _thresholds(judgement),
        _crashes(tally),
        _faults(tally),
        _episodes(tally),
        _loads(tally),
        _failures(tally),
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
        tally = judgement.tally
        seen = (
            (len(judgement.thresholds), "thresholds hold"),
            (tally.episodes.count, "episodes recovered"),
            (sum(load.ok for load in tally.loads.values()), "operations were ok"),
        )
        told = ", ".join(f"{count:,} {what}" for count, what in seen if count)
        yield f"Nothing speaks against it{': ' + told if told else ''}."
    yield ""


def _firsts(tally: Tally) -> Iterator[str]:
    firsts = sorted(tally.firsts.items(), key=lambda item: item[1].moment.mono)
    rows = [
        (name, _into(first.moment, tally), first.what, ", ".join(first.episodes) or "nothing")
        for name, first in firsts
    ]
    if rows:
        yield "## First failures, and what was open then"
        yield ""
        yield from table(("first", "when", "what", "open"), rows, len(rows), "kinds of failure")


def _thresholds(judgement: Judgement) -> Iterator[str]:
    ordered = sorted(judgement.thresholds, key=lambda one: -one.verdict.rank)
    if ordered:
        yield "## Thresholds"
        yield ""
        rows = [(one.text, one.verdict, one.shown) for one in ordered]
        yield from table(("threshold", "verdict", "seen"), rows, len(rows), "thresholds")


def _crashes(tally: Tally) -> Iterator[str]:
    units = sorted((unit for unit in tally.units.values() if unit.crashes), key=lambda unit: -unit.crashes)
    if not units:
        return
    yield "## Crashes"
    yield ""
    rows = [
        (
            unit.name,
            f"{unit.crashes:,}",
            f"{unit.unexplained:,}",
            f"{unit.restarts:,}" + (", given up" if unit.given_up else ""),
            _time(unit.worst_downtime) if unit.restarts else "",
        )
        for unit in units
    ]
    yield from table(("unit", "crashes", "unexplained", "restarts", "longest down"), rows, len(rows), "units")
    groups = sorted(
        ((unit.name, group) for unit in units for group in unit.groups.values()),
        key=lambda item: -item[1].count,
    )
    causes = [
        (
            name,
            f"{group.count:,}",
            f"{group.unexplained:,}",
            f"{group.signature} ({group.how})",
            ", ".join(group.files[:1]),
        )
        for name, group in groups
    ]
    header = ("unit", "crashes", "unexplained", "root cause", "first file")
    yield from table(header, causes, len(causes), "root causes")


def _faults(tally: Tally) -> Iterator[str]:
    faults = list(tally.episodes.faults.values())
    if faults:
        yield "## Faults"
        yield ""
        header = (
            "fault",
            "episodes",
            "recovered",
            "recovery p50 / worst",
            "failures direct / during / recovering",
            "crashes",
        )
        yield from table(header, map(_fault, faults), len(faults), "faults")


def _fault(fault: FaultTotals) -> tuple[object, ...]:
    recovered = f"{fault.recovered:,}"
    if fault.not_recovered:
        recovered += f", {fault.not_recovered.count:,} not"
    if fault.unseen:
        recovered += f", {fault.unseen:,} not seen"
    recovery = f"{_quantile(fault.recovery, 0.5)} / {_quantile(fault.recovery, 1.0)}"
    return fault.name, f"{fault.episodes:,}", recovered, recovery, *_damage(fault.damage)


def _damage(damage: Damage) -> tuple[str, str]:
    crashes = ", ".join(f"{unit} {count:,}" for unit, count in damage.crashes.items())
    return " / ".join(f"{count:,}" for count in damage.stages.values()), crashes


def _episodes(tally: Tally) -> Iterator[str]:
    """Yield the episodes that went wrong first, then the rest in order of time."""
    listed = sorted(tally.episodes.listed(), key=lambda episode: episode.good)
    if listed:
        yield "## Episodes"
        yield ""
        header = (
            "episode",
            "when",
            "targets",
            "outcome",
            "recovery",
            "first failure",
            "failures direct / during / recovering",
            "crashes",
        )
        rows = (_episode(episode, tally) for episode in listed)
        yield from table(header, rows, tally.episodes.count, "episodes")


def _episode(episode: Episode, tally: Tally) -> tuple[object, ...]:
    outcome = str(episode.outcome)
    for what, why in (
        ("inject failed", episode.inject_error),
        ("undo failed", episode.broken),
        ("truncated", episode.truncated),
        ("failing", ", ".join(episode.failing)),
    ):
        if why:
            outcome += f"; {what}: {why}"
    return (
        episode.id,
        _into(episode.intended, tally),
        ", ".join(episode.targets),
        outcome,
        _time(episode.recovery),
        _time(episode.to_first_failure),
        *_damage(episode.damage),
    )


def _loads(tally: Tally) -> Iterator[str]:
    loads = list(tally.loads.values())
    if loads:
        yield "## Loads"
        yield ""
        header = (
            "load",
            "scheduled",
            "ok",
            "p50",
            "p99",
            "failures direct / during / recovering",
            "unexplained",
            "dropped",
        )
        yield from table(header, map(_load, loads), len(loads), "loads")


def _load(load: LoadTotals) -> tuple[object, ...]:
    share = show(load.ok / load.attempts, Unit.SHARE) if load.attempts else "none"
    stages = " / ".join(f"{count:,}" for count in load.stages.values())
    times = (_quantile(load.response, 0.5), _quantile(load.response, 0.99))
    return (
        load.name,
        f"{load.attempts:,}",
        share,
        *times,
        stages,
        f"{load.unexplained:,}",
        f"{load.dropped:,}",
    )


def _failures(tally: Tally) -> Iterator[str]:
    errors = [
        (load.name, error, f"{count:,}", f"{load.unexplained_errors.get(error, 0):,}")
        for load in tally.loads.values()
        for error, count in sorted(load.errors.items(), key=lambda item: (-item[1], item[0]))
    ]
    if errors:
        yield "## Errors of the loads"
        yield ""
        yield from table(("load", "error", "failures", "unexplained"), errors, len(errors), "error classes")
    samples = [
        (load.name, _into(_at(sample.at, tally), tally), sample.name, sample.error, sample.detail)
        for load in tally.loads.values()
        for sample in load.samples
    ]
    if samples:
        yield "The first failures of each load:"
        yield ""
        yield from table(("load", "when", "operation", "error", "detail"), samples, len(samples), "samples")


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
    return datetime.fromtimestamp(moment.wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _at(mono: float, tally: Tally) -> Moment:
    return (tally.began or tally.alive).at(mono)


def _into(moment: Moment, tally: Tally) -> str:
    """Write a moment as the time since the soak began, and the time of day."""
    origin = tally.soaking or tally.began or moment
    clock = datetime.fromtimestamp(moment.wall, UTC).strftime("%H:%M:%S")
    return f"{clock} (+{_span(max(moment.mono - origin.mono, 0.0))})"


def _span(seconds: float) -> str:
    return format_duration(round(seconds)) if seconds >= 1 else "0s"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else show(seconds, Unit.DURATION)


def _quantile(histogram: Histogram, share: float) -> str:
    return _time(histogram.quantile(share)) or "-"
