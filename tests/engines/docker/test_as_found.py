"""At the end every unit is as it was found: what ran and was stopped by nobody runs, however the run ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from docker_client import Client
from docker_soak import Soaking, end, engine_of, new_name, running, soaking, wait_said
from soakd_run import Soakd, wait
from test_other_runs import die
from test_reaching import make_noise

from supervisor.engines.base import EngineContext
from supervisor.engines.spawn import stopped
from supervisor.journal import events as ev
from supervisor.journal.writer import JournalWriter

LOCKS = json.dumps({"label": ["soakd.lock"]})
UNTIL_TOLD = "echo up; while ! test -e /told/{unit}; do sleep 0.05; done; exit {code}"


def until_told(docker: Client, folder: Path, code: int, program: str = "") -> str:
    """Make a unit that lives until it is told to end, with a code."""
    unit = new_name()
    mount = {"Type": "bind", "Source": str(folder), "Target": "/told", "ReadOnly": True}
    text = UNTIL_TOLD.format(unit=unit, code=code)
    if program:
        (folder / program).write_text(f"#!/bin/sh\n{text}\n")
        (folder / program).chmod(0o755)
    command = [f"/told/{program}"] if program else text
    docker.create(unit, command, init=not program, host={"Mounts": [mount]})
    docker.start(unit)
    wait_said(docker, unit)
    return unit


async def ended(soak: Soaking, unit: str) -> None:
    await soak.until(lambda: soak.of(ev.UnitExited, unit))


async def test_what_waits_for_its_restart_when_a_run_ends_is_started(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """But not what a person has stopped, nor what has ended in peace, as its watchdog lets it."""
    crashed, halted, peaceful = new_name("crashed"), new_name("halted"), until_told(docker, tmp_path, 0)
    running(docker, crashed, halted)
    units = crashed, halted, peaceful
    async with soaking(journal, engine_of(docker, *units), restart="transient", delay="10m") as soak:
        end(docker, crashed)
        docker.call("POST", f"containers/{halted}/kill")
        (tmp_path / peaceful).touch()
        for unit in units:
            await ended(soak, unit)
        await soak.until(lambda: soak.of(ev.UnitCrashed, crashed))
    assert [docker.state(unit) for unit in units] == ["running", "exited", "exited"]
    assert [start.by for start in soak.of(ev.UnitStarted, crashed)] == ["outside", "run"]


async def test_what_nobody_watches_or_was_given_up_is_started(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    running(docker, unit)
    async with soaking(journal, engine_of(docker, unit), watch=False) as soak:
        end(docker, unit)
        await ended(soak, unit)
        soak.events.clear()  # its crash has no watchdog, who would tell of it
    assert docker.state(unit) == "running"
    async with soaking(journal, engine_of(docker, unit), intensity="1 / 10m") as soak:
        for times in (1, 2):
            await soak.until(lambda n=times: docker.state(unit) == "running" and spoken(docker, unit) > n)
            end(docker, unit)
            await soak.until(lambda n=times: len(soak.of(ev.UnitCrashed)) == n)
        await soak.until(lambda: soak.of(ev.UnitGivenUp))
    assert docker.state(unit) == "running"


def spoken(docker: Client, unit: str) -> int:
    return bytes(docker.call("GET", f"containers/{unit}/logs", stdout=1) or b"").count(b"up\n")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("guardian_too", [False, True])
def test_soakd_dies_and_units_end_before_and_after(
    docker: Client, soakd: Soakd, *, guardian_too: bool
) -> None:
    """Without restart policies: who ended in a backoff, or once soakd was dead, is up again; who was stopped by a person is not."""
    units = [new_name(what) for what in ("waiting", "halted", "crashed", "left")]
    waiting, halted, crashed, left = units
    running(docker, *units)
    watchdogs = [{"units": units, "delay": "10m"}]
    engines = {"docker": {"docker": {"names": units, "host": docker.url}}}
    soakd.start({"soak": "small", "engines": engines, "watchdogs": watchdogs})
    wait("it to soak", soakd.soaking)
    end(docker, waiting)
    docker.call("POST", f"containers/{halted}/kill")
    wait("both ends", lambda: len(soakd.events(ev.UnitExited)) == 2 and soakd.events(ev.UnitCrashed))
    daemon = soakd.daemon()
    assert soakd.process is not None
    if guardian_too:
        soakd.kill_guardian()
    else:
        soakd.stop(signal.SIGSTOP)
        wait("the guardian to stand still", lambda: stopped(soakd.process.pid))  # type: ignore[union-attr]
    os.kill(daemon, signal.SIGKILL)
    end(docker, crashed)
    wait("its end", lambda: docker.state(crashed) == "exited")
    docker.call("POST", f"containers/{left}/stop", t=0)
    assert {docker.state(unit) for unit in units} == {"exited"}
    if guardian_too:
        done = soakd.command("recover", str(soakd.run_dir.resolve()))
        assert done.returncode == 0, done.stderr
        assert f"started {crashed}, which ran before the run" in done.stdout
    else:
        soakd.stop(signal.SIGCONT)
        assert soakd.end(100) == 3, soakd.output
    assert [docker.state(unit) for unit in units] == ["running", "exited", "running", "exited"]
    assert not docker.call("GET", "volumes", filters=LOCKS)["Volumes"]


async def test_ends_that_the_engine_has_forgotten(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    """An exit code of its own is a crash; one that a stop gives as well may be anybody's, and is left. What cannot start keeps no lock."""
    folder = tmp_path / "told"
    folder.mkdir()
    coded, broken, killed = (
        until_told(docker, folder, 3),
        until_told(docker, folder, 4, "program"),
        new_name("killed"),
    )
    running(docker, killed)
    units = coded, broken, killed
    die(docker, tmp_path / "dead", "dead-run", *units)
    (folder / "program").unlink()
    for unit in (coded, broken):
        (folder / unit).touch()
    end(docker, killed)
    wait("their ends", lambda: {docker.state(unit) for unit in units} == {"exited"})
    (folder / coded).unlink()
    await make_noise(docker)
    engine = engine_of(docker, *units)
    context = EngineContext("docker", "dead-run", tmp_path, tmp_path, journal, recovering=True)
    said = sorted(await engine.recover(context))
    assert said[0].startswith(f"could not start {broken}, which ran before the run: ")
    assert said[1:] == [
        f"left {killed} down, which may have been stopped by somebody: nobody remembers",
        f"started {coded}, which ran before the run",
    ]
    assert [docker.state(unit) for unit in units] == ["running", "exited", "exited"]


async def test_what_crashes_when_the_fleet_has_gone_already_is_started(
    docker: Client, journal: JournalWriter
) -> None:
    crashed, halted = new_name("crashed"), new_name("halted")
    running(docker, crashed, halted)
    engine = await engine_of(docker, crashed, halted).discover(journal.run_dir)
    context = EngineContext("docker", new_name("run"), journal.run_dir, journal.run_dir, journal)
    async with engine.open(context):
        end(docker, crashed)
        docker.call("POST", f"containers/{halted}/kill")
        wait("their ends", lambda: {docker.state(unit) for unit in (crashed, halted)} == {"exited"})
    assert (docker.state(crashed), docker.state(halted)) == ("running", "exited")
