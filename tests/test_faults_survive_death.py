"""SIGKILL of the daemon in the middle of every kind of fault: the guardian heals, and nothing of it is left.

A reduced set: one death for each kind, in its inject or its hold.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
from test_run import SLEEPER, Soakd, soak_file, soakd, wait  # noqa: F401  # a fixture

from supervisor.journal import events as ev

KINDS: dict[str, dict[str, Any]] = {
    "stop": {"stop": ["a"], "hold": "1h"},
    "pause": {"pause": ["a", "b"], "hold": "1h"},
    "kill": {"kill": ["a"], "signal": "TERM"},
    "crash_loop": {"crash_loop": ["a"], "crashes": 100, "uptime": "1s"},
    "rolling_restart": {"rolling_restart": ["a", "b"], "pause_between": "10m"},
    "command": {
        "command": ["sh", "-c", "echo > broken; sleep 1000 & wait"],
        "undo": "rm -f broken",
        "hold": "1h",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_it(soakd: Soakd, kind: str) -> None:  # noqa: F811  # the fixture
    soakd.start(soak_file(faults={"bad": {**KINDS[kind], "at": ["100ms"]}}))
    wait("an intent", lambda: intent_of(soakd, "bad"))
    if kind in ("stop", "pause", "kill"):
        wait("the inject", lambda: soakd.events(ev.FaultInjected))
    if kind == "command":
        wait("the inject", (soakd.folder / "broken").exists)
    os.kill(soakd.daemon(), signal.SIGKILL)
    wait("no unit left", lambda: not soakd.units(), 5.0)
    assert soakd.end() == 3, soakd.output
    assert [event.episode for event in soakd.events(ev.FaultUndone)] == ["bad#1"]  # type: ignore[attr-defined]
    assert not (soakd.folder / "broken").exists()


def test_nothing_is_left_of_faults_of_the_broker(soakd: Soakd) -> None:  # noqa: F811  # the fixture
    """All of them at once on one embedded server, the lame duck in the middle of its way out."""
    client = (
        "import asyncio, os, nats\n"
        "async def main():\n"
        "    await nats.connect(os.environ['SOAKD_NATS_URL'].split(','), user='soakd', password='soakd', name='worker')\n"
        "    print('up', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    unit = {"command": [sys.executable, "-c", client], "ready": {"log": "up"}, "after": ["embedded/nats1"]}
    faults = {
        "kicked": {"kick": "worker", "at": ["100ms"]},
        "told": {"lame_duck": "worker", "at": ["100ms"]},
        "rollout": {"rolling_lame_duck": "nats1", "at": ["1s"]},
    }
    soakd.start(
        soak_file(
            engines={"local": {"process": {"units": {"a": unit, "b": {"command": SLEEPER}}}}},
            broker={"embedded": {"nodes": 1}},
            faults=faults,
        )
    )
    wait("the intent of the rollout", lambda: intent_of(soakd, "rollout"), 40)
    os.kill(soakd.daemon(), signal.SIGKILL)
    wait("no unit left", lambda: not soakd.units(), 5.0)
    assert soakd.end() == 3, soakd.output
    undone = {event.episode for event in soakd.events(ev.FaultUndone)}  # type: ignore[attr-defined]
    assert undone >= {"rollout#1"}
    assert undone == {event.episode for event in soakd.events(ev.FaultIntent)}  # type: ignore[attr-defined]


def intent_of(run: Soakd, fault: str) -> list[ev.Event]:
    return [event for event in run.events(ev.FaultIntent) if event.fault == fault]  # type: ignore[attr-defined]
