"""What was seen of what a threshold is about: a value, what it was taken of, and why it may not be relied upon."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from supervisor.judge.counting import Some, plural
from supervisor.judge.latencies import PackedSum
from supervisor.judge.measures import OWN_SHARE, Part, loops_of, measure, tolerated
from supervisor.judge.metrics import OK_RATE, Subject, Unit, plain
from supervisor.judge.operations import Amounts
from supervisor.judge.scopes import Where
from supervisor.judge.sliding import Sliding
from supervisor.judge.tally import Tally
from supervisor.judge.thresholds import Threshold
from supervisor.values import format_duration


@dataclass(frozen=True, slots=True)
class Seen:
    """A value, or why there is none, and what it was taken of."""

    value: float | None
    basis: str
    doubt: str = ""
    """Why the value cannot be relied upon."""
    missing: str = ""
    """What was not seen, and may have been worse: so that the value is enough to fail and not to pass."""


def compared(threshold: Threshold, tally: Tally) -> Seen:
    """Return what the baseline says for a threshold; 0 for one that has nothing to do with it."""
    if not threshold.relative:
        return Seen(0.0, "")
    if tally.baseline is None:
        return Seen(None, "there was no baseline: the soak file says how long, as baseline: 2m")
    loads = _loads(threshold, tally)
    value = measure(threshold, tally.baseline.amounts(loads), tally.baseline.lasted(loads))
    if value is None:
        return Seen(None, "nothing was to be seen of it in the baseline")
    why = tally.baseline.unsteady(loads)
    limit = show(threshold.limit.at(value), threshold.unit)
    basis = f"the baseline has {show(value, threshold.unit)}, so the limit is {limit}"
    return Seen(value, basis, f"the baseline is no measure: {why}" if why else "")


def look(threshold: Threshold, baseline: float, tally: Tally) -> Seen:
    """Return what was seen in the run; `baseline` is what the baseline says."""
    if gap := _nobody(threshold, tally):
        return Seen(None, gap)
    match tally.meters.get(threshold.text):
        case Sliding() as sliding:
            return _in_windows(threshold, sliding, tally)
        case Part() as part:
            return _in_part(threshold, baseline, part, tally)
        case _ if threshold.scope or threshold.span or threshold.relative:
            return Seen(None, "nothing measured it: the run did not know of it when it began")
        case _:
            return _in_all(threshold, baseline, tally)


def _nobody(threshold: Threshold, tally: Tally) -> str:
    """Say why there is nothing that the threshold could be about; empty if there is something."""
    scope, subject = threshold.scope, threshold.metric.subject
    if scope and scope.where is not Where.OUTSIDE:
        faults = tally.episodes.faults
        if scope.fault is not None and scope.fault not in faults:
            return f"there was no fault {scope.fault} in this run"
        if not any(fault.injected for name, fault in faults.items() if scope.fault in (None, name)):
            return f"there was no episode of {scope.fault or 'any fault'} in this run"
    if subject is Subject.UNIT:
        return _no_unit(threshold.of, tally)
    if subject is Subject.LOAD and threshold.load is not None and threshold.load not in tally.loads:
        return f"there was no load {threshold.load} in this run"
    return ""


def _no_unit(name: str | None, tally: Tally) -> str:
    if name is not None and name not in tally.units:
        return f"there was no unit {name} in this run"
    if tally.soaking is None:
        return "the soak did not begin"
    return "" if tally.units else "there was no unit in this run"


def _loads(threshold: Threshold, tally: Tally) -> list[str]:
    return [threshold.load] if threshold.load is not None else list(tally.loads)


def _name(threshold: Threshold) -> str:
    return threshold.load or "all loads"


def show(value: float, unit: Unit) -> str:
    """Write a value as precisely as it takes to see on which side of a threshold it lies."""
    if unit is Unit.SHARE:
        return f"{math.floor(value * 1e6) / 1e4:.4f}".rstrip("0").rstrip(".") + "%"
    if unit is Unit.RATE:
        return f"{math.floor(value * 1e4) / 1e4:.4f}".rstrip("0").rstrip(".") + "/s"
    if unit is Unit.COUNT:
        return f"{value:,.6f}".rstrip("0").rstrip(".")
    if value == math.inf:
        return "no recovery"
    return f"{value * 1000:.6g}ms" if 0 < value < 1 else format_duration(value)


# --- the whole run ---------------------------------------------------------------------------------------------------


def _in_all(threshold: Threshold, baseline: float, tally: Tally) -> Seen:
    match threshold.metric.subject:
        case Subject.LOAD:
            total = Amounts()
            for name in _loads(threshold, tally):
                total.merge(tally.loads[name])
            return _of_loads(
                threshold, baseline, total, tally.measured, tally, loops=tally.loops(_loads(threshold, tally))
            )
        case Subject.UNIT:
            return _of_units(threshold.metric.name, threshold.of, tally)
        case Subject.FAULT:
            return _of_faults(threshold.metric.name, threshold.of, tally)


def _of_loads(
    threshold: Threshold, baseline: float, amounts: Amounts, seconds: float, tally: Tally, *, loops: PackedSum
) -> Seen:
    """`loops`: how late the event loops were meanwhile."""
    metric, name = threshold.metric, _name(threshold)
    if metric.counter is not None:
        return _counter(threshold, metric.counter, tally)
    if not amounts.attempts:
        where = f" {threshold.scope}" if threshold.scope else ""
        return Seen(None, f"{name} did not schedule a single operation{where}")
    if not amounts.finished and "failures" in metric.name:
        return Seen(None, f"{name} did not finish a single operation")
    value = measure(threshold, amounts, seconds)
    if metric.quantile is not None:
        if value is None:
            return Seen(None, f"{name} has no ok operation to take a time of")
        basis, doubt = (
            f"of {plural(amounts.ok, 'ok operation')}",
            _own_lag(threshold, baseline, amounts, loops),
        )
    elif metric.name == OK_RATE:
        basis, doubt = f"{amounts.ok:,} ok in {format_duration(round(seconds, 1))}", ""
    else:
        count = round((value or 0) * (amounts.attempts if threshold.unit is Unit.SHARE else 1))
        basis, doubt = f"{count:,} of {plural(amounts.attempts, 'scheduled operation')}", ""
    return Seen(value, basis, doubt)


def _counter(threshold: Threshold, counter: str, tally: Tally) -> Seen:
    """Return what loads counted themselves; every load that counts it has to have been in a position to."""
    name, started = _name(threshold), tally.started
    counts = dict(started.counters) if started else {}
    settles = dict(started.settled) if started else {}
    total, told = 0.0, False
    for load in _loads(threshold, tally):
        totals = tally.loads[load]
        amounts_ = [amount for one, amount in totals.counters.items() if plain(one) == plain(counter)]
        total += sum(amounts_)
        declared = counter in counts.get(load, ()) or counter in settles.get(load, ())
        if not (declared or amounts_):
            continue
        if not totals.finished and not sum(amounts_):
            return Seen(None, f"{load} did not finish a single operation, so its {counter} of 0 says nothing")
        if counter in settles.get(load, ()):
            if not amounts_:
                return Seen(None, f"{load} never reported a count of {counter}")
            if totals.crashed and not sum(amounts_):
                return Seen(
                    None, f"{load} crashed and began anew, and what was under way then was never settled"
                )
        told = True
    return Seen(total, "") if told else Seen(None, f"{name} never reported a count of {counter}")


def _own_lag(threshold: Threshold, baseline: float, amounts: Amounts, loops: PackedSum) -> str:
    """Say whether our own lateness may be what a latency shows."""
    metric = threshold.metric
    quantile = metric.quantile or 0.0
    limit = tolerated(threshold.limit.at(baseline))
    loop = loops.histogram().quantile(quantile) or 0.0
    if loop > limit:
        return _too_late(f"its event loop was {metric.name.rpartition(' ')[2]} {_time(loop)} late")
    if metric.name.startswith("service"):
        return ""
    service = amounts.latencies.service.quantile(quantile)
    if service is not None and threshold.upper and not threshold.holds(service, baseline):
        return ""  # it took too long even from when it was begun
    start = amounts.lag.histogram().quantile(quantile)
    if start is None:  # nobody measured it: of what began late any part may be among what is seen
        late = amounts.late > 0 and amounts.late >= round((1 - quantile) * amounts.attempts, 6)
        return f"soakd itself started {amounts.late:,} of them late, so it may be its own lag" if late else ""
    return _too_late(f"it started operations {metric.name} {_time(start)} late") if start > limit else ""


def _too_late(what: str) -> str:
    return f"soakd itself was slow, so it may be its own lag: {what}, more than {OWN_SHARE:.0%} of the limit"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g}ms"


def _of_units(metric: str, name: str | None, tally: Tally) -> Seen:
    units = [tally.units[name]] if name is not None else list(tally.units.values())
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
    return Seen(sum(counts.values()), ", ".join(f"{name} {counts[name]:,}" for name in most[:5]))


def _of_faults(metric: str, name: str | None, tally: Tally) -> Seen:
    if name is not None and name not in tally.episodes.faults:
        return Seen(None, f"there was no fault {name} in this run")
    faults = [fault for fault in tally.episodes.faults.values() if name in (None, fault.name)]
    if not faults:
        return Seen(None, "there was no fault in this run")
    if metric == "episodes":
        return Seen(sum(fault.injected for fault in faults), "")
    lost = [case for fault in faults for case in fault.not_recovered.cases]
    if lost:
        return Seen(math.inf, f"{lost[0]} did not recover in its time")
    worst = max((fault.recovery for fault in faults), key=lambda recovery: recovery.highest)
    count = sum(fault.recovered for fault in faults)
    if not count:
        return Seen(None, "no recovery of an episode was seen to its end")
    return Seen(worst.highest, f"the worst of {plural(count, 'recovery')}")


# --- parts and windows -----------------------------------------------------------------------------------------------


def _in_part(threshold: Threshold, baseline: float, part: Part, tally: Tally) -> Seen:
    if part.begun is None:
        return Seen(None, "the soak did not begin")
    if threshold.metric.subject is Subject.UNIT:
        return Seen(measure(threshold, part.amounts, 0.0), "")
    amounts = part.amounts
    if threshold.metric.quantile is not None and not amounts.lag.counts:  # which is not known by episodes
        for name in _loads(threshold, tally):
            amounts.lag.merge(tally.loads[name].lag)
    loops = loops_of(threshold.load, part.loops)
    seen = _of_loads(threshold, baseline, amounts, part.seconds(tally.alive.mono), tally, loops=loops)
    return replace(seen, missing=_unheard(threshold, tally))


def _unheard(threshold: Threshold, tally: Tally) -> str:
    """Say what of a part of the run may have been counted outside it."""
    scope = threshold.scope
    if scope is None or scope.where is Where.OUTSIDE:
        return ""  # what is counted there may be too much, never too little
    missed = Some()
    for name, fault in tally.episodes.faults.items():
        for load, some in fault.unheard.items():
            if scope.fault in (None, name) and threshold.load in (None, load):
                missed = missed.plus(some)
    return (
        f"a process of the load may have known of {plural(missed.count, 'episode')} too late: {missed}"
        if missed
        else ""
    )


def _in_windows(threshold: Threshold, sliding: Sliding, tally: Tally) -> Seen:
    if tally.ended is not None:
        sliding.close(tally.alive.mono)
    span = format_duration(threshold.span or 0.0)
    seen = sliding.looked + sliding.empty + sliding.blurred + sliding.lagged
    if not seen:
        return Seen(None, f"the soak was shorter than {span}, so there is no such window")
    if threshold.metric.counter is not None:
        counted = _counter(threshold, threshold.metric.counter, tally)
        if counted.value is None:
            return counted
    if sliding.worst is None:
        return Seen(None, _unseen(sliding, seen))
    if threshold.metric.subject is Subject.LOAD and not sliding.finished:
        return Seen(None, f"{_name(threshold)} did not finish a single operation")
    value, begin, end = sliding.worst
    times = " to ".join(tally.alive.at(mono).utc.strftime("%H:%M:%S") for mono in (begin, end))
    missing = _unseen(sliding, seen) if sliding.looked < seen else ""
    return Seen(value, f"the worst of {plural(seen, 'window')} of {span}, from {times} UTC", missing=missing)


def _unseen(sliding: Sliding, seen: int) -> str:
    """Say which windows show nothing."""
    whats = {
        "there was no operation to see it from": sliding.empty,
        "soakd itself was so slow that it may be its own lag": sliding.lagged,
        "the journal is folded, above its byte budget": sliding.blurred,
    }
    return "; ".join(f"in {count:,} of {seen:,} windows {what}" for what, count in whats.items() if count)
