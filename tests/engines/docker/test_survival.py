"""What the docker engine must survive, each with a real engine: no crash lost, none told twice, no unit restarted twice."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import statistics
from pathlib import Path

import anyio
import psutil
import pytest
from docker_client import LABEL, SHELL, Client
from docker_proxy import proxied
from docker_soak import IDLE, PATIENCE, end, engine_of, new_name, running, said, soaking, wait_said
from provisioning import compose_command

from supervisor.broker.ports import free_ports
from supervisor.engines.base import Exit, UnitState
from supervisor.engines.dockerd.names import NUMBER, PROJECT, SERVICE, Which
from supervisor.engines.dockerd.news import Manner
from supervisor.engines.dockerd.tracker import Tracker
from supervisor.engines.fleet import Desired
from supervisor.journal.events import (
    Cause,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitStartFailed,
)
from supervisor.journal.writer import JournalWriter
from supervisor.watch import evidence

WARM, ROUNDS = 3, 5
OBJECTS = 40.0
"""Objects of two crashes that may stay for good: fewer than one crash's own record has. Noise, since the rounds are few."""


async def test_ten_killed_in_the_same_second(docker: Client, journal: JournalWriter) -> None:
    names = [new_name() for _ in range(10)]
    running(docker, *names)
    async with soaking(journal, engine_of(docker, *names)) as soak:
        docker.end(*names)
        for name in names:
            crash = await soak.crashed(name)
            assert crash.signal == "SIGKILL"
            assert crash.captured
            assert soak.last_words(crash) == ["up"]
    assert {docker.state(name) for name in names} == {"running"}


@pytest.mark.parametrize(
    ("program", "code", "name"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 137", None, "SIGKILL"),
        ("kill -SEGV $$", None, "SIGSEGV"),
    ],
)
async def test_how_a_unit_ended(
    docker: Client, journal: JournalWriter, program: str, code: int | None, name: str | None
) -> None:
    unit = new_name()
    docker.create(unit, f"if test -e /tmp/again; then {IDLE}; fi; touch /tmp/again; echo last; {program}")
    async with soaking(journal, engine_of(docker, unit, start=True, stop_timeout="1s")) as soak:
        crash = await soak.crashed(unit)
        assert (crash.code, crash.signal, crash.oom) == (code, name, False)
        assert soak.last_words(crash)[0] == "last"
        assert crash.facts["image"].startswith(f"{SHELL} sha256:")
    assert docker.state(unit) == "exited"


@pytest.mark.parametrize("gone", ["its command", "its mount"])
async def test_a_unit_that_cannot_be_started_again(
    docker: Client, journal: JournalWriter, tmp_path: Path, gone: str
) -> None:
    """Each try counts, and is on record with the engine's words; then it is given up."""
    unit, needed = new_name(), tmp_path / "needed"
    needed.mkdir()
    program = needed / "program"
    program.write_text("#!/bin/sh\ntrap 'exit 3' USR1\necho up; sleep 1000 & wait\n")
    program.chmod(0o755)
    mount = {"Type": "bind", "Source": str(needed), "Target": "/needed", "ReadOnly": True}
    docker.create(unit, ["/needed/program"], init=False, host={"Mounts": [mount]})
    docker.start(unit)
    wait_said(docker, unit)
    async with soaking(journal, engine_of(docker, unit), intensity="2 / 1m") as soak:
        program.unlink()
        if gone == "its mount":
            needed.rmdir()
        made = docker.call("POST", f"containers/{unit}/exec", {"Cmd": ["kill", "-USR1", "1"]})
        docker.call("POST", f"exec/{made['Id']}/start", {"Detach": True})
        await soak.until(lambda: soak.of(UnitGivenUp, unit))
        failed = soak.of(UnitStartFailed, unit)
        assert len(failed) == 2
        assert ("/needed/program" if gone == "its command" else str(needed)) in failed[0].error
        assert len(soak.of(UnitCrashed, unit)) == 1
    assert docker.state(unit) == "exited"


