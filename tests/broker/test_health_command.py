"""`soakd health FILE`, as a person or a script starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import anyio
import pytest
from health_states import ACCOUNTS, solo
from nats_servers import BINARY, port_of, reserve

from supervisor.broker.embedded import FILE, expand
from supervisor.broker.health.greeting import greet
from supervisor.journal.runs import RunIndex

pytestmark = pytest.mark.timeout(300)  # each command starts a Python of its own


class Ran(NamedTuple):
    code: int | None
    out: str
    err: str


async def health(*arguments: object) -> Ran:
    command = [sys.executable, "-m", "supervisor", "health", *map(str, arguments)]
    with anyio.fail_after(90):
        done = await anyio.run_process(command, check=False, stdout=PIPE, stderr=PIPE)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def soak_file(directory: Path, broker: dict[str, Any] | None) -> Path:
    file = directory / "soak.yaml"
    file.write_text(json.dumps({"soak": "shop"} | ({"broker": broker} if broker else {})))  # YAML takes JSON
    return file


async def test_a_healthy_broker_and_a_dead_one(tmp_path: Path) -> None:
    async with solo(tmp_path, ACCOUNTS) as cluster:
        system = {"user": "sys", "password": "sys"}
        address = cluster.servers[0].address
        file = soak_file(tmp_path, {"servers": address, "user": "soak", "password": "soak", "system": system})
        ran = await health(file)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("HEALTHY  JetStream answers; 1 server\n")
        assert max(map(len, ran.out.splitlines())) <= 80
        await cluster.servers[0].kill()
        ran = await health(file, "--json")
        said = json.loads(ran.out)
        assert (ran.code, ran.err, said["health"]) == (1, "", "unhealthy")
        assert said["headline"] == said["findings"][0]["what"] == "no server can be used"
        assert said["servers"][0]["state"] == "gone"
        assert "password" not in ran.out


async def test_a_wrong_soak_file(tmp_path: Path) -> None:
    ran = await health(soak_file(tmp_path, {"servers": "127.0.0.1:99999"}))
    assert (ran.code, ran.out) == (2, "")
    assert "soak.yaml:1:" in ran.err
    ran = await health(soak_file(tmp_path, None))
    assert (ran.code, "there is no such section" in ran.err) == (2, True)


async def test_an_embedded_broker_is_found_while_its_run_goes_on(tmp_path: Path, state_dir: Path) -> None:
    file = soak_file(tmp_path, {"embedded": {"nodes": 1}})
    ran = await health(file)
    assert (ran.code, ran.out) == (1, "")
    assert "it runs only during a soak" in ran.err
    assert f"`soakd run {file}`" in ran.err

    holders = [reserve() for _ in range(3)]
    engine, _ = expand({"nodes": 1}, iter(map(port_of, holders)))
    unit = tmp_path / "run" / "units" / "nats1"
    unit.mkdir(parents=True)
    (unit / FILE).write_text(engine["process"]["units"]["nats1"]["files"][FILE])
    entry = RunIndex(state_dir).enter("shop-1", tmp_path / "run", "shop")
    async with await anyio.open_process(
        [str(BINARY), "-c", FILE], cwd=unit, stdout=None, stderr=None
    ) as process:
        try:
            with anyio.fail_after(60):
                while (await greet(f"nats://127.0.0.1:{port_of(holders[0])}", 1)).outcome != "greets":  # noqa: ASYNC110  # nobody tells
                    await anyio.sleep(0.01)
            ran = await health(file)
        finally:
            process.kill()
    assert ran.code == 0
    assert "nats1" in ran.out
    entry.leave()
    for holder in holders:
        holder.close()
