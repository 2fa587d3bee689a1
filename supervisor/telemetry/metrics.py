"""Prometheus metrics, drawn at each scrape from the run's picture: one source, nothing counted twice.

Prefix `soakd_`, base units, no ids or error texts as labels (DESIGN 7).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import supervisor
from supervisor.histogram import Histogram
from supervisor.telemetry.status import Status

LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bucket bounds in seconds. A count at a bound is within 3.1 % of the bound (`histogram.Histogram`)."""
RECOVERY: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OUTCOMES: Final = ("ok", "failed", "indeterminate")
VERDICTS: Final = ("pass", "inconclusive", "fail")
GAUGES: Final[Mapping[str, str]] = {
    "soakd_event_loop_lag_seconds": "Worst lateness of soakd's event loop in the last 10 seconds.",
    "soakd_broker_streams": "JetStream streams seen.",
    "soakd_broker_streams_without_quorum": "Streams whose leader has no majority, or that have none.",
    "soakd_broker_messages": "Messages in all streams.",
    "soakd_broker_stored_bytes": "Bytes in all streams, one replica of each.",
    "soakd_broker_stream_messages": "Messages in a stream.",
    "soakd_broker_replica_lag_messages": "Messages by which the slowest replica of any stream is behind.",
    "soakd_broker_consumers": "Consumers.",
    "soakd_broker_consumers_idle": "Consumers that nobody reads from.",
    "soakd_broker_consumer_pending_messages": "Messages not delivered yet, over all consumers.",
    "soakd_broker_consumer_unacknowledged_messages": "Messages delivered and not acknowledged, over all consumers.",
    "soakd_broker_consumer_redelivered_messages": "Messages delivered again and not acknowledged, over all consumers.",
    "soakd_broker_kv_entries": "Entries of a key-value bucket.",
    "soakd_broker_view_complete": "1 while the monitor sees all of the broker.",
    "soakd_link_connections": "Open connections of a link.",
    "soakd_link_up_bytes": "Bytes that a link has delivered to its server.",
    "soakd_link_down_bytes": "Bytes that a link has delivered to clients.",
    "soakd_broker_look_age_seconds": "Time since streams were last listed.",
    "soakd_broker_look_seconds": "Time that the last list of streams took.",
}
"""Gauges that come as observations: name to help text."""
_OBSERVED = re.compile(r'([a-z_]+)(?:\{([a-z_]+)="(.*)"\})?')