async def test_a_port_in_use_is_a_crash_like_any_other(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    with socket.create_server(("", 0)) as taken:
        listen = f"nc -l -p {taken.getsockname()[1]}; exit 98"
        docker.create(
            unit,
            f"if test -e /tmp/again; then {listen}; fi; touch /tmp/again; exit 1",
            host={"NetworkMode": "host"},
        )
        async with soaking(journal, engine_of(docker, unit, start=True), intensity="1 / 1m") as soak:
            await soak.until(lambda: soak.of(UnitGivenUp, unit))
            assert [crash.code for crash in soak.of(UnitCrashed, unit)] == [1, 98]
            assert "in use" in soak.of(UnitCrashed, unit)[1].signature


async def test_a_port_in_use_that_the_engine_publishes(docker: Client, journal: JournalWriter) -> None:
    """The engine itself refuses to start it. Given up, it is up again once the port is free and somebody starts it."""
    unit, network, port = new_name(), new_name("network"), next(free_ports())
    docker.call("POST", "networks/create", {"Name": network, "Labels": {LABEL: "true"}})
    published = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    running(
        docker, unit, host={"NetworkMode": network, "PortBindings": published}, ExposedPorts={"80/tcp": {}}
    )
    async with soaking(journal, engine_of(docker, unit), intensity="2 / 1m") as soak:
        await soak.fleet.hold(unit, by="stop#1", desired=Desired.DOWN)
        await soak.fleet.stop(unit, by="stop#1", timeout=0.1)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await soak.until(
                lambda: has_bound(taken, port)
            )  # the engine lets go of it after the container's end
            taken.listen()
            await soak.fleet.release(unit, by="stop#1")
            await soak.until(lambda: soak.of(UnitGivenUp, unit))
            failed = soak.of(UnitStartFailed, unit)
            assert len(failed) == 3, "the intensity, and the one that was too many"
            assert f"127.0.0.1:{port}" in failed[0].error
            assert not soak.of(UnitCrashed)
        docker.start(unit)
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)


def has_bound(taken: socket.socket, port: int) -> bool:
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


async def test_a_watched_container_is_removed_and_made_again(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    running(docker, unit)
    async with soaking(journal, engine_of(docker, unit, outside="heal")) as soak:
        docker.remove(unit)
        await soak.until(lambda: soak.of(UnitExited, unit))
        assert soak.of(UnitExited, unit)[0].cause is Cause.OUTSIDE
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.ABSENT)
        await soak.until(lambda: soak.fleet.status(unit).holder == "outside")
        running(docker, unit)
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)
        assert soak.fleet.status(unit).holder is None
        end(docker, unit)
        await soak.until(lambda: soak.of(UnitCrashed, unit))
        await soak.until(lambda: soak.fleet.status(unit).observed.state is UnitState.UP)


