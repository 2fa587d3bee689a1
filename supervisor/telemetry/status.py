"""The picture of a run: a fold over its records.

Metrics, `/status` and the console are all drawn from this one picture, and the picture from the journalled records, so they
agree with each other and with the report.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from functools import singledispatchmethod
from typing import Any, Final

from supervisor.histogram import Histogram
from supervisor.journal import events as ev
from supervisor.telemetry.pictures import Crash, EpisodePicture, FaultPicture, LoadPicture, UnitPicture

CLOSED_EPISODES: Final = 8
"""Closed episodes kept for display; totals are kept for ever."""
SERIES: Final = 500
"""Of any one thing (units, error classes); a soak has far fewer, and what is beyond it counts under `other`."""


class Status:
    """What is known of a run now."""

    def __init__(self) -> None:
        self.started: ev.RunStarted | None = None
        self.started_mono = 0.0
        self.phase = ev.Phase.PREFLIGHT
        self.soaking_since: float | None = None
        self.ended: ev.RunEnded | None = None
        self.verdict: ev.VerdictReached | None = None
        self.units: dict[str, UnitPicture] = {}
        self.faults: dict[str, FaultPicture] = {}
        self.open: dict[str, EpisodePicture] = {}
        self.closed: deque[EpisodePicture] = deque(maxlen=CLOSED_EPISODES)
        self.loads: dict[str, LoadPicture] = {}
        self.last_crash: Crash | None = None
        self.paused_until = 0.0
        """Monotonic seconds until which an operator has paused the faults."""
        self.steady: ev.SteadyChanged | None = None
        self.probes: dict[str, ev.Reading] = {}
        self.connections: dict[str, ev.BrokerChanged] = {}
        self.health: ev.HealthChanged | None = None
        self.trouble: Counter[str] = Counter()
        self.own_crashes: Counter[str] = Counter()
        self.observed: dict[str, float] = {}
        self.records = 0
        self._mono = self._wall = 0.0

    def apply(self, record: ev.Record) -> None:
        """Take one record in; the journal calls it for each, in order."""
        self.records += 1
        self._mono, self._wall = record.mono, record.wall
        self._take(record.event)

    def time_left(self, now: float | None = None) -> float | None:
        """Return the seconds left of `duration`; None where it has none or the soak has not begun."""
        if self.started is None or self.started.duration is None or self.soaking_since is None:
            return None
        return max(
            self.soaking_since + self.started.duration - (time.monotonic() if now is None else now), 0.0
        )

    def failures(self) -> int:
        """Return failed + indeterminate operations of all loads."""
        return sum(load.outcomes["failed"] + load.outcomes["indeterminate"] for load in self.loads.values())

    def _unit(self, name: str) -> UnitPicture:
        return self.units.setdefault(
            name if name in self.units or len(self.units) < SERIES else "other", UnitPicture()
        )

    @singledispatchmethod
    def _take(self, event: ev.Event) -> None:
        """Events that the picture does not show."""

    @_take.register
    def _(self, event: ev.RunStarted) -> None:
        self.started, self.started_mono = event, self._mono
        self.units.update({unit: UnitPicture(since=self._mono) for unit in event.units})
        self.loads.update({load: LoadPicture() for load in event.loads})
        self.faults.update({fault: FaultPicture() for fault in event.faults})

    @_take.register
    def _(self, event: ev.PhaseEntered) -> None:
        self.phase = event.phase
        if event.phase is ev.Phase.SOAKING:
            self.soaking_since = self._mono

    @_take.register
    def _(self, event: ev.RunEnded) -> None:
        self.ended = event

    @_take.register
    def _(self, event: ev.VerdictReached) -> None:
        self.verdict = event

    @_take.register
    def _(self, event: ev.JournalTrouble) -> None:
        self.trouble[event.what] += 1

    @_take.register
    def _(self, event: ev.TaskCrashed) -> None:
        self.own_crashes[event.task] += 1

    @_take.register
    def _(self, event: ev.UnitStarted) -> None:
        unit = self._unit(event.unit)
        unit.up, unit.ready, unit.incarnation, unit.since = True, False, event.incarnation, self._mono

    @_take.register
    def _(self, event: ev.UnitReady) -> None:
        self._unit(event.unit).ready = True

    @_take.register
    def _(self, event: ev.UnitExited) -> None:
        unit = self._unit(event.unit)
        unit.exits[event.cause] += 1
        if event.incarnation == unit.incarnation:  # the exit of an older life must not hide the new one
            unit.up, unit.ready, unit.since = False, False, self._mono

    @_take.register
    def _(self, event: ev.UnitCrashed) -> None:
        unit = self._unit(event.unit)
        unit.crashes += 1
        unit.signature = event.signature
        how = event.signal or f"exit {event.code}"
        self.last_crash = Crash(event.unit, self._wall, how, event.signature, event.file)

    @_take.register
    def _(self, event: ev.UnitRestarted) -> None:
        unit = self._unit(event.unit)
        unit.restarts += 1
        unit.downtime.record(event.downtime)

    @_take.register
    def _(self, event: ev.UnitGivenUp) -> None:
        self._unit(event.unit).given_up = True

    @_take.register
    def _(self, event: ev.FaultIntent) -> None:
        self.faults.setdefault(event.fault, FaultPicture()).episodes += 1
        targets = tuple(target.unit for target in event.targets)
        self.open[event.episode] = EpisodePicture(event.episode, event.fault, targets, self._mono)

    @_take.register
    def _(self, event: ev.SoakFileRead) -> None:
        if self.started and not event.refused:
            self.started = self.started.model_copy(
                update={"duration": event.duration, "faults": event.faults}
            )

    @_take.register
    def _(self, event: ev.OperatorActed) -> None:
        if event.action == "pause":
            self.paused_until = self._mono + (math.inf if event.seconds is None else event.seconds)
        elif event.action == "resume":
            self.paused_until = 0.0

    @_take.register
    def _(self, event: ev.FaultInjected) -> None:
        self._stage(event.episode, "hold")

    @_take.register
    def _(self, event: ev.FaultUndone) -> None:
        self._stage(event.episode, "recover")

    @_take.register
    def _(self, event: ev.UndoFailed) -> None:
        if episode := self.open.get(event.episode):
            self.faults[episode.fault].undo_failures += 1

    @_take.register
    def _(self, event: ev.EpisodeClosed) -> None:
        episode = self.open.pop(event.episode, None)
        if episode is None:
            return
        episode.stage, episode.recovered, episode.recovery = "closed", event.recovered, event.recovery
        self.closed.append(episode)
        fault = self.faults[episode.fault]
        fault.outcomes[{True: "recovered", False: "not_recovered", None: "unknown"}[event.recovered]] += 1
        if event.recovery is not None:
            fault.recovery.record(event.recovery)

    @_take.register
    def _(self, event: ev.LoadWindow) -> None:
        load = self.loads.setdefault(event.load, LoadPicture())
        load.recent.append(event)
        load.scheduled += event.scheduled
        load.dropped += event.dropped
        load.late += event.late
        _add(load.counters, event.counters)
        for part in event.slices:
            load.outcomes.update(ok=part.ok, failed=part.failed, indeterminate=part.indeterminate)
            _add(load.errors, part.errors)
            load.response.merge(Histogram.unpack(part.response))
        if event.samples:
            last = event.samples[-1]
            load.last_failure = f"{last.name}: {last.error}" if last.name else last.error

    @_take.register
    def _(self, event: ev.ProbeChanged) -> None:
        self.probes[event.reading.probe] = event.reading

    @_take.register
    def _(self, event: ev.SteadyChanged) -> None:
        self.steady = event

    @_take.register
    def _(self, event: ev.BrokerChanged) -> None:
        if event.state != "discovered":  # that the cluster has more servers says nothing of this connection
            self.connections[event.connection] = event

    @_take.register
    def _(self, event: ev.HealthChanged) -> None:
        self.health = event

    @_take.register
    def _(self, event: ev.Observation) -> None:
        self.observed = dict(event.values)

    def _stage(self, episode: str, stage: str) -> None:
        if picture := self.open.get(episode):
            picture.stage = stage


def _add(totals: dict[str, float], counts: Mapping[str, float]) -> None:
    for name, count in counts.items():
        key = name if name in totals or len(totals) < SERIES else "other"
        totals[key] = totals.get(key, 0) + count


def as_json(status: Status) -> dict[str, Any]:
    """Return the picture as `/status` gives it: JSON, times in seconds."""
    now = time.monotonic()
    started = status.started
    return {
        "run": started.run if started else None,
        "soak": started.soak if started else None,
        "seed": started.seed if started else None,
        "phase": status.phase,
        "soaking_for": round(now - status.soaking_since, 1) if status.soaking_since else None,
        "duration": started.duration if started else None,
        "time_left": status.time_left(now),
        "verdict": status.verdict.verdict if status.verdict else None,
        "reasons": list(status.verdict.reasons) if status.verdict else [],
        "steady": status.steady.holds if status.steady else None,
        "failing": list(status.steady.failing) if status.steady else [],
        "units": {
            name: {
                "state": unit.state,
                "for": round(now - unit.since, 1),
                "crashes": unit.crashes,
                "restarts": unit.restarts,
                "last_crash": unit.signature or None,
            }
            for name, unit in status.units.items()
        },
        "paused": status.paused_until > now,
        "episodes": {
            "open": [
                {
                    "episode": e.episode,
                    "stage": e.stage,
                    "targets": list(e.targets),
                    "for": round(now - e.since, 1),
                }
                for e in status.open.values()
            ],
            "closed": {name: dict(fault.outcomes) for name, fault in status.faults.items()},
        },
        "loads": {name: _load_json(load) for name, load in status.loads.items()},
        "connections": {
            name: {"state": c.state, "server": c.server} for name, c in status.connections.items()
        },
        "health": {"state": status.health.state, "findings": list(status.health.findings)}
        if status.health
        else None,
        "trouble": dict(status.trouble),
        "observed": status.observed,
    }


def _load_json(load: LoadPicture) -> dict[str, Any]:
    return {
        "scheduled": load.scheduled,
        **{outcome: load.outcomes[outcome] for outcome in ("ok", "failed", "indeterminate")},
        "dropped": load.dropped,
        "late": load.late,
        "ok_share": load.ok_share(),
        "rate": round(load.rate(), 3),
        "p50": load.response.quantile(0.5),
        "p99": load.response.quantile(0.99),
        "errors": dict(sorted(load.errors.items(), key=lambda item: -item[1])[:10]),
        "counters": dict(load.counters),
    }
