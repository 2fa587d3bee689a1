"""The parts of summary.md about failed operations: beside the baseline, by error class, and what no episode explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor.journal.events import Sample
from supervisor.judge.damage import STAGES
from supervisor.judge.looking import show
from supervisor.judge.markdown import table
from supervisor.judge.metrics import Unit
from supervisor.judge.operations import Amounts, LoadTotals
from supervisor.judge.tables import clock
from supervisor.judge.tally import Tally
from supervisor.values import format_duration


def beside_baseline(tally: Tally) -> Iterator[str]:
    """Yield rates and latencies beside those of the baseline, and how much failed in each part of the run."""
    baseline = tally.baseline
    loads = [load for load in tally.loads.values() if load.finished]
    if loads and baseline is not None:
        yield "## Beside the baseline"
        yield ""
        why = {name: baseline.unsteady([name]) for name in tally.loads}
        yield f"Of {format_duration(round(baseline.seconds, 1))} without faults" + (
            f"; no measure, since {next(filter(None, why.values()))}." if any(why.values()) else "."
        )
        yield ""
        header = ("load", "", "ok", "ok a second", "p50", "p99", "max")
        rows = []
        for load in loads:
            before = baseline.amounts([load.name])
            rows.append((load.name, "baseline", *_speed(before, baseline.lasted([load.name]))))
            rows.append(("", "whole run", *_speed(load, tally.measured)))
        yield from table(header, rows, len(rows), "rows")
    if loads and tally.episodes.count:
        if baseline is None:
            yield "## By part of the run"
            yield ""
        yield "Failures of all that ended, by the earliest stage of any episode that they overlapped:"
        yield ""
        header = ("load", *(("baseline",) if baseline else ()), "outside episodes", *STAGES)
        rows = [(load.name, *_shares(load, tally)) for load in loads]
        yield from table(header, rows, len(rows), "loads")


def _speed(amounts: Amounts, seconds: float) -> tuple[str, ...]:
    response = amounts.latencies.response
    times = [response.quantile(share) for share in (0.5, 0.99, 1.0)]
    share = show(amounts.ok / amounts.attempts, Unit.SHARE) if amounts.attempts else "-"
    rate = show(amounts.ok / seconds, Unit.RATE) if seconds else "-"
    return share, rate, *(show(time, Unit.DURATION) if time is not None else "-" for time in times)


def _shares(load: LoadTotals, tally: Tally) -> Iterator[str]:
    if tally.baseline:
        before = tally.baseline.amounts([load.name])
        yield _share(before.failures, before.finished)
    failed = load.failures - sum(load.stages.values())
    yield _share(failed, failed + load.ok - sum(load.oks.values()))
    for stage in STAGES:
        yield _share(load.stages[stage], load.stages[stage] + load.oks[stage])


def _share(failures: int, total: int) -> str:
    return f"{failures:,} of {total:,} ({failures / total:.2%})" if total else "-"


def errors(tally: Tally) -> Iterator[str]:
    """Yield error classes, most frequent first, and the first failures of each load."""
    rows = [
        (load.name, error, f"{count:,}", f"{load.unexplained_errors.get(error, 0):,}")
        for load in tally.loads.values()
        for error, count in sorted(load.errors.items(), key=lambda item: (-item[1], item[0]))
    ]
    if rows:
        yield "## Errors of the loads"
        yield ""
        yield from table(("load", "error", "failures", "unexplained"), rows, len(rows), "error classes")
    samples = [(load, sample) for load in tally.loads.values() for sample in load.samples if sample.episodes]
    if samples:
        yield "The first failures that episodes explain:"
        yield ""
        yield from _samples(samples, tally)


def unexplained(tally: Tally) -> Iterator[str]:
    """Yield what no episode explains, on its own, with samples."""
    loads = [load for load in tally.loads.values() if load.unexplained]
    units = [
        (unit, group) for unit in tally.units.values() for group in unit.groups.values() if group.unexplained
    ]
    if not loads and not units:
        return
    yield "## What no episode explains"
    yield ""
    rows = [
        (load.name, error, f"{count:,}")
        for load in loads
        for error, count in sorted(load.unexplained_errors.items(), key=lambda item: (-item[1], item[0]))
    ]
    yield from table(("load", "error", "failures"), rows, len(rows), "error classes")
    yield from _samples([(load, sample) for load in loads for sample in load.unexplained_samples], tally)
    crashes = [
        (unit.name, group.signature, f"{group.unexplained:,}", group.last_file) for unit, group in units
    ]
    yield from table(("unit", "root cause", "crashes", "last file"), crashes, len(crashes), "root causes")


def _samples(samples: Sequence[tuple[LoadTotals, Sample]], tally: Tally) -> Iterator[str]:
    origin = tally.began or tally.alive
    rows = [
        (
            load.name,
            clock(origin.at(sample.at)),
            sample.name,
            sample.error,
            sample.detail,
            ", ".join(sample.episodes),
        )
        for load, sample in samples
    ]
    yield from table(("load", "when", "operation", "error", "detail", "open"), rows, len(rows), "samples")
