"""What probes and observations saw, and invariants that were violated."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from supervisor.journal.events.base import PART, Event


class Reading(BaseModel):
    """What one probe saw."""

    model_config = PART

    probe: str
    """The probe in words, such as `http http://127.0.0.1:8000/ready == 200`."""
    ok: bool
    value: float | str | None = None
    detail: str = ""
    took: float = 0.0


class ProbeChanged(Event, kind="probe.changed"):
    """An expectation began or ceased to hold."""

    reading: Reading


class Evidence(Event, kind="probe.evidence"):
    """What the probes saw before, during or after an episode (`when`)."""

    episode: str
    when: Literal["before", "during", "recovered"]
    readings: tuple[Reading, ...]


class SteadyChanged(Event, kind="steady.changed"):
    """The steady state began or ceased to hold."""

    holds: bool
    failing: tuple[str, ...] = ()


class Observation(Event, kind="observation", folds=True):
    """Numbers sampled every 10 s: gauges that no event carries. Keys are metric names with labels, Prometheus style."""

    values: dict[str, float]


class InvariantViolated(Event, kind="invariant.violated", durable=True):
    """What may never be false was false."""

    invariant: str
    subject: str
    detail: str
    data: dict[str, Any] = Field(default_factory=dict)
