from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from dead_run import started
from prometheus_client import generate_latest
from rich.console import Console

from supervisor.histogram import Histogram
from supervisor.journal import events as ev
from supervisor.telemetry import metrics
from supervisor.telemetry.console import frame
from supervisor.telemetry.status import Status, as_json


class Story:
    """Feeds events to a status the way the journal does."""

    def __init__(self) -> None:
        self.status = Status()
        self._sequence = 0

    def tell(self, *events: ev.Event) -> Status:
        for event in events:
            self._sequence += 1
            self.status.apply(ev.Record(self._sequence, time.time(), time.monotonic(), event))
        return self.status


def a_busy_run() -> Status:
    response = Histogram()
    for milliseconds in (1, 2, 3, 400):
        response.record(milliseconds / 1000)
    now = time.monotonic()
    window = ev.LoadWindow(
        load="e2e",
        start=now - 10,
        end=now,
        scheduled=6,
        started=5,
        dropped=1,
        slices=(
            ev.Slice(ok=4, response=tuple(response.pack())),
            ev.Slice(episodes=("restart#1:during",), failed=1, errors={"TimeoutError": 1}),
        ),
        samples=(
            ev.Sample(at=now - 5, name="test_a", outcome="failed", error="TimeoutError " + "and more " * 20),
        ),
    )
    return Story().tell(
        started(
            "r",
            soak="shop",
            seed=7,
            duration=120.0,
            units=("nats1", "dispatcher"),
            loads=("e2e",),
            faults=("restart",),
        ),
        ev.PhaseEntered(phase=ev.Phase.SOAKING),
        ev.UnitStarted(unit="nats1", incarnation="1:1"),
        ev.UnitReady(unit="nats1", incarnation="1:1", took=0.1),
        ev.UnitStarted(unit="dispatcher", incarnation="2:1"),
        ev.FaultIntent(
            episode="restart#1", fault="restart", type="restart", n=1, targets=(ev.Target(unit="nats1"),)
        ),
        ev.FaultInjected(episode="restart#1", took=0.1),
        ev.UnitExited(unit="dispatcher", incarnation="2:1", code=1, cause=ev.Cause.CRASH),
        ev.UnitCrashed(
            unit="dispatcher",
            incarnation="2:1",
            code=1,
            signature="NoRespondersError: nats " + "very " * 30 + "long",
            file="x",
        ),
        ev.UnitStarted(unit="dispatcher", incarnation="3:1", by="watchdog"),
        ev.UnitRestarted(unit="dispatcher", incarnation="3:1", attempt=1, delay=0.0, downtime=0.02),
        ev.FaultUndone(episode="restart#1"),
        ev.SteadyChanged(holds=False, failing=("unit nats1 is up",)),
        ev.EpisodeClosed(episode="restart#1", recovered=True, recovery=2.5),
        ev.FaultIntent(
            episode="restart#2", fault="restart", type="restart", n=2, targets=(ev.Target(unit="nats1"),)
        ),
        window,
        ev.Observation(
            values={'soakd_broker_stream_messages{stream="a\\"b"}': 3.0, "soakd_event_loop_lag_seconds": 0.1}
        ),
    )


def test_units_follow_their_events_and_old_exits_do_not_hide_new_lives() -> None:
    story = Story()
    status = story.tell(
        ev.UnitStarted(unit="a", incarnation="1:1"),
        ev.UnitStarted(unit="a", incarnation="2:1"),
        ev.UnitExited(unit="a", incarnation="1:1", code=0, cause=ev.Cause.RUN),
    )
    assert status.units["a"].up
    story.tell(ev.UnitExited(unit="a", incarnation="2:1", code=0, cause=ev.Cause.EPISODE))
    assert not status.units["a"].up
    assert status.units["a"].exits == {"run": 1, "episode": 1}


def test_the_broker_s_health_is_the_last_one_told() -> None:
    story = Story()
    assert as_json(story.status)["health"] is None
    quorum = ev.HealthChanged(state="unhealthy", before="healthy", findings=("quorum-lost (cluster): ...",))
    status = story.tell(ev.HealthChanged(state="healthy"), quorum)
    assert as_json(status)["health"] == {"state": "unhealthy", "findings": ["quorum-lost (cluster): ..."]}


def test_loads_count_every_slice_and_drops_lower_the_ok_share() -> None:
    load = a_busy_run().loads["e2e"]
    assert load.operations == 5
    assert load.ok_share() == pytest.approx(4 / 6)
    assert load.errors == {"TimeoutError": 1}
    assert load.last_failure.startswith("test_a: TimeoutError")


def test_the_status_page_agrees_with_the_metrics() -> None:
    status = a_busy_run()
    page = as_json(status)
    text = generate_latest(metrics.registry(status)).decode()
    assert page["units"]["dispatcher"]["crashes"] == 1
    assert 'soakd_unit_crashes_total{unit="dispatcher"} 1.0' in text
    assert page["episodes"]["closed"] == {"restart": {"recovered": 1}}
    assert 'soakd_fault_episodes_closed_total{fault="restart",outcome="recovered"} 1.0' in text
    assert 'soakd_fault_active{fault="restart"} 1.0' in text
    assert 'soakd_load_operations_total{load="e2e",outcome="failed"} 1.0' in text
    assert 'soakd_load_dropped_total{load="e2e"} 1.0' in text
    assert 'soakd_load_response_seconds_bucket{le="0.0025",load="e2e"} 2.0' in text
    assert 'soakd_load_response_seconds_count{load="e2e"} 4.0' in text
    assert 'soakd_broker_stream_messages{stream="a' in text


def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
    assert promtool, "promtool is missing: scripts/test installs it"
    text = generate_latest(metrics.registry(a_busy_run()))
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=90, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_frame_fits_the_terminal(width: int) -> None:
    stream = StringIO()
    Console(file=stream, width=width).print(frame(a_busy_run(), width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in (
        "shop",
        "left",
        "dispatcher",
        "restart#2",
        "e2e",
        "66.7%",
        "last crash",
        "NoRespondersError",
        " up ",
    ):
        assert word in text


def test_a_connection_stays_connected_while_more_servers_are_discovered() -> None:
    status = Story().tell(
        ev.BrokerChanged(connection="default", state="connected", server="127.0.0.1:4222"),
        ev.BrokerChanged(connection="default", state="discovered", detail="127.0.0.1:4223"),
    )
    assert (
        'soakd_broker_connected{connection="default"} 1.0'
        in generate_latest(metrics.registry(status)).decode()
    )


def test_a_picture_of_nothing_can_be_drawn() -> None:
    stream = StringIO()
    Console(file=stream, width=80).print(frame(Status(), 80))
    assert "preflight" in stream.getvalue()
    assert as_json(Status())["run"] is None
    assert b"soakd_build_info" in generate_latest(metrics.registry(Status()))