async def test_a_watched_container_is_renamed(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    running(docker, unit)
    async with soaking(journal, engine_of(docker, unit)) as soak:
        other = new_name("renamed")
        docker.call("POST", f"containers/{unit}/rename", name=other)
        end(docker, other)
        await soak.crashed(unit)
        assert docker.state(other) == "running"


async def test_a_container_is_recreated_by_compose(docker: Client, journal: JournalWriter) -> None:
    """What `docker compose up --force-recreate` does, call by call: a new one beside the old one, which then goes."""
    project = new_name("project")
    labels = {PROJECT: project, SERVICE: "worker", NUMBER: "1"}
    docker.create(f"{project}-worker-1", IDLE, labels)
    docker.start(f"{project}-worker-1")
    wait_said(docker, f"{project}-worker-1")
    async with soaking(journal, engine_of(docker, project=project)) as soak:
        old = soak.fleet.status("worker").observed.incarnation or ""
        new = docker.create(f"tmp_{project}-worker-1", IDLE, labels)
        docker.call("POST", f"containers/{project}-worker-1/stop", t=0)
        docker.remove(f"{project}-worker-1")
        docker.call("POST", f"containers/{new}/rename", name=f"{project}-worker-1")
        docker.start(new)
        await soak.until(
            lambda: (soak.fleet.status("worker").observed.incarnation or "").startswith(new[:12])
        )
        assert [gone.incarnation for gone in soak.of(UnitExited)] == [old]
        assert soak.of(UnitExited)[0].cause is Cause.OUTSIDE
        end(docker, new)
        crash = await soak.crashed("worker")
        assert crash.incarnation.startswith(new[:12])


COMPOSE = """
version: "2.4"
services:
  worker: &service
    image: {image}
    command: [sh, -c, {program}]
    init: true
    network_mode: none
    stop_grace_period: 1s
    labels: {{{label}: "true"}}
  api: *service
"""


async def test_compose_recreates_all_of_a_project(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    project, program = new_name("project"), json.dumps(IDLE)
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE.format(image=SHELL, program=program, label=LABEL))

    async def compose(*arguments: str) -> None:
        command = [*compose_command(), "--project-name", project, "--file", str(file), *arguments]
        done = await anyio.run_process(command, env=os.environ | {"DOCKER_HOST": docker.url}, check=False)
        assert done.returncode == 0, done.stderr.decode()

    await compose("up", "-d")
    async with soaking(journal, engine_of(docker, project=project)) as soak:
        before = {unit: soak.fleet.status(unit).observed.incarnation for unit in ("worker", "api")}
        await compose("up", "-d", "--force-recreate")
        for unit, old in before.items():
            only = {"label": [f"{PROJECT}={project}", f"{SERVICE}={unit}"]}
            (new,) = docker.call("GET", "containers/json", filters=json.dumps(only))
            await soak.until(
                lambda unit=unit, new=new: (soak.fleet.status(unit).observed.incarnation or "").startswith(
                    new["Id"][:12]
                )
            )
            exits = [(gone.incarnation, gone.cause) for gone in soak.of(UnitExited, unit)]
            assert exits == [(old, Cause.OUTSIDE)]
            await soak.until(lambda new=new: said(docker, new["Id"], 1))
            end(docker, new["Id"])
            crash = await soak.crashed(unit)
            assert crash.incarnation.startswith(new["Id"][:12])
            assert soak.last_words(crash) == ["up"]


async def test_a_restart_whose_events_never_came_is_seen_all_the_same(docker: Client, tmp_path: Path) -> None:
    """It is up before and after: a listing shows nothing."""
    restarted, kept = new_name(), new_name()
    running(docker, restarted, kept)
    engine = engine_of(docker, restarted, kept)

    async def recreated(*_: object) -> None:
        raise AssertionError

    async with engine.docker.connect(tmp_path) as api, anyio.create_task_group() as group:
        tracker = Tracker(api, Which(names=(restarted, kept)), Manner(True, False), group, recreated)
        await tracker.enlist((restarted, kept))
        before = {name: unit.life for name, unit in tracker.units.items()}
        docker.call("POST", f"containers/{restarted}/restart", t=0)
        with anyio.fail_after(PATIENCE), tracker.news as news:
            await tracker.recheck()
            told = news.receive_nowait()
        tracker.close()
    assert isinstance(told, Exit)
    assert told.unit == restarted
    life = tracker.units[restarted].life
    assert life
    assert life is not before[restarted]
    assert tracker.units[kept].life is before[kept]


def made_anew(docker: Client, renamed: str, removed: str) -> str:
    """Rename one container there and back, and make another one anew; return the beginning of its id."""
    docker.call("POST", f"containers/{renamed}/rename", name=f"{renamed}-away")
    docker.call("POST", f"containers/{renamed}-away/rename", name=renamed)
    docker.remove(removed)
    running(docker, removed)
    return str(docker.inspect(removed)["Id"])[:12]


async def test_nothing_grows_with_the_number_of_crashes(
    docker: Client, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In short what scripts/prove_docker shows with hundreds: crashes while all is well, and while the socket is away; others' work."""
    monkeypatch.setattr(evidence, "FIRST_KEPT", 1)
    monkeypatch.setattr(evidence, "LAST_KEPT", 1)
    names, held = [new_name() for _ in range(2)], list[dict[str, int]]()
    running(docker, *names)
    async with (
        proxied(docker.url, tmp_path) as proxy,
        soaking(journal, engine_of(docker, *names, host=proxy.url)) as soak,
    ):
        for number in range(WARM + ROUNDS):
            soak.events.clear()
            if number % 2:
                proxy.vanish()
            for name in names:
                end(docker, name)
            if number % 2:
                await soak.until(lambda: {docker.state(name) for name in names} == {"exited"})
                await proxy.appear()
            for name in names:
                await soak.crashed(name)
            await soak.until(lambda: {docker.state(name) for name in names} == {"running"})
            if number % 2:
                new = made_anew(docker, *names)
                await soak.until(
                    lambda new=new: (soak.fleet.status(names[1]).observed.incarnation or "").startswith(new)
                )
            soak.each_once()
            gc.collect()
            us = psutil.Process()
            held.append({"objects": len(gc.get_objects()), "files": us.num_fds()})
            held[-1]["tasks"] = len(asyncio.all_tasks())
    for name, most in {"objects": OBJECTS, "files": 1.0, "tasks": 1.0}.items():
        values = [one[name] for one in held[WARM:]]
        slope = statistics.linear_regression(range(ROUNDS), values).slope
        assert slope < most, f"{name} grow: {values}"
