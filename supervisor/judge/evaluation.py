"""Holds thresholds against what was seen. Nothing seen is no pass: it is inconclusive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from supervisor.journal.events import EndReason
from supervisor.judge.counting import plural
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Metric, Subject, Threshold, ThresholdError, Unit, plain
from supervisor.values import format_duration


class Verdict(StrEnum):
    """From best to worst; the worst of all reasons wins."""

    PASS = "pass"  # noqa: S105  # it is the word
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return list(Verdict).index(self)


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one threshold."""

    text: str
    verdict: Verdict
    seen: float | None
    """In the threshold's unit; None: there was nothing to see."""
    shown: str
    """`seen` in words."""
    why: str
    """A sentence with the numbers behind it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A value, or why there is none, and what it was taken of."""

    value: float | None
    basis: str
    doubt: str = ""
    """Why the value cannot be relied upon."""


def check(text: str, tally: Tally) -> Checked:
    """Hold one threshold of the soak file against the totals."""
    try:
        threshold = Threshold.parse(text)
    except ThresholdError as error:
        why = (
            f"it cannot be read by this version of soakd ({error}): judge with the version that made the run"
        )
        return Checked(text, Verdict.INCONCLUSIVE, None, "nothing", why)
    seen = _look(threshold, tally)
    if seen.value is None:
        return Checked(text, Verdict.INCONCLUSIVE, None, "nothing", seen.basis)
    shown = show(seen.value, threshold.unit)
    why = f"seen {shown} ({seen.basis})" if seen.basis else f"seen {shown}"
    verdict = Verdict.PASS if threshold.holds(seen.value) else Verdict.FAIL
    if seen.doubt:
        return Checked(text, Verdict.INCONCLUSIVE, seen.value, shown, f"{why}, but {seen.doubt}")
    if verdict is Verdict.FAIL and _could_still_hold(threshold, seen.value, tally):
        why += ", but the run was cut short and could still have got there"
        verdict = Verdict.INCONCLUSIVE
    return Checked(text, verdict, seen.value, shown, why)


def show(value: float, unit: Unit) -> str:
    """Write a value as precisely as it takes to see on which side of a threshold it lies."""
    if unit is Unit.SHARE:
        return f"{math.floor(value * 1e6) / 1e4:.4f}".rstrip("0").rstrip(".") + "%"
    if unit is Unit.COUNT:
        return f"{value:,.6f}".rstrip("0").rstrip(".")
    if value == math.inf:
        return "no recovery"
    return f"{value * 1000:.6g}ms" if 0 < value < 1 else format_duration(value)


def complete(tally: Tally) -> bool:
    """Say whether the soak lasted as long as it was meant to."""
    if tally.ended is None or tally.started is None or tally.soaking is None:
        return False
    if tally.ended.reason is EndReason.SIGNAL:
        return tally.started.duration is None or tally.soaked >= tally.started.duration
    return tally.ended.reason is EndReason.DURATION


def _could_still_hold(threshold: Threshold, seen: float, tally: Tally) -> bool:
    """Say whether a count that only grows has missed its goal because the run ended early."""
    grows = threshold.unit is Unit.COUNT and seen < threshold.value
    return grows and threshold.op in (">=", ">", "==") and not complete(tally)


def _look(threshold: Threshold, tally: Tally) -> _Seen:
    match threshold.metric.subject:
        case Subject.LOAD:
            return _of_loads(threshold, tally)
        case Subject.UNIT:
            return _of_units(threshold.metric.name, threshold.of, tally)
        case Subject.FAULT:
            return _of_faults(threshold.metric.name, threshold.of, tally)


def _of_loads(threshold: Threshold, tally: Tally) -> _Seen:
    name, metric = threshold.load, threshold.metric
    if name is not None and name not in tally.loads:
        return _Seen(None, f"there was no load {name} in this run")
    load = LoadTotals(name or "all loads")
    for one in [tally.loads[name]] if name is not None else tally.loads.values():
        load.merge(one)
    if metric.counter is not None:
        return _counter(metric.counter, load)
    if not load.attempts:
        return _Seen(None, f"{load.name} did not schedule a single operation")
    if metric.quantile is not None:
        return _latency(metric, metric.quantile, load)
    count = getattr(load, "unexplained" if metric.name == "unexplained failures" else metric.name)
    basis = f"{count:,} of {plural(load.attempts, 'scheduled operation')}"
    return _Seen(count if threshold.unit is Unit.COUNT else count / load.attempts, basis)


def _counter(counter: str, load: LoadTotals) -> _Seen:
    amounts = [amount for name, amount in load.counters.items() if plain(name) == plain(counter)]
    if not amounts:
        return _Seen(None, f"{load.name} never reported a count of {counter}")
    return _Seen(sum(amounts), "")


def _latency(metric: Metric, quantile: float, load: LoadTotals) -> _Seen:
    """Return a latency; in doubt if so many operations began late that the lateness may be what it shows."""
    histogram = load.latencies.service if metric.name.startswith("service") else load.latencies.response
    value = histogram.quantile(quantile)
    if value is None:
        return _Seen(None, f"{load.name} has no ok operation to take a time of")
    late = load.late > 0 and load.late >= round((1 - quantile) * load.attempts, 6)
    doubt = f"soakd itself started {load.late:,} of them late, so it may be its own lag" if late else ""
    return _Seen(value, f"of {plural(histogram.count, 'ok operation')}", doubt)


def _of_units(metric: str, name: str | None, tally: Tally) -> _Seen:
    if name is not None and name not in tally.units:
        return _Seen(None, f"there was no unit {name} in this run")
    if tally.soaking is None:
        return _Seen(None, "the soak did not begin")
    units = [tally.units[name]] if name is not None else list(tally.units.values())
    if not units:
        return _Seen(None, "there was no unit in this run")
    counts = {
        unit.name: {
            "crashes": unit.crashes,
            "unexplained crashes": unit.unexplained,
            "restarts": unit.restarts,
            "given_up": int(bool(unit.given_up)),
        }[metric]
        for unit in units
    }
    most = sorted((name for name in counts if counts[name]), key=lambda name: (-counts[name], name))
    return _Seen(sum(counts.values()), ", ".join(f"{name} {counts[name]:,}" for name in most[:5]))


def _of_faults(metric: str, name: str | None, tally: Tally) -> _Seen:
    if name is not None and name not in tally.episodes.faults:
        return _Seen(None, f"there was no fault {name} in this run")
    faults = [fault for fault in tally.episodes.faults.values() if name in (None, fault.name)]
    if not faults:
        return _Seen(None, "there was no fault in this run")
    if metric == "episodes":
        return _Seen(sum(fault.injected for fault in faults), "")
    lost = [case for fault in faults for case in fault.not_recovered.cases]
    if lost:
        return _Seen(math.inf, f"{lost[0]} did not recover in its time")
    worst = max((fault.recovery for fault in faults), key=lambda recovery: recovery.highest)
    count = sum(fault.recovered for fault in faults)
    if not count:
        return _Seen(None, "no recovery of an episode was seen to its end")
    return _Seen(worst.highest, f"the worst of {plural(count, 'recovery')}")
