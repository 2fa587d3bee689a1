"""The worlds in which soakd dies: local processes, containers, clusters that end with the run and that outlive it, links."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import nats
import nats.errors
import nats.js.errors
from death_cases import Case
from deaths import CALM, World, soak_file, units_of
from docker_engine import LABEL, Client
from link_harness import Echo
from nats_servers import BINARY, make_cluster

from supervisor.broker.embedded import free_ports
from supervisor.engines.cgroups import left_by

NODES = ("nats1", "nats2", "nats3")
NATS = "soakd-test-nats"
SLEEP = ["sleep", "1000"]
POLICY = {"intensity": None, "delay": "0s", "backoff": {"first": "10ms", "factor": 1.1}}
ACCOUNTS = """
accounts {
  SYS { users: [{ user: sys, password: sys }] }
  APP { jetstream: enabled, users: [{ user: app, password: app }] }
}
system_account: SYS
"""


def _units(labels: Iterable[str]) -> list[str]:
    return [unit for label in labels for unit in units_of(label).values()]


class Disk:
    """A small file system of its own, which may be filled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], check=True)

    def look(self) -> list[str]:
        return sorted(path.name for path in self.place.rglob("*"))

    def close(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)


class Processes:
    """Local processes: they end with the run, so nothing else may be left than nothing."""

    def __init__(self, folder: Path, labels: Iterable[str]) -> None:
        self._soak = "of no name"
        self._disk = Disk(folder / "disk") if "fill_disk" in labels else None

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        units = [*_units(cases), CALM]
        limited = bool({"cpu_squeeze", "memory_squeeze"} & set(cases))
        local = {"cgroups": limited, "units": {unit: {"command": SLEEP} for unit in units}}
        places = {"data": str(self._disk.place)} if self._disk else {}
        watchdogs = [{"units": units, **POLICY}]
        return self.named(
            soak_file(cases, places, engines={"local": {"process": local}}, watchdogs=watchdogs)
        )

    def named(self, soak: dict[str, Any]) -> dict[str, Any]:
        """Remember what the soak is called: by that its control groups are found."""
        self._soak = soak["soak"]
        return soak

    def look(self) -> Any:
        """Return the control groups of its runs, whose ids begin with the name of the soak, and what is on its disk."""
        groups = [str(group) for group in left_by(f"{self._soak}-*")]
        return {"groups": groups, "disk": self._disk.look() if self._disk else []}

    def dead(self) -> list[str]:
        return []

    def close(self) -> None:
        if self._disk:
            self._disk.close()


class Embedded(Processes):
    """Three nats-servers that are units, and end with the run."""

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        broker = {"embedded": {"nodes": 3, "lame_duck_grace_period": "200ms"}}
        engines = {"local": {"process": {"units": {CALM: {"command": SLEEP}}}}}
        places = {"nodes": list(NODES)}
        watchdogs = [{"units": list(NODES), **POLICY}]
        return self.named(soak_file(cases, places, broker=broker, engines=engines, watchdogs=watchdogs))


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


class Linked:
    """A server of somebody else's behind two links, with a client for each that talks to it all the time; beside it another world."""

    def __init__(self, beside: Processes | Containers) -> None:
        ports = free_ports()
        self._beside = beside
        self._server = socket.create_server(("127.0.0.1", next(ports)), backlog=512)
        self._echo = Echo(self._server)
        to = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._ports = {name: next(ports) for name in ("db", "other")}
        self._links = {name: {"listen": f"127.0.0.1:{port}", "to": to} for name, port in self._ports.items()}
        self._talkers = [
            subprocess.Popen([sys.executable, "-c", TALKER, str(port)], start_new_session=True)
            for port in self._ports.values()
        ]

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        return self._beside.soak(cases) | {"links": self._links}

    def look(self) -> Any:
        """Return what is beside, and on which links somebody listens, whose process was not found."""
        return {"beside": self._beside.look(), "listening": [*filter(_listens, self._ports.values())]}

    def dead(self) -> list[str]:
        """Bytes have to go through every link as if it were none: nobody has healed yet, but the daemon is dead."""
        return [why for name, port in self._ports.items() if (why := _goes_through(name, port))]

    def close(self) -> None:
        for talker in self._talkers:
            talker.kill()
            talker.wait()
        self._echo.close()
        self._beside.close()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _goes_through(name: str, port: int) -> str:
    """Say why 1 kB does not come back through a link at once; one that is still being made plain has a moment for it."""
    data, deadline, why = os.urandom(1000), time.monotonic() + 5, ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(data)
                got = b""
                while len(got) < len(data) and (more := client.recv(1000)):
                    got += more
            if got == data:
                return ""
            why = f"{len(got)} bytes came back"
        except OSError as error:
            why = str(error)
    return f"link {name} is no plain relay after the death of its daemon: {why}"


