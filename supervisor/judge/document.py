"""verdict.json: the judgement for machines. A field never changes its meaning; fields may be added; else `schema` grows."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from supervisor.histogram import Histogram
from supervisor.judge.counting import Moment
from supervisor.judge.damage import Damage, Slowest
from supervisor.judge.episode import Episode, FaultTotals
from supervisor.judge.notes import notes
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.judge.units import UnitTotals
from supervisor.judge.verdict import Judgement

SCHEMA: Final = 1
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}


def render(judgement: Judgement) -> str:
    """Return the text of verdict.json."""
    return json.dumps(strict(document(judgement)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def document(judgement: Judgement) -> dict[str, Any]:
    """Return the judgement as JSON: times in ISO 8601 UTC, durations in seconds, shares from 0 to 1, null for what is unknown."""
    tally = judgement.tally
    episodes = tally.episodes.listed()
    return {
        "schema": SCHEMA,
        "verdict": judgement.verdict,
        "reasons": [
            {"verdict": one.verdict, "rule": one.rule, "text": one.text, "where": one.where}
            for one in judgement.findings
        ],
        "notes": list(notes(tally)),
        "run": _run(tally),
        "thresholds": [
            {
                "threshold": one.text,
                "verdict": one.verdict,
                "seen": one.seen,
                "shown": one.shown,
                "why": one.why,
            }
            for one in judgement.thresholds
        ],
        "first": {
            what: {"at": iso(first.moment), "what": first.what, "episodes": list(first.episodes)}
            for what, first in tally.firsts.items()
        },
        "units": {name: _unit(unit) for name, unit in tally.units.items()},
        "loads": {name: _load(load) for name, load in tally.loads.items()},
        "baseline": _baseline(tally),
        "faults": {name: _fault(fault) for name, fault in tally.episodes.faults.items()},
        "fault_kinds": {kind: _damage(damage) for kind, damage in tally.episodes.kinds.items()},
        "episodes": [_episode(episode) for episode in episodes],
        "episodes_not_listed": tally.episodes.count - len(episodes),
        "probes": {
            name: {
                "looked": probe.looked,
                "losses": probe.losses,
                "ok": probe.last.ok if probe.last else None,
            }
            for name, probe in tally.probes.items()
        },
        "invariants": {
            name: {"violations": some.count, "cases": some.cases} for name, some in tally.invariants.items()
        },
        "journal_trouble": {name: some.count for name, some in tally.trouble.items()},
        "event_loop_lag_seconds": tally.lag,
        "event_loop_lags_seconds": _quantiles(tally.lags.histogram()),
    }


def iso(moment: Moment | None) -> str | None:
    """Write a moment in ISO 8601, UTC, to the millisecond."""
    if moment is None:
        return None
    return moment.utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _run(tally: Tally) -> dict[str, Any]:
    started, ended = tally.started, tally.ended
    facts: dict[str, Any] = {}
    if started:
        names = ("run", "soak", "seed", "soakd", "host", "duration", "clients", "not_asked")
        facts = {name: getattr(started, name) for name in names} | {"facts": started.facts}
    return facts | {
        "started": iso(tally.began),
        "ended": iso(tally.over),
        "end": ended.reason if ended else None,
        "end_detail": ended.detail if ended else "",
        "soaked_seconds": round(tally.soaked, 3),
    }


def _unit(unit: UnitTotals) -> dict[str, Any]:
    return {
        "crashes": unit.crashes,
        "unexplained_crashes": unit.unexplained,
        "restarts": unit.restarts,
        "given_up": bool(unit.given_up),
        "exits": unit.exits,
        "worst_downtime_seconds": round(unit.worst_downtime, 6),
        "not_captured": unit.uncaptured.count,
        "start_failures": unit.start_failed.count,
        "signatures": [
            {
                "signature": group.signature,
                "crashes": group.count,
                "unexplained": group.unexplained,
                "how": group.how,
                "first": iso(group.first),
                "last": iso(group.last),
                "files": group.files,
                "last_file": group.last_file,
            }
            for group in unit.groups.values()
        ],
    }


def _load(load: LoadTotals) -> dict[str, Any]:
    return {
        "scheduled": load.scheduled,
        "started": load.started,
        "ok": load.ok,
        "failed": load.failed,
        "indeterminate": load.indeterminate,
        "late": load.late,
        "dropped": load.dropped,
        "cut_off": load.cut_off,
        "ok_share": load.ok / load.attempts if load.attempts else None,
        "ok_by_stage": load.oks,
        "failures_by_stage": load.stages,
        "unexplained_failures": load.unexplained,
        "errors": load.errors,
        "unexplained_errors": load.unexplained_errors,
        "response_seconds": _quantiles(load.latencies.response),
        "service_seconds": _quantiles(load.latencies.service),
        "start_lag_seconds": _quantiles(load.lag.histogram()),
        "counters": load.counters,
        "samples": [sample.model_dump(mode="json") for sample in load.samples],
        "unexplained_samples": [sample.model_dump(mode="json") for sample in load.unexplained_samples],
    }


def _baseline(tally: Tally) -> dict[str, Any] | None:
    baseline = tally.baseline
    if baseline is None:
        return None
    loads = {}
    for name in baseline.halves:
        amounts = baseline.amounts([name])
        loads[name] = {
            "ok": amounts.ok,
            "failures": amounts.failures,
            "dropped": amounts.dropped,
            "ok_share": amounts.ok / amounts.attempts if amounts.attempts else None,
            "ok_per_second": amounts.ok / baseline.lasted([name]) if baseline.seconds else None,
            "response_seconds": _quantiles(amounts.latencies.response),
            "unsteady": baseline.unsteady([name]),
        }
    return {"seconds": round(baseline.seconds, 3), "loads": loads}


def _fault(fault: FaultTotals) -> dict[str, Any]:
    return {
        "type": fault.type,
        "episodes": fault.episodes,
        "injected": fault.injected,
        "inject_failed": fault.inject_failed.count,
        "undo_failed": fault.undo_failed.count,
        "recovered": fault.recovered,
        "not_recovered": fault.not_recovered.count,
        "recovery_not_seen": fault.unseen,
        "truncated": fault.truncated.count,
        "skipped": fault.skipped.count,
        "recovery_seconds": _quantiles(fault.recovery),
        **_damage(fault.damage),
    }


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "episode": episode.id,
        "fault": episode.fault,
        "type": episode.type,
        "n": episode.n,
        "targets": list(episode.targets),
        "intended": iso(episode.intended),
        "injected": iso(episode.injected),
        "undone": iso(episode.undone),
        "closed": iso(episode.closed),
        "outcome": episode.outcome,
        "recovery_seconds": episode.recovery,
        "failing": list(episode.failing),
        "unmet": list(episode.unmet),
        "truncated": episode.truncated,
        "inject_error": episode.inject_error,
        "undo_failures": episode.undo_errors,
        "broken": episode.broken,
        "first_failure_after_seconds": episode.to_first_failure,
        "first_ok_after_undo_seconds": episode.to_first_ok,
        **_damage(episode.damage),
    }


def _damage(damage: Damage) -> dict[str, Any]:
    return {
        "ok": damage.ok,
        "failures_by_stage": damage.stages,
        "errors": damage.errors,
        "worst_response_seconds": damage.worst,
        "slowest": _slowest(damage.slowest),
        "crashes": damage.crashes,
        "stages": {
            name: {
                "ok": stage.ok,
                "failures": stage.failures,
                "dropped": stage.dropped,
                "errors": stage.errors,
                "worst_response_seconds": stage.worst,
                "slowest": _slowest(stage.slowest),
                "crashes": stage.crashes,
            }
            for name, stage in damage.by_stage.items()
        },
    }


def _slowest(one: Slowest | None) -> dict[str, Any] | None:
    return None if one is None else {"seconds": one.seconds, "error": one.error or None}


def _quantiles(histogram: Histogram) -> dict[str, float | None]:
    return {name: histogram.quantile(share) for name, share in QUANTILES.items()}


def strict(value: Any) -> Any:
    """Return the value without what JSON has no word for: no recovery is infinite, and a load may count anything."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