def _histogram(histogram: Histogram, bounds: Iterable[float]) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative buckets and the sum, as prometheus_client wants them."""
    rest = sorted(histogram.buckets.items())
    cumulated, position = 0, 0
    buckets: list[tuple[str, float]] = []
    for bound in bounds:
        while position < len(rest) and Histogram.bounds(rest[position][0])[1] <= bound * 1e6 * 1.0001:
            cumulated += rest[position][1]
            position += 1
        buckets.append((str(bound), cumulated))
    return [*buckets, ("+Inf", histogram.count)], histogram.total


class StatusCollector(Collector):
    """Turns the picture into metric families."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every family, those without samples too, so that dashboards know them from the start."""
        yield from self._run()
        yield from self._units()
        yield from self._faults()
        yield from self._loads()
        yield from self._observed()

    def _run(self) -> Iterator[Metric]:
        status = self._status
        info = {"version": supervisor.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("soakd_build", "What is running here.", info)
        verdict = GaugeMetricFamily(
            "soakd_verdict", "1 for the verdict that was reached.", labels=["verdict"]
        )
        for name in VERDICTS:
            verdict.add_metric([name], float(status.verdict is not None and status.verdict.verdict == name))
        yield verdict
        phase = GaugeMetricFamily("soakd_phase", "1 for the phase the run is in.", labels=["phase"])
        phase.add_metric([status.phase], 1)
        yield phase
        steady = GaugeMetricFamily("soakd_steady", "1 while the steady state holds.")
        if status.steady is not None:
            steady.add_metric([], float(status.steady.holds))
        yield steady
        probes = GaugeMetricFamily("soakd_probe_ok", "1 while the expectation holds.", labels=["probe"])
        for name, reading in status.probes.items():
            probes.add_metric([name], float(reading.ok))
        yield probes
        trouble = CounterMetricFamily("soakd_journal_trouble", "Evidence lost or in doubt.", labels=["what"])
        for what, count in status.trouble.items():
            trouble.add_metric([what], count)
        yield trouble
        own = CounterMetricFamily(
            "soakd_supervision_crashes", "Crashes of soakd's own tasks.", labels=["task"]
        )
        for task, count in status.own_crashes.items():
            own.add_metric([task], count)
        yield own
        connected = GaugeMetricFamily("soakd_broker_connected", "1 while connected.", labels=["connection"])
        for name, connection in status.connections.items():
            connected.add_metric([name], float(connection.state in ("connected", "reconnected", "lame-duck")))
        yield connected

    def _units(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("soakd_unit_up", "1 while the unit runs.", labels=["unit"])
        given_up = GaugeMetricFamily("soakd_unit_given_up", "1 once its watchdog gave up.", labels=["unit"])
        crashes = CounterMetricFamily("soakd_unit_crashes", "Crashes.", labels=["unit"])
        restarts = CounterMetricFamily("soakd_unit_restarts", "Restarts by a watchdog.", labels=["unit"])
        seconds = HistogramMetricFamily(
            "soakd_unit_restart_seconds", "From a crash to the new process running.", labels=["unit"]
        )
        for name, unit in self._status.units.items():
            up.add_metric([name], float(unit.up))
            given_up.add_metric([name], float(unit.given_up))
            crashes.add_metric([name], unit.crashes)
            restarts.add_metric([name], unit.restarts)
            seconds.add_metric([name], *_histogram(unit.downtime, LATENCY))
        yield from (up, given_up, crashes, restarts, seconds)

    def _faults(self) -> Iterator[Metric]:
        active = GaugeMetricFamily("soakd_fault_active", "Open episodes.", labels=["fault"])
        episodes = CounterMetricFamily("soakd_fault_episodes", "Episodes begun.", labels=["fault"])
        closed = CounterMetricFamily(
            "soakd_fault_episodes_closed", "Episodes closed, by outcome.", labels=["fault", "outcome"]
        )
        undo = CounterMetricFamily("soakd_fault_undo_failures", "Failed attempts to undo.", labels=["fault"])
        recovery = HistogramMetricFamily(
            "soakd_fault_recovery_seconds", "From the end of undo to the steady state.", labels=["fault"]
        )
        for name, fault in self._status.faults.items():
            active.add_metric([name], sum(e.fault == name for e in self._status.open.values()))
            episodes.add_metric([name], fault.episodes)
            undo.add_metric([name], fault.undo_failures)
            for outcome in ("recovered", "not_recovered", "unknown"):
                closed.add_metric([name, outcome], fault.outcomes[outcome])
            recovery.add_metric([name], *_histogram(fault.recovery, RECOVERY))
        yield from (active, episodes, closed, undo, recovery)

    def _loads(self) -> Iterator[Metric]:
        operations = CounterMetricFamily(
            "soakd_load_operations", "Operations by outcome.", labels=["load", "outcome"]
        )
        scheduled = CounterMetricFamily("soakd_load_scheduled", "Operations scheduled.", labels=["load"])
        dropped = CounterMetricFamily(
            "soakd_load_dropped", "Operations never started: no free slot.", labels=["load"]
        )
        late = CounterMetricFamily("soakd_load_late", "Operations started late.", labels=["load"])
        response = HistogramMetricFamily(
            "soakd_load_response_seconds",
            "From the intended start to the end of ok operations.",
            labels=["load"],
        )
        for name, load in self._status.loads.items():
            for outcome in OUTCOMES:
                operations.add_metric([name, outcome], load.outcomes[outcome])
            scheduled.add_metric([name], load.scheduled)
            dropped.add_metric([name], load.dropped)
            late.add_metric([name], load.late)
            response.add_metric([name], *_histogram(load.response, LATENCY))
        yield from (operations, scheduled, dropped, late, response)

    def _observed(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for key, value in self._status.observed.items():
            match = _OBSERVED.fullmatch(key)
            if match is None or match[1] not in GAUGES:
                continue
            labels = [match[2]] if match[2] else []
            family = families.setdefault(
                match[1], GaugeMetricFamily(match[1], GAUGES[match[1]], labels=labels)
            )
            family.add_metric([match[3]] if match[2] else [], value)
        yield from families.values()


def registry(status: Status) -> CollectorRegistry:
    """Return a registry of our own with the run's metrics and those of the process (memory, descriptors, CPU)."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    own = CollectorRegistry(auto_describe=False)
    own.register(StatusCollector(status))
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own
