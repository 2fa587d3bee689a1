"""Two runs at the same containers: one that lives is left alone, one that died is put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from docker_client import Client
from docker_gate import gated
from docker_soak import (
    IDLE,
    PATIENCE,
    end,
    engine_of,
    new_name,
    policy,
    soak_file,
    soaking,
    up,
    with_policy,
)

from supervisor.engines.base import EngineContext, UnitState
from supervisor.engines.dockerd.locks import Found, Locks
from supervisor.engines.dockerd.names import NUMBER, PROJECT, SERVICE
from supervisor.engines.dockerd.owners import ourselves
from supervisor.engines.dockerd.restore import restore
from supervisor.journal.writer import JournalWriter

ALWAYS = {"RestartPolicy": {"Name": "always"}}


async def test_two_runs_keep_off_each_others_units(
    docker: Client, journal: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two hosts, as it were: the other soakd has a state directory of its own, and reaches the engine over TCP."""
    project, shared = new_name("project"), new_name()
    docker.create(shared, IDLE, {PROJECT: project, SERVICE: "api", NUMBER: "1"})
    docker.start(shared)
    with gated(docker.url, None) as gate:
        soak_file(tmp_path, f'host: "{gate.url}", names: [{shared}]')
        monkeypatch.setenv("SOAKD_STATE_DIR", str(tmp_path / "elsewhere"))
        async with soaking(journal, engine_of(docker, project=project)) as first:
            command = [sys.executable, "-m", "supervisor", "run", "soak.yaml"]
            done = await anyio.run_process(command, cwd=tmp_path, check=False)
            said = done.stderr.decode()
            assert done.returncode == 2, said
            assert f"cannot use {shared}: the run {first.context.run} (pid {os.getpid()} on " in said
            assert f"`docker volume rm soakd-lock-{shared}`" in said
            assert first.fleet.status("api").observed.state is UnitState.UP
        async with soaking(journal, engine_of(docker, shared, host=gate.url)):
            pass


VICTIM = """
import os, signal, sys
from pathlib import Path
import anyio
from supervisor.engines.base import EngineContext
from supervisor.engines.docker import DockerEngine
from supervisor.journal.writer import open_journal

async def main() -> None:
    directory, run, url, *names = sys.argv[1:]
    spec = {"names": names, "host": url, "own_policy": "suspend", "start": True, "stop_timeout": "1s"}
    engine = await DockerEngine.model_validate({"docker": spec}).discover(Path(directory))
    async with open_journal(Path(directory)) as journal:
        context = EngineContext("docker", run, Path(directory), Path(directory), journal)
        async with engine.open(context) as units:
            for unit in names:
                await units.start(unit)
            os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


def die(docker: Client, directory: Path, run: str, *names: str) -> None:
    """Let a run on these units die in the middle of everything."""
    command = [sys.executable, "-c", VICTIM, str(directory), run, docker.url, *names]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


async def test_a_dead_run_is_put_back_by_recovery(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    kept, lower, crashed = up(docker, host=ALWAYS), new_name(), up(docker, host=ALWAYS)
    docker.create(lower, IDLE)
    die(docker, tmp_path / "dead", "dead-run", kept, lower, crashed)
    assert (policy(docker, kept), docker.state(lower)) == ("no", "running")
    end(docker, crashed)
    with anyio.fail_after(PATIENCE):
        while docker.state(crashed) != "exited":  # noqa: ASYNC110  # the engine takes a moment to see it
            await anyio.sleep(0.01)
    engine = engine_of(docker, kept, lower, crashed)
    context = EngineContext("docker", "dead-run", tmp_path, tmp_path, journal, recovering=True)
    async with engine.open(context) as units:  # to undo the faults; the locks stay
        assert (await units.observe())[kept].state is UnitState.UP
    done = await engine.recover(context)
    assert len(done) == 4, done
    assert policy(docker, kept) == policy(docker, crashed) == "always"
    assert (docker.state(kept), docker.state(lower), docker.state(crashed)) == (
        "running",
        "exited",
        "running",
    )
    assert await engine.recover(context) == []


async def test_a_dead_run_is_put_back_by_the_next_one(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    kept, lower = up(docker, host=ALWAYS), new_name()
    docker.create(lower, IDLE)
    die(docker, tmp_path / "dead", "dead-run", kept, lower)
    with gated(docker.url, None) as gate:  # by another way to the engine than the dead run's
        async with soaking(journal, engine_of(docker, kept, lower, host=gate.url, own_policy="suspend")):
            assert (policy(docker, kept), docker.state(lower)) == ("no", "exited")
    assert (policy(docker, kept), docker.state(lower)) == ("always", "exited")


async def test_a_dead_runs_notes_are_cleared_with_its_lock(docker: Client, tmp_path: Path) -> None:
    unit = up(docker, host=with_policy("no"))
    new = docker.inspect(unit)["Id"]
    async with engine_of(docker, unit).docker.connect(tmp_path) as api:
        us = await ourselves(api, new_name("run"))
        dead = Locks(api, replace(us, run=new_name("run"), pid=2**30), "docker", partial(restore, api))
        await dead.take([Found(unit, "gone", unit, running=True, policy={"Name": "always"})])
        policy_of_new = {"Name": "unless-stopped", "MaximumRetryCount": 0}
        await dead.note(Found(unit, new, unit, running=True, policy=policy_of_new))
        assert await Locks(api, us, "docker", partial(restore, api)).clear_dead(unit)
    assert policy(docker, unit) == "unless-stopped"
