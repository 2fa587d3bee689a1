"""Brings real clusters into every state that `soakd health` is about, and says what was seen of each.

`python tests/broker/health_states.py` records it under tests/broker/snapshots/, for the tests of the rules: the facts as JSON, and what a
person is told of them as text. `--text` writes the texts anew, from the facts that are there.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, cast

import aiohttp
import anyio
import nats
from nats.aio.client import Client as NatsClient
from nats_servers import NatsServer, make_cluster, port_of, reserve
from rich.console import Console

from supervisor.broker.connection import Connections, open_connections
from supervisor.broker.health.diagnosis import diagnose
from supervisor.broker.health.examine import examine
from supervisor.broker.health.facts import Facts
from supervisor.broker.health.findings import Health
from supervisor.broker.health.text import report
from supervisor.broker.options import Broker
from supervisor.journal.events import Event

RECORDED = Path(__file__).parent / "snapshots"
ACCOUNTS = """
accounts {
  SYS { users: [{ user: "sys", password: "sys" }] }
  SOAK { jetstream: enabled, users: [{ user: "soak", password: "soak" }] }
}
system_account: SYS
lame_duck_duration: "30s"
lame_duck_grace_period: "2s"
"""
STALE = 120
"""Ephemeral consumers that are left behind."""
CLIENTS = 20
"""Clients of a server that leaves: it ends one a second, so it is there for as long as a busy machine takes to look."""


class Unheard:
    def emit(self, event: Event) -> None:
        pass


@dataclass
class Cluster:
    """Servers with monitoring ports and a system account, and connections to them."""

    servers: list[NatsServer]
    broker: Broker
    connections: Connections
    http: aiohttp.ClientSession

    async def facts(self) -> Facts:
        return await examine(self.connections, self.http)

    async def until(self, condition: Callable[[Facts], object], seconds: float = 30.0) -> Facts:
        """Look until something is seen."""
        with anyio.fail_after(seconds):
            while not condition(facts := await self.facts()):  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.1)
        return facts

    @property
    def leader(self) -> NatsServer:
        return self._leader

    async def well(self) -> Facts:
        """Wait until nothing is wrong; note who leads."""
        facts = await self.until(lambda facts: diagnose(facts).health is Health.HEALTHY)
        group = diagnose(facts).picture.group
        self._leader = next(s for s in self.servers if group is None or s.name == group.leader)
        return facts

    @property
    def followers(self) -> list[NatsServer]:
        return [server for server in self.servers if server is not self.leader]


@contextmanager
def with_monitors(servers: list[NatsServer]) -> Iterator[list[str]]:
    """Give servers monitoring ports."""
    holders = [reserve() for _ in servers]
    for server, holder in zip(servers, holders, strict=True):
        server.config += f'\nhttp: "127.0.0.1:{port_of(holder)}"\n'
    yield [f"http://127.0.0.1:{port_of(holder)}" for holder in holders]
    for holder in holders:
        holder.close()


@asynccontextmanager
async def started(servers: list[NatsServer], **broker: Any) -> AsyncIterator[Cluster]:
    """Start servers and connect to them; `broker` is what the soak file says differently, None what it does not say."""
    with with_monitors(servers) as urls:
        async with anyio.create_task_group() as group:
            for server in servers:
                group.start_soon(server.start)
        section: dict[str, Any] = {
            "servers": [server.address for server in servers],
            "user": "soak",
            "password": "soak",
            "system": {"user": "sys", "password": "sys"},
            "nodes": {s.name: {"monitor": url} for s, url in zip(servers, urls, strict=True)},
        } | broker
        settings = Broker.model_validate({key: value for key, value in section.items() if value is not None})
        async with aiohttp.ClientSession() as http, open_connections(settings, Unheard()) as connections:
            await (await connections.handle()).wait_connected(30)
            yield Cluster(servers, settings, connections, http)


@asynccontextmanager
async def solo(
    directory: Path, config: str = ACCOUNTS, jetstream: str = "", **broker: Any
) -> AsyncIterator[Cluster]:
    server = NatsServer(directory, config, "solo", jetstream=jetstream)
    try:
        async with started([server], **broker) as cluster:
            yield cluster
    finally:
        server.close()


@asynccontextmanager
async def trio(directory: Path, **broker: Any) -> AsyncIterator[Cluster]:
    with make_cluster(directory, 3, ACCOUNTS) as servers:
        async with started(servers, **broker) as cluster:
            yield cluster


@asynccontextmanager
async def through_the_system_account(cluster: Cluster) -> AsyncIterator[Cluster]:
    """See the cluster as a soak file does that names one server only, and no monitoring port."""
    narrow = cluster.broker.model_copy(update={"servers": (f"nats://{cluster.leader.address}",), "nodes": {}})
    async with open_connections(narrow, Unheard()) as connections:
        yield Cluster(cluster.servers, narrow, connections, cluster.http)


@asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[NatsClient]:
    """A client of the system under test, which does not come back."""

    async def ignore(*_: object) -> None:
        pass

    nc = await nats.connect(
        server.address, user="soak", password="soak", allow_reconnect=False, error_cb=ignore
    )
    try:
        yield nc
    finally:
        await nc.close()


async def leave_consumers(nc: NatsClient, stream: str) -> None:
    """Leave ephemeral consumers behind, as a client does whose `inactive_threshold` is far too long."""
    for n in range(STALE):
        config = {
            "deliver_subject": f"nobody.{n}",
            "ack_policy": "none",
            "inactive_threshold": 3600 * 10**9,
            "mem_storage": True,
            "num_replicas": 1,
        }
        answer = await nc.request(
            f"$JS.API.CONSUMER.CREATE.{stream}",
            json.dumps({"stream_name": stream, "config": config}).encode(),
        )
        assert b"error" not in answer.data, answer.data


async def leaderless(cluster: Cluster) -> Facts:
    """Look at a cluster whose leader is paused before it elects another, which takes 4 s and more; if it was quicker, once again."""
    while True:
        await cluster.well()
        cluster.leader.pause()
        facts = await cluster.facts()
        cluster.leader.resume()
        if finds("no-leader", "frozen")(facts):
            return facts


def api_says(outcome: str, code: int = 0) -> Callable[[Facts], bool]:
    return lambda facts: (facts.api.outcome, facts.api.code) == (outcome, code)


def finds(*codes: str) -> Callable[[Facts], bool]:
    return lambda facts: {*codes} <= {finding.code for finding in diagnose(facts).findings}


def finds_only(*codes: str) -> Callable[[Facts], bool]:
    """Our own connections may have been to the server in question, and need a moment to move."""
    return lambda facts: [finding.code for finding in diagnose(facts).findings] == [*codes]


def seen_by_system(facts: Facts) -> int:
    """Return how many servers answered the system account: one that is slow to do so on a busy machine is not waited for."""
    return len(facts.system.servers) if facts.system else 0


def stale(facts: Facts) -> int:
    counted = [look.server.counted for look in facts.monitored if look.server and look.server.counted]
    return sum(one.stale for one in counted)


async def of_a_cluster(directory: Path) -> AsyncIterator[tuple[str, Facts]]:
    """Three servers: well, one gone, quorum about to be lost, and lost."""
    async with trio(directory) as cluster:
        await cluster.well()
        yield "well", await cluster.until(lambda facts: seen_by_system(facts) == 3 and finds_only()(facts))
        gone, other = cluster.followers
        await gone.kill()
        yield "one-gone", await cluster.until(finds_only("gone"))
        async with through_the_system_account(cluster) as narrow:
            yield "one-silent", await narrow.until(finds_only("gone"))
        other.pause()
        yield "quorum-going", await cluster.until(finds("quorum-lost", "frozen", "gone"))
        yield "quorum-lost", await cluster.until(api_says("error", 10008), 40)
        other.resume()


async def of_another_cluster(directory: Path) -> AsyncIterator[tuple[str, Facts]]:
    """Three servers: nobody leads, stale consumers, one leaving; then the leader is killed, and the last one is silent for a while."""
    async with trio(directory) as cluster:
        yield "no-leader", await leaderless(cluster)
        await cluster.well()
        async with client(cluster.leader) as nc:
            await nc.jetstream().add_stream(name="LEFT", subjects=["left"], num_replicas=1)
            await leave_consumers(nc, "LEFT")
            yield "stale-consumers", await cluster.until(lambda facts: stale(facts) == STALE)
            await nc.jetstream().delete_stream("LEFT")
        await cluster.well()
        leaving = cluster.followers[0]
        async with AsyncExitStack() as clients:
            for _ in range(CLIENTS):
                await clients.enter_async_context(client(leaving))
            leaving.send(signal.SIGUSR2)
            yield "lame-duck", await cluster.until(finds("lame-duck"))
            await leaving.kill()
        await cluster.leader.kill()
        yield "leader-gone", await cluster.until(finds("silent", "quorum-lost"))


async def of_a_single_server(directory: Path) -> AsyncIterator[tuple[str, Facts]]:
    """One server: well, full, without JetStream, and with JetStream for others only."""
    async with solo(directory / "full", jetstream="max_file_store: 1MB") as cluster:
        yield "alone", await cluster.well()
        async with client(cluster.servers[0]) as nc:
            await nc.jetstream().add_stream(name="FULL", subjects=["full"])
            while b'"error"' not in (await nc.request("full", bytes(64 * 1024))).data:
                pass
        yield "store-full", await cluster.until(finds("store-full"))
    async with solo(
        directory / "off", ACCOUNTS.replace("jetstream: enabled, ", "") + "\njetstream: disabled\n"
    ) as cluster:
        yield "jetstream-off", await cluster.until(api_says("nobody"))
    async with solo(directory / "not-for-us", ACCOUNTS.replace("jetstream: enabled, ", "")) as cluster:
        yield "account-off", await cluster.until(api_says("error", 10039))
    async with solo(directory / "unseen", system=None, nodes=None) as cluster:
        yield "unseen", await cluster.well()


ALL = (of_a_single_server, of_a_cluster, of_another_cluster)


async def see_all(directory: Path) -> dict[str, Facts]:
    """Return what is seen in every state; the clusters run side by side."""
    seen: dict[str, Facts] = {}

    async def go_through(states: Callable[[Path], AsyncIterator[tuple[str, Facts]]]) -> None:
        async for name, facts in states(directory / states.__name__):
            seen[name] = facts  # noqa: PERF403  # as they come: the rest may fail

    async with anyio.create_task_group() as group:
        for states in ALL:
            group.start_soon(go_through, states)
    return seen


@cache
def recorded(name: str) -> Facts:
    return Facts.model_validate_json((RECORDED / f"{name}.json").read_text())


def told(facts: Facts, width: int = 80) -> str:
    """Return what a person is told."""
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(report(diagnose(facts)), end="")
    return cast("StringIO", console.file).getvalue()


def record(*, anew: bool) -> None:
    """Write what was seen to the snapshots, and what is told of them beside."""
    RECORDED.mkdir(exist_ok=True)
    if anew:
        with tempfile.TemporaryDirectory() as directory:
            for name, facts in anyio.run(see_all, Path(directory)).items():
                text = facts.model_dump_json(indent=1, exclude_defaults=True).replace(directory, "/data")
                (RECORDED / f"{name}.json").write_text(f"{text}\n")
    for file in sorted(RECORDED.glob("*.json")):
        file.with_suffix(".txt").write_text(told(recorded(file.stem)))


if __name__ == "__main__":
    record(anew="--text" not in sys.argv)
