"""How often the monitor looks: as asked for, never two rounds at once, and more seldom where the broker is slow."""

from __future__ import annotations

import time

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats_servers import NatsServer, until

from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.monitor.pace import AGAIN, Pace
from supervisor.broker.monitor.streams import Names
from supervisor.broker.options import Broker
from supervisor.broker.options import Monitor as Options
from supervisor.journal.writer import JournalWriter

TOOK = st.floats(0, 100)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def pause(clock: Clock, pace: Pace, took: float, *, answered: bool = True) -> float:
    pace.begin()
    clock.now += took
    return pace.pause(answered=answered)


def test_a_quick_broker_is_looked_at_as_often_as_asked(clock: Clock) -> None:
    pace = Pace(0.5, 5.0)
    assert pause(clock, pace, 0.04) == pytest.approx(0.46)
    assert pace.rounds == 1
    assert pace.took == pytest.approx(0.04)
    pause(clock, pace, 0.3)
    pause(clock, pace, 0.1)
    assert (pace.took, pace.slowest) == (pytest.approx(0.1), pytest.approx(0.3)), "the longest is remembered"


def test_a_slow_broker_is_looked_at_more_seldom_and_not_seldomer_than_the_limit(clock: Clock) -> None:
    pace = Pace(0.5, 5.0, share=0.1)
    assert pause(clock, pace, 0.2) == pytest.approx(1.8)
    assert pause(clock, pace, 60) == 5.0


def test_waiting_in_vain_is_no_burden(clock: Clock) -> None:
    assert pause(clock, Pace(0.5, 5.0), 4.0, answered=False) == AGAIN


@given(every=st.floats(0.05, 60), longest=st.floats(0.1, 60), took=TOOK, answered=st.booleans())
def test_a_pause_is_never_negative_nor_longer_than_asked_or_the_limit(
    every: float, longest: float, took: float, answered: bool
) -> None:
    clock, patch = Clock(), pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(time, "monotonic", clock.monotonic)
        assert 0 <= pause(clock, Pace(every, longest), took, answered=answered) <= max(every, longest, AGAIN)


async def test_no_round_begins_before_the_last_one_has_ended(
    server: NatsServer, broker: Broker, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stands still is asked once at a time, and rounds go on when it does."""
    running, most = 0, 0
    read = Names.read

    async def counted(names: Names, handle: Handle, deadline: float) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await read(names, handle, deadline)
        finally:
            running -= 1

    monkeypatch.setattr(Names, "read", counted)
    async with open_connections(broker, journal) as connections, anyio.create_task_group() as group:
        monitor = Monitor(
            Options.model_validate({"every": "20ms"}), await connections.new("default", "monitor"), journal
        )
        group.start_soon(monitor.run)
        await until(lambda: monitor.snapshot().rounds > 5)
        server.pause()
        await until(lambda: monitor.why() != "")
        server.resume()
        rounds = monitor.snapshot().rounds
        await until(lambda: monitor.snapshot().rounds > rounds + 5 and not monitor.why())
        group.cancel_scope.cancel()
    assert most == 1
