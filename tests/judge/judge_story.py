"""Builds the records of a run, as its parts would have written them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from supervisor.histogram import Histogram
from supervisor.journal.events import (
    Cause,
    EndReason,
    EpisodeClosed,
    Event,
    Evidence,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    JournalTrouble,
    LoadStopped,
    LoadWindow,
    Phase,
    PhaseEntered,
    ProbeChanged,
    Reading,
    Record,
    RunEnded,
    RunStarted,
    Sample,
    Slice,
    SteadyChanged,
    Target,
    UnitCrashed,
    UnitExited,
    UnitRestarted,
)
from supervisor.judge.report import render
from supervisor.judge.verdict import judge

START = 1_800_000_000.0
"""Wall seconds of the first record: 2027-01-15 08:00:00 UTC."""
BOOT = 5_000.0
"""Monotonic seconds of the first record."""
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties: a machine that is busy with something else is no failure."""


class Story:
    """Records one after the other; `now` is the seconds since the first one."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 0.0

    @property
    def mono(self) -> float:
        return BOOT + self.now

    def tell(self, *events: Event) -> Story:
        for event in events:
            self.records.append(Record(len(self.records) + 1, START + self.now, self.mono, event))
        return self

    def wait(self, seconds: float) -> Story:
        self.now += seconds
        return self

    def begin(self, **facts: Any) -> Story:
        """Start a run and soak."""
        given: dict[str, Any] = {
            "run": "demo-1",
            "soak": "demo",
            "seed": 7,
            "soakd": "0.1.0",
            "host": "here",
            "pid": 1,
            "boot": "b",
            "duration": 60.0,
        }
        self.tell(RunStarted(**(given | facts)), PhaseEntered(phase=Phase.STARTING)).wait(1)
        return self.tell(PhaseEntered(phase=Phase.SOAKING), SteadyChanged(holds=True))

    def window(self, load: str = "rpc", *pieces: Slice, **more: Any) -> Story:
        """Tell what a load did in the ten seconds until now."""
        counts = sum(piece.ok + piece.failed + piece.indeterminate for piece in pieces)
        given: dict[str, Any] = {
            "load": load,
            "start": self.mono - 10,
            "end": self.mono,
            "scheduled": counts,
            "started": counts,
            "slices": pieces,
        }
        return self.tell(LoadWindow(**(given | more)))

    def operate(self, load: str = "rpc", ok: int = 100, took: float = 0.01, **more: Any) -> Story:
        return self.window(load, piece(ok=ok, took=took), **more)

    def intend(self, fault: str = "restart-nats", n: int = 1, units: Iterable[str] = ("nats1",)) -> Story:
        targets = tuple(Target(unit=unit) for unit in units)
        return self.tell(
            FaultIntent(episode=f"{fault}#{n}", fault=fault, type="restart", n=n, targets=targets)
        )

    def episode(
        self,
        fault: str = "restart-nats",
        n: int = 1,
        *,
        recovered: bool | None = True,
        recovery: float | None = 2.0,
        **more: Any,
    ) -> Story:
        """Tell a whole episode, from intent to close."""
        name = f"{fault}#{n}"
        self.intend(fault, n).wait(0.5).tell(FaultInjected(episode=name, took=0.5)).wait(1)
        self.tell(FaultUndone(episode=name)).wait(recovery or 0)
        return self.tell(EpisodeClosed(episode=name, recovered=recovered, recovery=recovery, **more))

    def crash(
        self, unit: str = "worker", signature: str = "ConnectionError: no servers", **more: Any
    ) -> Story:
        """Tell a crash and the restart that follows."""
        given: dict[str, Any] = {
            "unit": unit,
            "incarnation": f"1:{self.now}",
            "code": 1,
            "file": f"{unit}.crash.{self.now:.0f}.log",
            "signature": signature,
        }
        crashed = UnitCrashed(**(given | more))
        self.tell(
            UnitExited(
                unit=unit, incarnation=crashed.incarnation, code=1, signal=crashed.signal, cause=Cause.CRASH
            ),
            crashed,
        )
        return self.tell(
            UnitRestarted(unit=unit, incarnation=f"2:{self.now}", attempt=1, delay=0, downtime=0.02)
        )

    def end(self, reason: EndReason = EndReason.DURATION, detail: str = "") -> Story:
        """Bring the soak to its end, in order."""
        if reason is EndReason.DURATION:
            self.now = max(self.now, 61.0)
        self.tell(RunEnded(reason=reason, detail=detail), PhaseEntered(phase=Phase.STOPPING))
        loads = self.records[0].event.loads if isinstance(self.records[0].event, RunStarted) else ()
        self.tell(*(LoadStopped(load=load) for load in loads), PhaseEntered(phase=Phase.SETTLING))
        return self.tell(PhaseEntered(phase=Phase.JUDGING))


def piece(
    *marks: str,
    ok: int = 0,
    failed: int = 0,
    indeterminate: int = 0,
    took: float = 0.01,
    error: str = "timeout",
    **more: Any,
) -> Slice:
    """Return a slice of operations that took all the same time."""
    histogram = Histogram()
    for _ in range(ok):
        histogram.record(took)
    failures = failed + indeterminate
    return Slice(
        episodes=marks,
        ok=ok,
        failed=failed,
        indeterminate=indeterminate,
        errors={error: failures} if failures else {},
        response=tuple(histogram.pack()) if ok else (),
        **more,
    )


def long_night() -> Story:
    """Tell the story of the golden reports: two good episodes, one bad, crashes with and without an episode, a torn page."""
    story = Story().begin(
        soak="provisioning-nats-disruption",
        run="provisioning-nats-disruption-20270115T080000",
        duration=14400.0,
        units=("nats1", "dispatcher", "prefill"),
        loads=("e2e", "rpc"),
        faults=("restart-nats", "rollout"),
        thresholds=(
            "load rpc: ok >= 95%",
            "load rpc: p99 < 250ms",
            "unexplained failures == 0",
            "recovery < 30s",
            "crashes <= 5",
            "load rpc: lost == 0",
        ),
        probes=("http http://127.0.0.1:8000/ready == 200",),
        facts={"nats-server": "2.11.4", "python": "3.11.7"},
    )
    ready = "http http://127.0.0.1:8000/ready == 200"
    story.tell(ProbeChanged(reading=Reading(probe=ready, ok=True, value=200.0)))
    for _ in range(4):
        story.wait(10).operate(ok=100).operate("e2e", ok=2, took=4.2)
    name = "restart-nats#1"
    story.tell(Evidence(episode=name, when="before", readings=(Reading(probe=ready, ok=True, value=200.0),)))
    story.episode(n=1)
    story.window("rpc", piece(f"{name}:during", ok=5, failed=3, first_failure=story.mono - 2.8))
    story.window("rpc", piece(f"{name}:recovering", ok=20, failed=1, first_ok=story.mono - 1.5))
    story.wait(30).intend(n=2).wait(0.5)
    story.crash("dispatcher", episodes=("restart-nats#2:direct",))
    story.crash(
        "prefill",
        "OSError: [Errno 104] Connection reset by peer | retry",
        episodes=("restart-nats#2:direct",),
    )
    story.tell(FaultInjected(episode="restart-nats#2", took=0.5)).wait(1)
    story.tell(FaultUndone(episode="restart-nats#2")).wait(3.25)
    seen = Reading(probe=ready, ok=False, value=503.0, detail="503 Service Unavailable")
    story.tell(Evidence(episode="restart-nats#2", when="during", readings=(seen,)))
    story.tell(EpisodeClosed(episode="restart-nats#2", recovered=True, recovery=3.25))
    story.window(
        "rpc", piece("restart-nats#2:direct", ok=10, failed=2, indeterminate=4, first_failure=story.mono - 4)
    )
    story.wait(20).crash("dispatcher", "KeyError: 'realm_<topic>'", oom=False)
    story.wait(5).window(
        "rpc",
        piece(ok=90, failed=2, error="NoRespondersError", first_failure=story.mono - 3),
        samples=(
            Sample(
                at=story.mono - 3.1,
                name="connector.echo",
                outcome="failed",
                error="NoRespondersError",
                detail="nats: no responders available for request",
                took=0.1,
            ),
        ),
        counters={"lost": 0},
    )
    story.wait(30).episode("rollout", recovered=False, recovery=None, failing=(ready,))
    story.tell(SteadyChanged(holds=False, failing=(ready,)))
    story.tell(JournalTrouble(what="disk-full", detail="journal-0002.jsonl: No space left on device", lost=3))
    story.wait(14000)
    return story.end(EndReason.SIGNAL, "SIGTERM")


if __name__ == "__main__":  # makes the golden reports anew
    for name, text in render(Path("runs/provisioning/latest"), judge(long_night().records)).items():
        (Path(__file__).with_name("golden") / name).write_text(text)
