"""SIGKILL of soakd in the middle of every kind of fault: it is healed, and nothing is left.

A reduced set of what `scripts/prove_deaths` does: a few deaths, each among several kinds at once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from death_brokers import brokers
from death_cases import CASES
from death_worlds import world_of
from deaths import Death, Lane, die, missing
from docker_client import Client
from soakd_run import SLEEPER, Soakd, soak_file, wait

from supervisor.journal import events as ev


@pytest.fixture(scope="module")
def lane() -> Iterator[Lane]:
    with closing(Lane()) as one:
        yield one


def of_world(name: str) -> list[str]:
    return [label for label, case in CASES.items() if name in case.on]


def left(death: Death) -> str:
    return f"{death.problems} after {death.phases}: {death.output}" if death.problems else ""


def test_every_kind_has_its_line_in_the_table() -> None:
    assert not missing()


@pytest.mark.timeout(200)
def test_nothing_is_left_of_processes_and_links(lane: Lane, tmp_path: Path) -> None:
    rng = random.Random()  # noqa: S311  # another instant each time: what is left would be told with its phases
    labels = rng.sample(of_world("process"), 4) + rng.sample(of_world("links"), 3)
    with world_of("links", labels, tmp_path, None) as world:
        for both in (False, True):
            target = rng.choice(labels), rng.choice(["inject", "undo"])
            assert not left(die(world, lane, labels, target, both=both, rng=rng))


@pytest.mark.timeout(200)
def test_nothing_is_left_of_containers(lane: Lane, docker: Client, tmp_path: Path) -> None:
    rng = random.Random()  # noqa: S311  # as above
    labels = rng.sample(of_world("docker"), 3)
    with world_of("docker", labels, tmp_path, docker) as world:
        for both in (False, True):
            target = rng.choice(labels), rng.choice(["inject", "undo"])
            assert not left(die(world, lane, labels, target, both=both, rng=rng))


@pytest.mark.timeout(200)
def test_nothing_is_left_of_what_is_stored(lane: Lane, tmp_path: Path) -> None:
    """A cluster that outlives the run."""
    rng = random.Random()  # noqa: S311  # as above
    labels = ["corrupt", "corrupt-put", "corrupt-delete", "corrupt-command", "kick", "delete_consumer"]
    with brokers(tmp_path) as world:
        for both in (False, True):
            assert not left(die(world, lane, labels, (rng.choice(labels[:3]), "hold"), both=both, rng=rng))


def test_nothing_is_left_of_faults_of_the_broker(soakd: Soakd) -> None:  # the fixture
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
    wait("no unit left", lambda: not soakd.units())
    assert soakd.end(50) == 3, soakd.output
    undone = {event.episode for event in soakd.events(ev.FaultUndone)}  # type: ignore[attr-defined]
    assert undone >= {"rollout#1"}
    assert undone == {event.episode for event in soakd.events(ev.FaultIntent)}  # type: ignore[attr-defined]


def intent_of(run: Soakd, fault: str) -> list[ev.Event]:
    return [event for event in run.events(ev.FaultIntent) if event.fault == fault]  # type: ignore[attr-defined]