class Containers:
    """Containers of a private network, which are there before the run and after it."""

    def __init__(self, client: Client, folder: Path, labels: Iterable[str]) -> None:
        self._client, self._prefix, self._folder = client, uuid.uuid4().hex[:8], folder
        self._network = f"deaths-{self._prefix}"
        client.call(
            "POST", "networks/create", {"Name": self._network, "Internal": True, "Labels": {LABEL: "true"}}
        )
        self._names = {unit: f"{self._prefix}-{unit}" for unit in (*_units(labels), CALM)}
        self._disks = list[Disk]()
        for unit, name in self._names.items():
            if unit.startswith("fill-disk"):  # which the disk of the journal is not filled for
                self._disks.append(Disk(folder / unit))
            else:
                (folder / unit).mkdir()
            host = {
                "NetworkMode": self._network,
                "Binds": [f"{folder / unit}:/data"],
                "RestartPolicy": {"Name": "unless-stopped"},
                "Memory": 80_000_000,
            }
            client.create(name, "exec sleep 100000", {"soakd.unit": unit}, host=host)
            client.start(name)

    def close(self) -> None:
        """Remove the containers, and the disks under them."""
        for name in self._names.values():
            self._client.remove(name)
        self._client.call("DELETE", f"networks/{self._network}")
        for disk in self._disks:
            disk.close()

    def renamed(self, unit: str) -> str:
        return self._names[unit]

    def dead(self) -> list[str]:
        return []

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        names = [self._names[unit] for unit in (*_units(cases), CALM)]
        engine = {"host": self._client.url, "names": names, "own_policy": "suspend", "stop_timeout": "1s"}
        soak = soak_file(
            cases,
            {"data": "/data"},
            engines={"docker": {"docker": engine}},
            watchdogs=[{"units": names, **POLICY}],
        )
        return _renamed(soak, self._names)

    def look(self) -> dict[str, Any]:
        """Return all that a run could leave on the engine: of what is ours, since other worlds may be on it."""
        client, mine = self._client, json.dumps({"name": [self._prefix]})
        volumes = client.call("GET", "volumes", filters=mine)["Volumes"] or []
        listed = client.call("GET", "containers/json", all=1, filters=mine)
        return {
            "networks": sorted(one["Name"] for one in client.call("GET", "networks", filters=mine)),
            "volumes": sorted(one["Name"] for one in volumes),
            "containers": sorted(one["Names"][0] for one in listed),
            **{unit: self._container(unit, name) for unit, name in self._names.items()},
        }

    def _container(self, unit: str, name: str) -> dict[str, Any]:
        seen = self._client.inspect(name)
        state, host = seen["State"], seen["HostConfig"]
        networks, pid = seen["NetworkSettings"]["Networks"], state["Pid"]
        limits = ("NanoCpus", "CpuQuota", "CpuShares", "Memory", "MemorySwap", "PidsLimit")
        return {
            "state": state["Status"],
            "paused": state["Paused"],
            "policy": host["RestartPolicy"]["Name"],
            "limits": {limit: _limit(host.get(limit)) for limit in limits},
            "networks": {
                net: sorted(set(one["Aliases"] or []) - {seen["Id"][:12]}) for net, one in networks.items()
            },
            "filters": _filters(pid) if pid else "down",
            "groups": _groups(pid) if pid else {},
            "files": sorted(path.name for path in (self._folder / unit).rglob("*")),
        }


LIMITS = (
    "cpu.cfs_quota_us",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "freezer.state",
    "cpu.max",
    "memory.max",
    "memory.swap.max",
    "cgroup.freeze",
)


