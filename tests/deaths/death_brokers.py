"""The clusters among whose faults soakd dies: units that end with the run, servers that outlive it, and containers that do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import nats
import nats.errors
import nats.js.errors
from death_cases import Case
from death_units import POLICY, SLEEP, Processes
from deaths import CALM, GONE, soak_file
from docker_client import LABEL, Client
from nats_servers import BINARY, make_cluster

from supervisor.broker.ports import free_ports

NODES = ("nats1", "nats2", "nats3")
NATS = "soakd-test-nats"
ACCOUNTS = """
accounts {
  SYS { users: [{ user: sys, password: sys }] }
  APP { jetstream: enabled, users: [{ user: app, password: app }] }
}
system_account: SYS
"""


class Embedded(Processes):
    """Three nats-servers that are units, and end with the run."""

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        broker = {"embedded": {"nodes": 3, "lame_duck_grace_period": "200ms"}}
        engines = {"local": {"process": {"units": {CALM: {"command": SLEEP}}}}}
        places = {"nodes": list(NODES)}
        watchdogs = [{"units": list(NODES), **POLICY}]
        return self.named(soak_file(cases, places, broker=broker, engines=engines, watchdogs=watchdogs))


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
                "connections": sorted(await self._left()),
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

    async def _left(self) -> set[str]:
        """Return the names of clients that stay: a server takes a moment to see that the process of one has ended."""
        deadline = time.monotonic() + GONE
        while (names := await self._connections()) and time.monotonic() < deadline:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.1)
        return names

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
