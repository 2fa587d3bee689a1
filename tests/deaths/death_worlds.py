"""The worlds in which soakd dies: local processes, containers, an embedded cluster, a cluster that outlives the run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import nats
from death_cases import Case
from deaths import soak_file, units_of
from docker_engine import LABEL, Client
from link_harness import Echo
from nats_servers import NatsServer, make_cluster

from supervisor.broker.embedded import free_ports
from supervisor.engines.cgroups import left_by

SLEEP = ["sleep", "1000"]
POLICY = {"intensity": None, "delay": "0s", "backoff": {"first": "10ms", "factor": 1.1}}
ACCOUNTS = """
accounts {
  SYS { users: [{ user: sys, password: sys }] }
  APP { jetstream: enabled, users: [{ user: app, password: app }] }
}
system_account: SYS
"""


def _units(cases: Iterable[str]) -> list[str]:
    return [unit for kind in cases for unit in units_of(kind).values()]


class Processes:
    """Local processes: they end with the run, so nothing else may be left than nothing."""

    _soak = "of no name"

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        units = _units(cases)
        limited = bool({"cpu_squeeze", "memory_squeeze"} & set(cases))
        local = {"cgroups": limited, "units": {unit: {"command": SLEEP} for unit in units}}
        engines = {"local": {"process": local}}
        soak = soak_file(cases, engines=engines, watchdogs=[{"units": units, **POLICY}])
        self._soak = soak["soak"]
        return soak

    def look(self) -> list[str]:
        """Return the control groups of its runs, whose ids begin with the name of the soak."""
        return [str(group) for group in left_by(f"{self._soak}-*")]


class Embedded(Processes):
    """One nats-server that is a unit."""

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        broker = {"embedded": {"nodes": 1, "lame_duck_grace_period": "200ms"}}
        return soak_file(cases, broker=broker, watchdogs=[{"units": "nats1", **POLICY}])


TALKER = """
import socket, sys, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2) as client:
            while True:
                client.sendall(b"x")
                client.recv(1)
                time.sleep(0.01)
    except OSError:
        time.sleep(0.02)
"""


class Linked(Processes):
    """A server of somebody else's behind two links, with a client for each that talks to it all the time."""

    def __init__(self, to: str, ports: Iterator[int]) -> None:
        self._links = {name: {"listen": f"127.0.0.1:{next(ports)}", "to": to} for name in ("db", "other")}

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        ports = {name: link["listen"].rpartition(":")[2] for name, link in self._links.items()}
        units = {name: {"command": [sys.executable, "-c", TALKER, port]} for name, port in ports.items()}
        engines = {"local": {"process": {"units": units}}}
        return soak_file(cases, engines=engines, links=self._links)


@contextmanager
def linked() -> Iterator[Linked]:
    """Run the server; nobody may listen on the links afterwards, which the next run would say."""
    ports = free_ports()
    server = socket.create_server(("127.0.0.1", next(ports)), backlog=512)
    echo = Echo(server)
    try:
        yield Linked(f"127.0.0.1:{server.getsockname()[1]}", ports)
    finally:
        echo.close()


class Containers:
    """Containers of a private network, which are there before the run and after it."""

    def __init__(self, client: Client, folder: Path, kinds: Iterable[str]) -> None:
        self._client, self._prefix, self._folder = client, uuid.uuid4().hex[:8], folder
        self._network = f"deaths-{self._prefix}"
        client.call(
            "POST", "networks/create", {"Name": self._network, "Internal": True, "Labels": {LABEL: "true"}}
        )
        self._names = {unit: f"{self._prefix}-{unit}" for unit in _units(kinds)}
        self._disks = list[Path]()
        for unit, name in self._names.items():
            (folder / unit).mkdir()
            if unit.startswith("fill-disk"):  # which the disk of the journal is not filled for
                command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder / unit)]
                subprocess.run(command, check=True)
                self._disks.append(folder / unit)
            host = {"NetworkMode": self._network, "Binds": [f"{folder / unit}:/data"]}
            client.create(name, "exec sleep 100000", {"soakd.unit": unit}, host=host)
            client.start(name)

    def close(self) -> None:
        """Remove the containers, and the disks under them."""
        for name in self._names.values():
            self._client.remove(name)
        for disk in self._disks:
            subprocess.run(["umount", str(disk)], check=True)

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        names = [self._names[unit] for unit in _units(cases)]
        engine = {"host": self._client.url, "names": names, "own_policy": "suspend", "stop_timeout": "1s"}
        soak = soak_file(
            cases, engines={"docker": {"docker": engine}}, watchdogs=[{"units": names, **POLICY}]
        )
        return _renamed(soak, self._names)

    def look(self) -> dict[str, Any]:
        client = self._client
        volumes = client.call("GET", "volumes")["Volumes"] or []
        return {
            "networks": sorted(one["Name"] for one in client.call("GET", "networks")),
            "volumes": sorted(one["Name"] for one in volumes),
            "containers": sorted(one["Names"][0] for one in client.call("GET", "containers/json", all=1)),
            **{unit: self._container(unit, name) for unit, name in self._names.items()},
        }

    def _container(self, unit: str, name: str) -> dict[str, Any]:
        seen = self._client.inspect(name)
        state, host = seen["State"], seen["HostConfig"]
        networks = seen["NetworkSettings"]["Networks"]
        limits = ("NanoCpus", "CpuQuota", "CpuShares", "Memory", "MemorySwap", "PidsLimit")
        return {
            "state": state["Status"],
            "paused": state["Paused"],
            "policy": host["RestartPolicy"]["Name"],
            "limits": {limit: _limit(host.get(limit)) for limit in limits},
            "networks": {
                net: sorted(set(one["Aliases"] or []) - {seen["Id"][:12]}) for net, one in networks.items()
            },
            "filters": _filters(state["Pid"]) if state["Running"] else "down",
            "processes": len(self._client.call("GET", f"containers/{name}/top")["Processes"])
            if state["Running"]
            else 0,
            "files": sorted(path.name for path in (self._folder / unit).rglob("*")),
        }


