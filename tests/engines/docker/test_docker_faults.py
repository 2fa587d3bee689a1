"""Every fault in the life of units, on containers: whole episodes, somebody's hand in the middle of them, and soakd's death."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from docker_client import Client
from docker_soak import IDLE, engine_of, new_name, said, soaking, wait_said
from scripted_fault import Stage, Watch, free_and_up, until

from supervisor.broker.connection import open_connections
from supervisor.broker.embedded import expand
from supervisor.broker.options import Broker
from supervisor.broker.ports import free_ports
from supervisor.engines.base import UnitState
from supervisor.engines.dockerd.names import PROJECT, SERVICE
from supervisor.engines.spawn import stopped
from supervisor.faults.base import Fault
from supervisor.faults.registry import FAULTS
from supervisor.journal.events import (
    Cause,
    EpisodeClosed,
    Event,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    UndoFailed,
    UnitCrashed,
    UnitExited,
    UnitRestarted,
)
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter

PATIENCE = 60.0
LOCKS = json.dumps({"label": ["soakd.lock"]})
STUBBORN = "trap '' TERM; echo up; while :; do sleep 1; done"


def kind(**keys: Any) -> Fault:
    """A fault of whatever kind, once and at once."""
    return FAULTS.find(keys, Path())[0].model_validate({"every": "0s", "times": 1, **keys})


def up(docker: Client, *names: str, program: str = IDLE) -> None:
    for name in names:
        docker.create(name, program)
        docker.start(name)
        wait_said(docker, name)


def lives(docker: Client, *names: str) -> dict[str, tuple[str, str, str]]:
    """Container, begin of its present life, and state of each."""
    seen = {name: docker.inspect(name) for name in names}
    return {
        name: (one["Id"], one["State"]["StartedAt"], one["State"]["Status"]) for name, one in seen.items()
    }


async def test_every_kind_from_aim_to_close(docker: Client, journal: JournalWriter) -> None:
    a, b = new_name("a"), new_name("b")
    up(docker, a, b)
    faults = {
        "stop": ({"stop": [a, b], "hold": "200ms"}, 2),
        "kill": ({"kill": [a, b]}, 2),
        "term": ({"kill": a, "signal": "TERM"}, 1),
        "restart": ({"restart": [a, b]}, 2),
        "rolling": ({"rolling_restart": [a, b]}, 2),
        "pause": ({"pause": [a, b], "hold": "200ms"}, 0),
        "exec": (
            {"exec": [a, b], "run": ["touch", "/tmp/made"], "undo": ["rm", "/tmp/made"], "hold": "200ms"},  # noqa: S108  # the container's
            0,
        ),
        "crash-loop": ({"crash_loop": a, "crashes": 3, "uptime": "50ms"}, 3),
    }
    async with soaking(journal, engine_of(docker, a, b, stop_timeout="5s")) as soak:
        stage = Stage(journal, Watch(journal), fleet=soak.fleet)
        for number, (name, (keys, exits)) in enumerate(faults.items(), 1):
            before = len(soak.of(UnitExited))
            async with stage.running(**{name: kind(**keys)}):
                closed = await stage.watch.until(EpisodeClosed, number)
            assert (closed.episode, closed.recovered, closed.truncated) == (f"{name}#1", True, "")
            await until(lambda n=before + exits: len(soak.of(UnitExited)) >= n)
            await until(lambda: free_and_up(soak.fleet))
            # A process 1 that does not listen yet ignores what the next fault tells it.
            await until(lambda: all(said(docker, u, 1 + len(soak.of(UnitExited, u))) for u in (a, b)))
            gone = soak.of(UnitExited)[before:]
            assert [(exit_.cause, exit_.by) for exit_ in gone] == [(Cause.EPISODE, f"{name}#1")] * exits
            assert {found[2] for found in lives(docker, a, b).values()} == {"running"}
        assert len(soak.of(FaultInjected)) == len(soak.of(FaultUndone)) == len(faults)
        assert not soak.of(FaultFailed)
        assert not soak.of(UnitCrashed)


async def test_targets_that_somebody_takes_away_or_makes_anew_are_truncated_and_left_alone(
    docker: Client, journal: JournalWriter
) -> None:
    taken, anew = [new_name("stopped"), new_name("paused")], [new_name("stopped"), new_name("paused")]
    up(docker, *taken, *anew)
    async with soaking(journal, engine_of(docker, *taken, *anew)) as soak:
        stage = Stage(journal, Watch(journal), fleet=soak.fleet)
        faults = {
            "stop": kind(stop=[taken[0], anew[0]], hold="1h", stop_timeout="0s"),
            "pause": kind(pause=[taken[1], anew[1]], hold="1h"),
        }
        async with stage.running(**faults):
            await stage.watch.until(FaultInjected, 2)
            for name in (*taken, *anew):
                docker.remove(name)
            up(docker, *anew)
            others = lives(docker, *anew)
            ids = {name: docker.inspect(name)["Id"][:12] for name in anew}
            await until(
                lambda: all(ids[n] in (soak.fleet.status(n).observed.incarnation or "") for n in anew)
            )
            gone = UnitState.ABSENT
            await until(lambda: all(soak.fleet.status(name).observed.state is gone for name in taken))
        closed = {event.episode: event for event in soak.of(EpisodeClosed)}
        for episode, n, change in (("stop#1", 0, "was down"), ("pause#1", 1, "was paused")):
            assert f"{taken[n]} {change} when inject ended and vanished" in closed[episode].truncated
            assert f"{anew[n]} {change} when inject ended and was" in closed[episode].truncated
        assert {event.episode for event in soak.of(FaultUndone)} == {"stop#1", "pause#1"}
        assert not soak.of(UndoFailed)
        assert lives(docker, *anew) == others, "what somebody made anew was left alone"
        assert {soak.fleet.status(name).holder for name in taken} == {"outside"}
        assert {soak.fleet.status(name).holder for name in anew} == {None}


async def test_a_rolling_lame_duck_over_nodes_in_containers(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    spec, section = expand({"nodes": 3, "lame_duck_grace_period": "500ms"}, free_ports())
    project, ready = new_name("cluster"), {}
    for node, unit in spec["process"]["units"].items():
        ready[node] = unit["ready"]
        program, *arguments = unit["command"]
        (tmp_path / node).mkdir()
        for file, content in unit["files"].items():
            (tmp_path / node / file).write_text(content)
        mounts = {"/nats-server": program, "/data": str(tmp_path / node)}
        docker.create(
            f"{project}-{node}-1",
            ["/nats-server", *arguments],
            {PROJECT: project, SERVICE: node},
            init=False,
            host={
                "NetworkMode": "host",
                "Mounts": [{"Type": "bind", "Source": source, "Target": at} for at, source in mounts.items()],
            },
            WorkingDir="/data",
        )
    nodes = ["nats1", "nats2"]
    async with (
        soaking(journal, engine_of(docker, project=project, ready=ready, start=True)) as soak,
        open_connections(Broker.model_validate(section), journal) as connections,
    ):
        stage = Stage(journal, Watch(journal), fleet=soak.fleet, connections=connections)
        async with stage.running(a=kind(rolling_lame_duck=nodes)):
            await until(lambda: soak.of(FaultInjected) or soak.of(FaultFailed), PATIENCE)
            closed = await stage.watch.until(EpisodeClosed)
        assert not soak.of(FaultFailed)
        assert (closed.recovered, closed.truncated) == (True, "")
        gone = [(exit_.unit, exit_.code, exit_.by) for exit_ in soak.of(UnitExited)]
        assert gone == [(node, 0, "a#1") for node in nodes]
        assert not soak.of(UnitRestarted), "the watchdogs keep their hands off"
        assert free_and_up(soak.fleet)


# --- death -----------------------------------------------------------------------------------------------------------


class Run:
    """A run with a fault of each kind in the middle of its episode."""

    def __init__(self, docker: Client, folder: Path) -> None:
        self.docker, self.folder = docker, folder
        prefix = new_name("u")
        self.units = {
            what: f"{prefix}-{what}"
            for what in ("stop", "pause", "kill", "loop", "roll", "roll-next", "restart", "spare")
        }
        for what, name in self.units.items():
            program = STUBBORN if what == "restart" else IDLE
            docker.create(name, program, host={"RestartPolicy": {"Name": "always"}})
            if what != "spare":
                docker.start(name)
        u = self.units
        once = {"at": ["100ms"]}
        self.faults = {
            "stop": {"stop": u["stop"], "hold": "1h", **once},
            "pause": {"pause": u["pause"], "hold": "1h", **once},
            "kill": {"kill": u["kill"], "signal": "TERM", **once},
            "loop": {"crash_loop": u["loop"], "crashes": 100, "uptime": "500ms", **once},
            "roll": {"rolling_restart": [u["roll"], u["roll-next"]], "pause_between": "10m", **once},
            "restart": {"restart": u["restart"], "at": ["1s"]},
        }
        soak = {
            "soak": "containers",
            "engines": {
                "docker": {
                    "docker": {
                        "names": list(u.values()),
                        "host": docker.url,
                        "own_policy": "suspend",
                        "start": True,
                        "stop_timeout": "3s",
                    }
                }
            },
            "watchdogs": [{"units": [name for what, name in u.items() if what != "kill"]}],
            "loads": {"nothing": {"command": "true", "pause": "200ms"}},
            "faults": self.faults,
        }
        (folder / "soak.yaml").write_text(json.dumps(soak))
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "supervisor", "run", "soak.yaml", "--run-dir", "runs"]
            self.guardian = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def begun(self) -> psutil.Process:
        """Wait until all are in the middle of their episodes; return the daemon."""
        self.wait("an intent of each", lambda: len(self.of(FaultIntent)) == len(self.faults))
        done = {"stop#1", "pause#1", "kill#1"}  # the others have to wait for something in their injection
        self.wait("what has been injected", lambda: done <= {one.episode for one in self.of(FaultInjected)})
        (daemon,) = psutil.Process(self.guardian.pid).children()
        return daemon

    def end(self) -> None:
        """Have it end, if it has not."""
        self.guardian.terminate()
        self.guardian.wait(PATIENCE)

    @property
    def directory(self) -> Path:
        return self.folder / "runs" / "containers" / "latest"

    def of(self, kind: type[Event]) -> list[Any]:
        if not any(self.directory.glob("journal-*")):
            return []  # it has not begun
        return [record.event for record in replay(self.directory) if isinstance(record.event, kind)]

    def wait(self, what: str, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"no {what}:\n{(self.folder / 'log').read_text()}"
            time.sleep(0.02)

    def as_found(self, **but: str) -> None:
        """All is as it was before the run, but for those that somebody changed."""
        expected = {what: but.get(what, "exited" if what == "spare" else "running") for what in self.units}
        found = {
            what: self.docker.inspect(name) for what, name in self.units.items() if expected[what] != "gone"
        }
        assert {what: one["State"]["Status"] for what, one in found.items()} == {
            what: state for what, state in expected.items() if state != "gone"
        }
        assert {one["HostConfig"]["RestartPolicy"]["Name"] for one in found.values()} == {"always"}
        assert not self.docker.call("GET", "volumes", filters=LOCKS)["Volumes"]


@pytest.fixture
def run(docker: Client, tmp_path: Path) -> Iterator[Run]:
    run = Run(docker, tmp_path)
    yield run
    run.end()


@pytest.mark.timeout(180)  # eight containers begin, end and begin again
def test_the_daemon_is_killed_in_the_middle_of_everything(run: Run, tmp_path: Path) -> None:
    run.begun().kill()
    assert run.guardian.wait(PATIENCE) == 3, (tmp_path / "log").read_text()
    run.as_found()
    assert {event.episode for event in run.of(FaultUndone)} == {f"{fault}#1" for fault in run.faults}


@pytest.mark.timeout(180)
def test_daemon_and_guardian_are_killed_and_somebody_changes_targets_before_recovery(
    docker: Client, run: Run, tmp_path: Path
) -> None:
    daemon = run.begun()
    daemon.suspend()  # it must not see the guardian's end and stop in order
    run.wait("all of its threads to stand still", lambda: stopped(daemon.pid))
    run.guardian.kill()
    daemon.kill()
    run.guardian.wait(PATIENCE)
    psutil.wait_procs([daemon], PATIENCE)
    assert docker.state(run.units["pause"]) == "paused"
    assert docker.state(run.units["stop"]) == "exited"
    docker.remove(run.units["stop"])
    docker.remove(run.units["pause"])
    docker.create(run.units["pause"], IDLE, host={"RestartPolicy": {"Name": "always"}})
    docker.start(run.units["pause"])
    anew = lives(docker, run.units["pause"])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "recover", str(run.directory)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    run.as_found(stop="gone")
    assert lives(docker, run.units["pause"]) == anew, "what somebody made anew was left alone"
    truncated = {event.episode: event.truncated for event in run.of(EpisodeClosed)}
    assert truncated["stop#1"] == f"{run.units['stop']} vanished before undo"
    assert truncated["pause#1"] == f"{run.units['pause']} was replaced before undo"
