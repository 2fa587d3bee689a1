"""The tables of summary.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from supervisor.histogram import Histogram
from supervisor.judge.counting import Moment
from supervisor.judge.damage import Damage, Slowest
from supervisor.judge.episode import Episode, FaultTotals
from supervisor.judge.evaluation import show
from supervisor.judge.markdown import ROWS, table, text
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Unit
from supervisor.judge.units import CrashGroup, UnitTotals
from supervisor.judge.verdict import Judgement

FAILURES: Final = "failures direct / during / recovering"
"""Of operations, by the stage of the episode that they overlapped first."""
SLOWEST: Final = "slowest"
"""Operation, by stage in the same order, with its error class unless it was ok."""
TOP: Final = 3
"""Error classes that are named for one stage of an episode."""


def thresholds(judgement: Judgement) -> Iterator[str]:
    """Yield what became of the thresholds, worst first."""
    ordered = sorted(judgement.thresholds, key=lambda one: -one.verdict.rank)
    if ordered:
        yield "## Thresholds"
        yield ""
        rows = [(one.text, one.verdict, one.shown) for one in ordered]
        yield from table(("threshold", "verdict", "seen"), rows, len(rows), "thresholds")


def crashes(tally: Tally) -> Iterator[str]:
    """Yield the units that crashed, and their root causes, most frequent first."""
    units = sorted((unit for unit in tally.units.values() if unit.crashes), key=lambda unit: -unit.crashes)
    if not units:
        return
    yield "## Crashes"
    yield ""
    header = ("unit", "crashes", "unexplained", "restarts", "longest down")
    yield from table(header, map(_unit, units), len(units), "units")
    causes = [(unit.name, group) for unit in units for group in unit.groups.values()]
    causes.sort(key=lambda cause: -cause[1].count)
    header = ("unit", "crashes", "unexplained", "root cause", "first file")
    yield from table(header, (_cause(*cause) for cause in causes), len(causes), "root causes")


def _unit(unit: UnitTotals) -> tuple[object, ...]:
    restarts = f"{unit.restarts:,}" + (", given up" if unit.given_up else "")
    down = _time(unit.worst_downtime) if unit.restarts else ""
    return unit.name, f"{unit.crashes:,}", f"{unit.unexplained:,}", restarts, down


def _cause(unit: str, group: CrashGroup) -> tuple[object, ...]:
    cause = group.signature if group.signature == group.how else f"{group.signature} ({group.how})"
    return unit, f"{group.count:,}", f"{group.unexplained:,}", cause, "".join(group.files[:1])


def faults(tally: Tally) -> Iterator[str]:
    """Yield the totals of each fault."""
    faults = list(tally.episodes.faults.values())
    if faults:
        yield "## Faults"
        yield ""
        header = (
            "fault",
            "episodes",
            "recovered",
            "recovery p50 / worst",
            FAILURES,
            SLOWEST,
            "crashes",
        )
        yield from table(header, map(_fault, faults), len(faults), "faults")
    if len(kinds := tally.episodes.kinds) > 1:
        yield "By kind of fault, each operation once:"
        yield ""
        rows = [(kind, *_damage(damage)) for kind, damage in kinds.items()]
        yield from table(("kind", FAILURES, SLOWEST, "crashes"), rows, len(rows), "kinds of fault")


def _fault(fault: FaultTotals) -> tuple[object, ...]:
    recovered = f"{fault.recovered:,}"
    if fault.not_recovered:
        recovered += f", {fault.not_recovered.count:,} not"
    if fault.unseen:
        recovered += f", {fault.unseen:,} not seen"
    recovery = f"{_quantile(fault.recovery, 0.5)} / {_quantile(fault.recovery, 1.0)}"
    return fault.name, f"{fault.episodes:,}", recovered, recovery, *_damage(fault.damage)


def _damage(damage: Damage) -> tuple[str, str, str]:
    crashes = ", ".join(f"{unit} {count:,}" for unit, count in damage.crashes.items())
    slowest = " / ".join(_slowest(stage.slowest) for stage in damage.by_stage.values())
    return " / ".join(f"{count:,}" for count in damage.stages.values()), slowest, crashes


def _slowest(one: Slowest | None) -> str:
    return "-" if one is None else f"{_time(one.seconds)} {one.error}".rstrip()


def episodes(tally: Tally) -> Iterator[str]:
    """Yield the episodes that went wrong first, then the rest in order of time."""
    listed = sorted(tally.episodes.listed(), key=lambda episode: episode.good)
    if not listed:
        return
    yield "## Episodes"
    yield ""
    header = (
        *("episode", "began", "outcome", "first failure", "first ok", "recovery"),
        *(FAILURES, SLOWEST, "crashes"),
    )
    yield from table(header, map(_episode, listed), tally.episodes.count, "episodes")
    wrong = [(episode.id, wrong) for episode in listed[:ROWS] if (wrong := _wrong(episode))]
    if wrong:
        yield from (f"- {text(name)}: {text(what, 400)}" for name, what in wrong)
        yield ""


def _episode(episode: Episode) -> tuple[object, ...]:
    return (
        episode.id,
        clock(episode.intended),
        episode.outcome,
        _time(episode.to_first_failure),
        _time(episode.to_first_ok),
        _time(episode.recovery),
        *_damage(episode.damage),
    )


def _wrong(episode: Episode) -> str:
    """Say in words what did not go as it should."""
    failing = ", ".join(episode.failing)
    whats = {
        "inject failed": episode.inject_error,
        "undo failed": episode.broken,
        "truncated": episode.truncated,
        "still failing": failing,
    }
    told = [f"{what}: {why}" for what, why in whats.items() if why]
    told += [
        f"{name}: {_top(stage.errors)}" for name, stage in episode.damage.by_stage.items() if stage.errors
    ]
    return f"on {', '.join(episode.targets)}: {'; '.join(told)}" if told else ""


def _top(errors: Mapping[str, int]) -> str:
    most = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in most[TOP:])
    return ", ".join(
        [f"{name} {count:,}" for name, count in most[:TOP]] + ([f"others {rest:,}"] if rest else [])
    )


def loads(tally: Tally) -> Iterator[str]:
    """Yield the totals of each load."""
    if tally.loads:
        yield "## Loads"
        yield ""
        header = (
            "load",
            "scheduled",
            "ok",
            "p50",
            "p99",
            FAILURES,
            "unexplained",
            "dropped",
        )
        yield from table(header, map(_load, tally.loads.values()), len(tally.loads), "loads")


def _load(load: LoadTotals) -> tuple[object, ...]:
    share = show(load.ok / load.attempts, Unit.SHARE) if load.attempts else "none"
    stages = " / ".join(f"{count:,}" for count in load.stages.values())
    response = load.latencies.response
    times = (_quantile(response, 0.5), _quantile(response, 0.99))
    return (
        load.name,
        f"{load.attempts:,}",
        share,
        *times,
        stages,
        f"{load.unexplained:,}",
        f"{load.dropped:,}",
    )


def clock(moment: Moment) -> str:
    """Write month, day and time of day, UTC."""
    return moment.utc.strftime("%m-%d %H:%M:%S")


def _time(seconds: float | None) -> str:
    """Write a time as a person compares it, with three digits; thresholds have it exactly."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.3g}ms" if 0 < seconds < 0.9995 else show(round(seconds, 2), Unit.DURATION)


def _quantile(histogram: Histogram, share: float) -> str:
    return _time(histogram.quantile(share)) or "-"