def _limit(value: int | None) -> int | str:
    """Return a limit; that there is none Docker says in several ways, of which an update can only choose some."""
    return "none" if value is None or value <= 0 or value >= 2**62 else value


def _filters(pid: int) -> list[str]:
    """Return the packet filters and queues of a container's network namespace, without counters."""
    lines = list[str]()
    for command in (
        ["iptables-save"],
        ["ip6tables-save"],
        ["nft", "list", "ruleset"],
        ["tc", "qdisc", "show"],
    ):
        enter = ["nsenter", "--target", str(pid), "--net", *command]
        done = subprocess.run(enter, capture_output=True, text=True, check=False, timeout=20)
        # An empty chain and a table that was once looked at say nothing; 127.0.0.11 is the engine's own name server.
        told = [line.strip() for line in done.stdout.splitlines() if "127.0.0.11" not in line]
        told = [line for line in told if not line.startswith("qdisc noqueue")]
        lines += [line for line in told if line.startswith(("-A", "qdisc")) or "drop" in line]
    return lines


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


FEEDER = """
import asyncio, itertools, sys, nats
from nats.js.api import ConsumerConfig, StreamConfig, KeyValueConfig

async def main(servers):
    nc = await nats.connect(servers, user='app', password='app', name='worker', max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    js = nc.jetstream(timeout=2)
    while True:
        try:
            await js.add_stream(StreamConfig(name='S', subjects=['s'], num_replicas=3))
            await js.add_consumer('S', ConsumerConfig(durable_name='steady'))
            kv = await js.create_key_value(KeyValueConfig(bucket='CONFIG', replicas=3))
            await kv.put('colour', b'blue')
            await kv.put('size', b'3')
            break
        except Exception:
            await asyncio.sleep(0.2)
    print('ready', flush=True)
    for n in itertools.count():
        try:
            await js.add_consumer('S', ConsumerConfig(durable_name=f'worker-{n % 3}'))
            await js.publish('s', b'x')
        except Exception:
            pass
        await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[1:]))
"""


class Brokers:
    """A cluster that is there before the run and after it, with a client, a stream, consumers and entries."""

    def __init__(self, servers: list[NatsServer]) -> None:
        self._servers = servers

    def soak(self, cases: dict[str, Case]) -> dict[str, Any]:
        broker = {
            "servers": [server.address for server in self._servers],
            "user": "app",
            "password": "app",
            "system": {"user": "sys", "password": "sys"},
        }
        units = _units(cases)
        engines = {"local": {"process": {"units": {unit: {"command": SLEEP} for unit in units}}}}
        return soak_file(cases, engines=engines, broker=broker)

    def look(self) -> Any:
        return anyio.run(self._look)

    async def _look(self) -> dict[str, Any]:
        servers = [server.address for server in self._servers]
        nc = await nats.connect(servers, user="app", password="app", name="inspector")
        try:
            js = nc.jetstream(timeout=10)
            kv = await js.key_value("CONFIG")
            consumers = {info.name for info in await js.consumers_info("S")}
            return {
                "streams": sorted(info.config.name or "" for info in await js.streams_info()),
                "consumers": sorted(consumers - {f"worker-{n}" for n in range(3)}),
                "entries": {key: (await kv.get(key)).value for key in ("colour", "size")},
                "connections": sorted(await self._connections()),
            }
        finally:
            await nc.close()

    async def _connections(self) -> set[str]:
        """Return the names of all clients but those that come and go with the inspection."""
        sys_ = await nats.connect([self._servers[0].address], user="sys", password="sys", name="inspector")
        names = set[str]()
        try:
            inbox = sys_.new_inbox()
            sub = await sys_.subscribe(inbox)
            await sys_.publish("$SYS.REQ.SERVER.PING.CONNZ", b"{}", reply=inbox)
            for _ in self._servers:
                answer = json.loads((await sub.next_msg(10)).data)
                names |= {one.get("name", "") for one in answer["data"]["connections"]}
        finally:
            await sys_.close()
        return names - {"inspector", "worker"}


@contextmanager
def brokers(folder: Path) -> Iterator[Brokers]:
    """Run a cluster of three and its client."""
    with make_cluster(folder, 3, ACCOUNTS) as servers:

        async def start() -> None:
            async with anyio.create_task_group() as group:
                for server in servers:
                    group.start_soon(server.start)

        anyio.run(start)
        feeder = subprocess.Popen(
            [sys.executable, "-c", FEEDER, *(server.address for server in servers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it is kicked all the time
        )
        try:
            assert feeder.stdout
            assert feeder.stdout.readline() == b"ready\n"
            yield Brokers(servers)
        finally:
            feeder.kill()
            feeder.wait()
            if feeder.stdout:
                feeder.stdout.close()
