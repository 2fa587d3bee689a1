"""The probe of JetStream: the cluster is well, as `soakd health` sees it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.findings import Diagnosis, Health, Severity
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Timeout, View

TOLD: Final = 3
"""Findings that a reading tells, the worst first."""


State = Literal["healthy", "working"]


class JetStreamHealth(Strict):
    """How well JetStream has to be."""

    state: State = Field(
        "healthy",
        description="healthy: nothing is wrong; working: a server may be missing as long as JetStream does its work.",
    )
    timeout: Timeout = Field(2.0, description="How long each part of a look may take.")


def _lift(written: object) -> object:
    return {"state": written} if isinstance(written, str) else written


class JetStream(Probe):
    """JetStream is well: it answers, has its quorum and a leader, all servers take part, and there is room in the stores."""

    key: ClassVar[str] = "jetstream"

    jetstream: Annotated[
        JetStreamHealth, BeforeValidator(_lift, json_schema_input_type=State | JetStreamHealth)
    ]

    @property
    def title(self) -> str:
        """The wanted state."""
        return f"jetstream {self.jetstream.state}"

    @property
    def deadline(self) -> float:
        """Seconds for a look whose every part takes all its time, counting consumers included."""
        return 2 * self.jetstream.timeout + 1

    async def see(self, view: View) -> Seen:
        """Look once. The value is the state: healthy, degraded or unhealthy."""
        if view.connections is None:
            raise CannotSee("there is no broker section in the soak file")
        diagnosis = diagnose(await examine(view.connections, view.http, self.jetstream.timeout))
        allowed = {Health.HEALTHY} if self.jetstream.state == "healthy" else {Health.HEALTHY, Health.DEGRADED}
        return Seen(diagnosis.health in allowed, diagnosis.health.value, _detail(diagnosis))


def _detail(diagnosis: Diagnosis) -> str:
    weighty = [f.what for f in diagnosis.findings if f.severity in {Severity.CRITICAL, Severity.WARNING}]
    more = f"; and {len(weighty) - TOLD} more" if len(weighty) > TOLD else ""
    return "; ".join(weighty[:TOLD]) + more