def _groups(pid: int) -> dict[str, Any]:
    """Return what the kernel itself says of a container: its limits, whether it is frozen, and how many processes it has."""
    found: dict[str, Any] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        group = Path("/sys/fs/cgroup") / controller / path.lstrip("/")
        for name in LIMITS:
            with suppress(OSError):
                found[name] = (group / name).read_text().strip()
        if controller in {"pids", ""}:
            with suppress(OSError):
                found["processes"] = len((group / "cgroup.procs").read_text().split())
    return found


def _limit(value: int | None) -> int | str:
    """Return a limit; that there is none Docker says in several ways, of which an update can only choose some."""
    return "none" if value is None or value <= 0 or value >= 2**62 else value


def _filters(pid: int) -> list[str]:
    """Return the packet filters and queues of a container's network namespace, without counters."""
    commands = "iptables-save && ip6tables-save && tc qdisc show || exit 1; ! command -v nft >/dev/null || nft list ruleset"
    enter = ["nsenter", "--target", str(pid), "--net", "sh", "-c", commands]
    done = subprocess.run(enter, stdout=subprocess.PIPE, text=True, check=True, timeout=20)
    # An empty chain and a table that was once looked at say nothing; 127.0.0.11 is the engine's own name server.
    told = [line.strip() for line in done.stdout.splitlines() if "127.0.0.11" not in line]
    told = [line for line in told if not line.startswith("qdisc noqueue")]
    return [line for line in told if line.startswith(("-A", "qdisc", ":soakd")) or "drop" in line]


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

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        command = [sys.executable, "-c", FEEDER, *addresses]
        self._feeder = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )  # it is kicked all the time
        assert self._feeder.stdout
        assert self._feeder.stdout.readline() == b"ready\n"

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        engines = {"local": {"process": {"units": {CALM: {"command": SLEEP}}}}}
        return soak_file(cases, {}, engines=engines, broker=self.section())

    def section(self) -> dict[str, Any]:
        identity = {"user": "app", "password": "app", "system": {"user": "sys", "password": "sys"}}
        return {"servers": self.addresses, **identity}

    def dead(self) -> list[str]:
        return []

    def close(self) -> None:
        self._feeder.kill()
        self._feeder.wait()
        if self._feeder.stdout:
            self._feeder.stdout.close()

    def look(self) -> Any:
        """Look again where the cluster does not answer: a leader that was told to step down is away for a moment."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return anyio.run(self._look)
            except (OSError, nats.errors.Error):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    async def _look(self) -> dict[str, Any]:
        nc = await self._connect("app")
        try:
            js = nc.jetstream(timeout=10)
            consumers = {info.name for info in await js.consumers_info("S")}
            return {
                "streams": sorted(info.config.name or "" for info in await js.streams_info()),
                "consumers": sorted(consumers - {f"worker-{n}" for n in range(3)}),
                "entries": {key: await self._entry(js, key) for key in ("colour", "size", "extra")},
                "connections": sorted(await self._connections()),
            }
        finally:
            await nc.close()

    async def _connect(self, who: str) -> nats.NATS:
        options: dict[str, Any] = {"allow_reconnect": False, "connect_timeout": 5}
        return await nats.connect(self.addresses, user=who, password=who, name="inspector", **options)

    @staticmethod
    async def _entry(js: Any, key: str) -> tuple[bytes | None, str | None]:
        """Return what the leader has of an entry, None if it is deleted, and whose mark is on it: any other replica may be behind."""
        try:
            last = await js.get_last_msg("KV_CONFIG", f"$KV.CONFIG.{key}")
        except nats.js.errors.NotFoundError:
            return None, None
        headers = last.headers or {}
        return None if "KV-Operation" in headers else last.data, headers.get("Soakd-Episode")

    async def _connections(self) -> set[str]:
        """Return the names of all clients but those that come and go with the inspection."""
        sys_ = await self._connect("sys")
        names = set[str]()
        try:
            inbox = sys_.new_inbox()
            sub = await sys_.subscribe(inbox)
            await sys_.publish("$SYS.REQ.SERVER.PING.CONNZ", b"{}", reply=inbox)
            for _ in self.addresses:
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
        with closing(Brokers([server.address for server in servers])) as world:
            yield world


CONFIG = """
server_name: {name}
listen: "0.0.0.0:4222"
http: "0.0.0.0:8222"
cluster {{ name: trio, listen: "0.0.0.0:6222", no_advertise: true, routes: [{routes}] }}
lame_duck_duration: "30s"
lame_duck_grace_period: "200ms"
jetstream {{ store_dir: "/data" }}
"""


class Nodes:
    """The same cluster in containers, which are units."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client, self._prefix, ports = client, uuid.uuid4().hex[:8], free_ports()
        self._network = f"deaths-{self._prefix}"
        self._names = {node: f"{self._prefix}-{node}" for node in NODES}
        self._monitors: dict[str, str] = {}
        addresses = []
        client.import_program(BINARY, NATS)
        client.call("POST", "networks/create", {"Name": self._network, "Labels": {LABEL: "true"}})
        routes = ", ".join(f'"nats://{name}:6222"' for name in self._names.values())
        for node, name in self._names.items():
            (folder / node).mkdir()
            config = CONFIG.format(name=node, routes=routes) + ACCOUNTS
            (folder / node / "nats.conf").write_text(config)
            port, monitor = next(ports), next(ports)
            host = {
                "NetworkMode": self._network,
                "Binds": [f"{folder / node}:/data"],
                "RestartPolicy": {"Name": "unless-stopped"},
                "PortBindings": {
                    f"{inside}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(outside)}]
                    for inside, outside in ((4222, port), (8222, monitor))
                },
            }
            exposed = {"4222/tcp": {}, "8222/tcp": {}}
            command = ["/nats-server", "-c", "/data/nats.conf"]
            client.create(name, command, init=False, host=host, Image=NATS, ExposedPorts=exposed)
            client.start(name)
            addresses.append(f"127.0.0.1:{port}")
            self._monitors[node] = f"http://127.0.0.1:{monitor}"
        self._brokers = Brokers(addresses)

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        names = list(self._names.values())
        engines = {
            "docker": {"docker": {"host": self._client.url, "names": names, "own_policy": "suspend"}},
            "local": {"process": {"units": {CALM: {"command": SLEEP}}}},
        }
        nodes = {name: {"name": node, "monitor": self._monitors[node]} for node, name in self._names.items()}
        broker = self._brokers.section() | {"nodes": nodes}
        return soak_file(
            cases, {"nodes": names}, engines=engines, broker=broker, watchdogs=[{"units": names, **POLICY}]
        )

    def look(self) -> Any:
        mine = json.dumps({"name": [self._prefix]})
        volumes = self._client.call("GET", "volumes", filters=mine)["Volumes"] or []
        found: dict[str, Any] = {"volumes": sorted(one["Name"] for one in volumes)}
        for node, name in self._names.items():
            seen = self._client.inspect(name)
            policy = seen["HostConfig"]["RestartPolicy"]["Name"]
            found[node] = seen["State"]["Status"], policy
        return {**found, **self._brokers.look()}

    def dead(self) -> list[str]:
        return []

    def close(self) -> None:
        self._brokers.close()
        for name in self._names.values():
            self._client.remove(name)
        self._client.call("DELETE", f"networks/{self._network}")


@contextmanager
def world_of(name: str, labels: list[str], folder: Path, client: Client | None) -> Iterator[World]:
    """Open a world by its name; `client` is the engine, for those that need one."""
    with ExitStack() as stack:
        if name == "broker":
            yield stack.enter_context(brokers(folder))
            return
        world: World | Processes | Containers | Nodes | Embedded | Linked
        if name == "process":
            world = Processes(folder, labels)
        elif name == "embedded":
            world = Embedded(folder, labels)
        elif name == "links":
            world = Linked(Processes(folder, labels))
        else:
            assert client is not None, f"the world {name} needs an engine"
            if name == "nodes":
                world = Nodes(client, folder)
            else:
                world = Containers(client, folder, labels)
                world = Linked(world) if name == "links-docker" else world
        yield stack.enter_context(closing(world))  # type: ignore[type-var]


ENGINE_OF = {
    "process": "process",
    "embedded": "process",
    "links": "process",
    "broker": "process",
    "docker": "docker",
    "nodes": "docker",
    "links-docker": "docker",
}
"""The worlds, and the engine of each. `broker` has its servers outside of the soak."""
