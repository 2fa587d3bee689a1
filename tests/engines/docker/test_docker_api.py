"""docs/docker-api.md is exact: soakd works behind a proxy that lets only these calls through, and it makes every one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from docker_client import LABEL, Client, reached
from docker_engine import PrivateEngine
from docker_gate import VERSION, gated, listed
from docker_soak import IDLE, engine_of, new_name, soaking
from ruamel.yaml import YAML
from yarl import URL

from supervisor.engines.base import EngineContext, EngineError
from supervisor.engines.capabilities import CanDisconnect, CanExecute, CanLimit, CanPause
from supervisor.engines.docker import DockerEngine
from supervisor.engines.dockerd.names import NUMBER, PROJECT, SERVICE
from supervisor.engines.dockerd.powers import Powers
from supervisor.journal.writer import JournalWriter

PATIENCE = 60.0
PROXY = "docker-proxy.cfg"
DEPLOY = Path(__file__).parents[3] / "deploy"
SOAK = """
soak: gated
seed: 1
engines:
  compose:
    docker:
      {{project: {project}, host: "{url}", own_policy: suspend, start: true, stop_timeout: 1s, ready: {{api: {{log: up}}}}}}
watchdogs: [{{units: [api, worker]}}]
loads: {{nothing: {{command: "true", pause: 200ms}}}}
faults:
  freeze: {{pause: worker, hold: 100s, every: 100ms}}
