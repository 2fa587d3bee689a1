"""Whose exit it was, by the signals that came before it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from supervisor.engines.dockerd.container import Container, read
from supervisor.engines.dockerd.life import Unit
from supervisor.engines.dockerd.news import Herald, Manner

BEGUN = 1_700_000_000 * 1_000_000_000
CRASHED = 3


def container(
    config: dict[str, object],
    now: Mapping[str, object] = MappingProxyType({}),
    host: Mapping[str, object] = MappingProxyType({}),
    restarts: int = 0,
) -> Container:
    state = {
        "Running": True,
        "Restarting": False,
        "Paused": False,
        "OOMKilled": False,
        "ExitCode": 0,
        "Pid": 1,
    }
    times = {"StartedAt": "2023-11-14T22:13:20Z", "FinishedAt": "0001-01-01T00:00:00Z"}
    return read(
        {
            "Id": "c" * 64,
            "Name": "/unit",
            "State": {**state, **times, **now},
            "Config": config,
            "HostConfig": dict(host),
            "RestartCount": restarts,
            "Image": "",
        }
    )


def living(stop: str = "") -> Unit:
    unit = Unit("unit")
    unit.begin(container({"StopSignal": stop}), BEGUN)
    return unit


@pytest.mark.parametrize(
    ("sent", "code", "outside"),
    [
        (signal.SIGHUP, CRASHED, False),
        (signal.SIGHUP, 128 + signal.SIGSEGV, False),
        (signal.SIGHUP, 128 + signal.SIGHUP, True),
        (signal.SIGTERM, CRASHED, True),
        (signal.SIGUSR2, 0, True),
        (signal.SIGKILL, None, True),
    ],
)
def test_only_a_signal_that_explains_an_exit_makes_it_outside(
    sent: int, code: int | None, *, outside: bool
) -> None:
    unit = living()
    unit.signalled(sent, BEGUN + 1)
    assert unit.end(code, BEGUN + 2, None, live=True).outside is outside


@pytest.mark.parametrize(
    ("written", "number"),
    [("", 15), ("2", 2), ("int", 2), ("SIGUSR2", 12), ("SIGRTMIN+3", 37), ("RTMAX-3", 61), ("NONESUCH", 15)],
)
def test_every_stop_signal_that_an_image_may_have(written: str, number: int) -> None:
    last = living(written).last
    assert last
    assert last.stop_signal == number


@pytest.mark.parametrize(
    ("check", "seconds"),
    [
        ({}, 0),
        ({"Test": ["NONE"]}, 0),
        ({"Test": ["CMD", "true"]}, 180),
        (
            {
                "Test": ["CMD", "true"],
                "Interval": 10**9,
                "Timeout": 2 * 10**9,
                "Retries": 5,
                "StartPeriod": 10**11,
            },
            115,
        ),
    ],
)
def test_how_long_a_health_check_may_take(check: dict[str, object], seconds: float) -> None:
    assert container({"Healthcheck": check}).health_within == seconds


def test_the_containers_own_stop_signal_is_meant_to_end_it() -> None:
    unit = living("SIGHUP")
    unit.signalled(signal.SIGHUP, BEGUN + 1)
    unit.signalled(signal.SIGUSR1, BEGUN + 2)
    assert unit.end(CRASHED, BEGUN + 3, None, live=True).outside


@pytest.mark.parametrize(
    ("policy", "state", "left"),
    [
        ({"Name": "always"}, {}, True),
        ({"Name": "unless-stopped"}, {}, True),
        ({"Name": "on-failure"}, {}, True),
        ({"Name": "on-failure", "MaximumRetryCount": 2}, {}, False),
        ({"Name": "on-failure"}, {"ExitCode": 0}, False),
        ({"Name": "always"}, {"Running": True, "Restarting": True}, False),
        ({"Name": "always"}, {"Running": True}, False),
        ({"Name": "always"}, {"Error": "port is already allocated"}, False),
        ({"Name": "no"}, {}, False),
        (None, {}, False),
    ],
)
def test_what_an_engine_leaves_down_somebody_had_it_signal(
    policy: dict[str, object] | None, state: dict[str, object], *, left: bool
) -> None:
    down = {"Running": False, "ExitCode": 137, **state}
    seen = container({}, down, {"RestartPolicy": policy}, restarts=2)
    assert seen.is_left_down() is left
    unit = living()
    assert unit.end(137, seen.finished, seen, live=False).outside is left
    unit = living()
    unit.signalled(signal.SIGHUP, BEGUN + 1)
    assert not unit.end(137, seen.finished, seen, live=False).outside, "after that no engine starts it again"


async def test_what_comes_while_the_engine_is_being_left_harms_nobody() -> None:
    """What it starts at its end it is told of like any start; by then nobody may want to know."""

    async def recreated(unit: Unit, seen: Container) -> None:
        raise AssertionError((unit, seen))

    herald, unit = Herald(Manner(respect=True, unhealthy=False), recreated), Unit("unit")
    herald.close()
    await herald.arrived(unit, container({}), BEGUN)
    assert unit.life
