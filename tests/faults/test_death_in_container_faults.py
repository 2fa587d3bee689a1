"""A run that dies while every fault of containers, volumes and entries is in place leaves nothing of them, whoever else dies with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import nats
import psutil
import pytest
from docker_client import LABEL, Client
from docker_soak import IDLE, new_name
from soakd_run import Soakd, wait

from supervisor.journal import events as ev

SERVER = Path(sys.executable).with_name("nats-server")
UNITS = ("cut", "off", "slow", "small", "full")
PATIENCE = 60.0

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="this takes root"),
    pytest.mark.timeout(240),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)], check=True, timeout=20)
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=20)


@pytest.fixture
def server(tmp_path: Path, free_tcp_port: int) -> Iterator[int]:
    """A server that is no unit of the soak, with one entry in a bucket."""
    command = [str(SERVER), "-a", "127.0.0.1", "-p", str(free_tcp_port), "-js", "-sd", str(tmp_path / "js")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait("a server", lambda: _entry(free_tcp_port, b"good"))
    yield free_tcp_port
    process.terminate()
    process.wait(30)


def _entry(port: int, value: bytes = b"") -> bytes | None:
    """Return the value of the entry; with `value` write it first. None if nobody answers."""

    async def ask() -> bytes | None:
        nc = await nats.connect(f"127.0.0.1:{port}", allow_reconnect=False)
        try:
            js = nc.jetstream()
            if value:
                await (await js.create_key_value(bucket="CONFIG")).put("a", value)
            return (await (await js.key_value("CONFIG")).get("a")).value
        finally:
            await nc.close()

    try:
        return anyio.run(ask)
    except (OSError, nats.errors.Error):
        return None


class System:
    """Five containers, a disk and an entry; what can be seen of them from outside."""

    def __init__(self, docker: Client, disk: Path, port: int) -> None:
        self.docker, self.disk, self.port = docker, disk, port
        self.network = new_name("network")
        body = {"Name": self.network, "Internal": True, "Labels": {LABEL: "true"}}
        docker.call("POST", "networks/create", body)
        self.names = {unit: new_name(unit) for unit in UNITS}
        for name in self.names.values():
            host = {"NetworkMode": self.network, "Binds": [f"{disk}:/data"], "Memory": 80_000_000}
            docker.create(name, IDLE, host=host)
            docker.start(name)

    def seen(self) -> dict[str, Any]:
        """All that faults could have changed."""
        found: dict[str, Any] = {
            "entry": _entry(self.port),
            "files": [one.name for one in self.disk.iterdir()],
        }
        for unit, name in self.names.items():
            data = self.docker.inspect(name)
            pid = data["State"]["Pid"]
            rules = ["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "-w", "5", "-S"]
            done = subprocess.run(rules, capture_output=True, text=True, check=True, timeout=30)
            host = data["HostConfig"]
            quota = host["CpuQuota"] if host["CpuQuota"] > 0 else None
            found[unit] = {
                "state": data["State"]["Status"],
                "networks": sorted(data["NetworkSettings"]["Networks"]),
                "rules": [line for line in done.stdout.splitlines() if not line.startswith("-P")],
                "limits": (quota, host["Memory"], host["MemorySwap"]),
            }
        return found

    def soak(self) -> dict[str, Any]:
        at = {"at": ["100ms"], "hold": "1h"}
        return {
            "soak": "small",
            "engines": {"box": {"docker": {"names": list(self.names.values()), "host": self.docker.url}}},
            "broker": {"servers": [f"127.0.0.1:{self.port}"]},
            "loads": {"ping": {"command": ["true"], "pause": "100ms"}},
            "faults": {
                "cut": {"partition": self.names["cut"], **at},
                "off": {"disconnect": self.names["off"], **at},
                "slow": {"cpu_squeeze": self.names["slow"], "cpus": 0.1, **at},
                "small": {"memory_squeeze": self.names["small"], "memory": "20MB", **at},
                "full": {"fill_disk": self.names["full"], "path": "/data", **at},
                "entry": {
                    "corrupt": {"change": {"bucket": "CONFIG", "key": "a", "value": "bad"}},
                    "existing": True,
                    **at,
                },
            },
        }


def _kill_the_daemon(run: Soakd) -> None:
    os.kill(run.daemon(), signal.SIGKILL)
    assert run.end(PATIENCE) == 3, run.output


def _kill_both(run: Soakd) -> None:
    assert run.process
    daemon = psutil.Process(run.daemon())
    run.process.kill()
    daemon.kill()
    run.process.wait(30)
    wait("the end of the daemon", lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)
    done = run.command("recover", str(run.run_dir))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("die", [_kill_the_daemon, _kill_both])
def test_nothing_is_left_of_any_of_them(
    soakd: Soakd,  # the fixture
    docker: Client,
    disk: Path,
    server: int,
    die: Callable[[Soakd], None],
) -> None:
    system = System(docker, disk, server)
    before = system.seen()
    assert before["entry"] == b"good"
    soakd.start(system.soak())
    wait("all injects", lambda: len(soakd.events(ev.FaultInjected)) == 6, PATIENCE)
    broken = system.seen()
    assert [name for name in before if broken[name] != before[name]] == [
        "entry",
        "files",
        *UNITS[:-1],
    ]  # a full disk is not seen in its container
    die(soakd)
    assert system.seen() == before
    undone = {event.episode for event in soakd.events(ev.FaultUndone)}  # type: ignore[attr-defined]
    assert len(undone) == 6
    locks = json.dumps({"label": ["soakd.lock"]})
    assert not docker.call("GET", "volumes", filters=locks)["Volumes"]