"""


def until(holds: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


@pytest.mark.timeout(180)
def test_a_whole_run_and_its_recovery_make_these_calls_only(docker: Client, tmp_path: Path) -> None:
    project = new_name("project")
    for service in ("api", "worker"):
        labels = {PROJECT: project, SERVICE: service, NUMBER: "1"}
        docker.create(f"{project}-{service}-1", IDLE, labels, host={"RestartPolicy": {"Name": "always"}})
    docker.start(f"{project}-worker-1")
    log, environment = tmp_path / "log", {**os.environ, "DOCKER_HOST": "unix:///nobody/here.sock"}
    with gated(docker.url, tmp_path) as gate:
        (tmp_path / "soak.yaml").write_text(SOAK.format(project=project, url=gate.url))
        command = [sys.executable, "-m", "supervisor", "run", "soak.yaml", "--duration", "1h"]
        with (
            log.open("wb") as output,
            subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, env=environment) as run,
        ):
            try:
                until(lambda: docker.state(f"{project}-worker-1") == "paused", log)
                docker.end(f"{project}-api-1")
                until(lambda: '"unit.restarted"' in journal(tmp_path), log)
                os.kill(daemon_of(run.pid), signal.SIGKILL)
                assert run.wait(PATIENCE) in {1, 3}, log.read_text()
            finally:
                run.kill()
        assert gate.refused == []
    for service, state in {"api": "exited", "worker": "running"}.items():
        found = docker.inspect(f"{project}-{service}-1")
        assert (found["State"]["Status"], found["HostConfig"]["RestartPolicy"]["Name"]) == (state, "always")


def journal(folder: Path) -> str:
    return "".join(
        file.read_text() for file in (folder / "runs" / "gated" / "latest").glob("journal-*.jsonl")
    )


def daemon_of(guardian: int) -> int:
    return int(Path(f"/proc/{guardian}/task/{guardian}/children").read_text().split()[0])


async def test_there_is_no_call_on_the_list_that_is_not_made(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    upper, lower, network = new_name(), new_name(), new_name("network")
    docker.call("POST", "networks/create", {"Name": network, "Internal": True, "Labels": {LABEL: "true"}})
    for name in (upper, lower):
        docker.create(name, IDLE, host={"NetworkMode": network, "RestartPolicy": {"Name": "always"}})
    docker.start(upper)
    with gated(docker.url, tmp_path) as gate:
        settings = {"host": gate.url, "start": True, "own_policy": "suspend", "stop_timeout": "1s"}
        engine = engine_of(docker, upper, lower, ready={upper: {"log": "up"}}, **settings)
        async with soaking(journal, engine) as soak:
            docker.end(upper)
            await soak.crashed(upper)
        await use_everything(engine, journal, upper, lower, network)
        assert (docker.state(upper), docker.state(lower)) == ("running", "exited")
        assert gate.refused == []
        assert set(listed()) - gate.used == set(), "listed, and never made"
        await refuses(gate.url, docker, upper)


async def test_an_engine_that_restarts_behind_a_proxy_is_waited_for(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    if not isinstance(docker, PrivateEngine):
        pytest.skip("the engine here is somebody's: it is not restarted for a test")
    unit, limits = new_name(), []
    docker.create(unit, IDLE)
    docker.start(unit)
    with gated(docker.url, tmp_path) as gate:
        async with soaking(journal, engine_of(docker, unit, host=gate.url)) as soak:
            units, _ = soak.fleet.place(unit)
            assert isinstance(units, CanLimit)

            async def ask() -> None:
                limits.append(await units.limits(unit))

            pid = docker.inspect(unit)["State"]["Pid"]
            docker.down(signal.SIGKILL)
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                os.kill(pid, signal.SIGKILL)
                while not gate.away:  # noqa: ASYNC110  # the gate is in another thread
                    await anyio.sleep(0.01)
                await anyio.to_thread.run_sync(docker.up)
            crash = await soak.crashed(unit)
            assert crash.captured
    assert limits


async def test_a_call_that_a_proxy_refuses_is_named(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    unit = new_name()
    docker.create(unit, IDLE)
    docker.start(unit)
    with gated(docker.url, tmp_path, without="/containers/{container}/update") as gate:
        async with soaking(journal, engine_of(docker, unit, host=gate.url)) as soak:
            units, _ = soak.fleet.place(unit)
            assert isinstance(units, CanLimit)
            with pytest.raises(
                EngineError, match=rf"cannot limit {unit}: POST /containers/\w+/update is refused"
            ):
                await units.limit(unit, {"Memory": 50_000_000})
    assert len(gate.refused) == 1


async def use_everything(
    engine: DockerEngine, journal: JournalWriter, unit: str, lower: str, network: str
) -> None:
    """Use what engines offer to faults, and what recovery does."""
    engine = await engine.discover(journal.run_dir)
    context = EngineContext("docker", new_name("run"), journal.run_dir, journal.run_dir, journal)
    async with engine.open(context) as units:
        assert isinstance(units, Powers)
        assert isinstance(units, CanPause)
        await units.ready(unit)
        await units.pause(unit)
        await units.resume(unit)
        assert isinstance(units, CanExecute)
        assert await units.execute(unit, ["sh", "-c", "exit 3"], 10) == (3, b"")
        assert isinstance(units, CanLimit)
        await units.limit(unit, await units.limits(unit))
        assert isinstance(units, CanDisconnect)
        await units.reach(unit)
        before = await units.networks(unit)
        await units.disconnect(unit, network)
        await units.connect(unit, network, before[network])
        assert await units.logs(unit, last=1)
        await units.stop(unit)
        await units.start(unit)
        await units.start(lower)  # which is stopped again on the way out
    assert await engine.recover(context) == []


async def refuses(url: str, docker: Client, unit: str) -> None:
    """See that a gate is one: what would make a man root does not get through, nor what would remove things of others."""
    volume = new_name("volume")
    docker.call("POST", "volumes/create", {"Name": volume, "Labels": {LABEL: "true"}})
    try:
        place = reached(url)
        connector = aiohttp.UnixConnector(place) if isinstance(place, str) else aiohttp.TCPConnector()
        host = "docker" if isinstance(place, str) else f"{place[0]}:{place[1]}"
        async with aiohttp.ClientSession(connector=connector) as session:
            for method, path in (
                ("POST", "containers/create"),
                ("DELETE", f"containers/{unit}"),
                ("DELETE", f"volumes/{volume}"),
                ("POST", "images/create"),
                ("GET", f"containers/{unit}/archive"),
                ("GET", f"containers/{unit}/json/../../../system/df"),
            ):
                asked = URL(f"http://{host}/v1.41/{path}", encoded=True)  # as it stands, dots and all
                async with session.request(method, asked) as answer:
                    assert answer.status == 403, path
                    assert "is not let through" in (await answer.json())["message"]
    finally:
        docker.call("DELETE", f"volumes/{volume}")


def test_the_proxy_of_the_compose_file_lets_through_what_the_list_has() -> None:
    proxy = YAML(typ="safe").load(DEPLOY / "compose.yaml")["services"]["docker-proxy"]
    assert f"./{PROXY}:/usr/local/etc/haproxy/haproxy.cfg:ro" in proxy["volumes"]
    allowed = re.findall(r"^ *acl (\w+) path_reg '(.+)'$", (DEPLOY / PROXY).read_text(), re.MULTILINE)
    assert allowed == [(method, f"^({VERSION})?{path}$") for (method, _), path in listed().items()]


@contextmanager
def haproxy(docker: Client) -> Iterator[str]:
    """Run the proxy of the compose file as it stands, in front of an engine behind a socket; yield where it listens."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        pytest.skip("haproxy is missing; scripts/test installs it on Debian")
    place = reached(docker.url)
    if not isinstance(place, str):
        pytest.skip(f"the engine is at {docker.url}; deploy/{PROXY} is for one behind a socket")
    with socket.create_server(("127.0.0.1", 0)) as listens:
        where = {"LISTEN": f"fd@{listens.fileno()}", "ENGINE": place}
        command = [program, "-db", "-f", str(DEPLOY / PROXY)]
        with subprocess.Popen(command, env=os.environ | where, pass_fds=[listens.fileno()]) as proxy:
            try:
                yield f"tcp://127.0.0.1:{listens.getsockname()[1]}"
            finally:
                proxy.kill()


async def test_a_soak_behind_the_proxy_of_the_compose_file(docker: Client, journal: JournalWriter) -> None:
    unit, lower, network = new_name(), new_name(), new_name("network")
    docker.call("POST", "networks/create", {"Name": network, "Internal": True, "Labels": {LABEL: "true"}})
    for name in (unit, lower):
        docker.create(name, IDLE, host={"NetworkMode": network})
    docker.start(unit)
    with haproxy(docker) as url:
        engine = engine_of(docker, unit, lower, host=url, start=True, stop_timeout="1s")
        async with soaking(journal, engine) as soak:
            docker.end(unit)
            assert soak.last_words(await soak.crashed(unit)) == ["up"]
        await use_everything(engine, journal, unit, lower, network)
        await refuses(url, docker, unit)
    with (
        haproxy(Client("unix:///no/such/socket")) as url,
        pytest.raises(EngineError, match="is DOCKER_GROUP the group"),
    ):
        await engine_of(docker, unit, host=url).discover(journal.run_dir)
    assert (docker.state(unit), docker.state(lower)) == ("running", "exited")


@pytest.mark.parametrize("word", ["containers/create", "images", "build", "swarm", "secrets"])
def test_the_list_has_nothing_that_makes_or_builds(word: str) -> None:
    assert word not in json.dumps(list(listed().values()))
