"""Nodes of a cluster are paused, killed and restarted at random, several at once: every handle is back each time, and hears."""

from __future__ import annotations

import random

import anyio
import pytest
from nats.aio.msg import Msg
from nats_servers import NatsServer

from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.options import Broker
from supervisor.journal.writer import JournalWriter

pytestmark = pytest.mark.usefixtures("nothing_leaks")

ROUNDS = 4
WITHIN = 30.0
"""Seconds for each handle on a busy machine; `scripts/prove_monitor` measures how long it takes."""


class Listener:
    """Hears its own messages through a subscription of its handle."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._heard = anyio.Event()

    async def hear(self, _: Msg) -> None:
        self._heard.set()

    async def check(self) -> None:
        """The handle is usable and its subscription lives, soon."""
        with anyio.fail_after(WITHIN):
            await self.handle.wait_connected(WITHIN)
            await self.handle.canary(WITHIN)
            self._heard = anyio.Event()
            while not self._heard.is_set():  # core NATS may lose one
                await self.handle.nc.publish(f"mine.{self.handle.owner}")
                with anyio.move_on_after(0.2):
                    await self._heard.wait()


async def disturb(server: NatsServer, rng: random.Random) -> None:
    match rng.choice(("pause", "kill", "stop", "flap")):
        case "pause":
            server.pause()
            await anyio.sleep(rng.uniform(0, 2))
            server.resume()
        case "kill":
            await server.kill()
            await anyio.sleep(rng.uniform(0, 1))
            await server.start()
        case "stop":
            await server.stop()
            await server.start()
        case "flap":
            for _ in range(5):
                server.pause()
                await anyio.sleep(0.05)
                server.resume()
                await anyio.sleep(0.05)


async def test_a_storm(cluster: list[NatsServer], journal: JournalWriter) -> None:
    rng = random.Random(20)  # noqa: S311
    broker = Broker.model_validate({"servers": [server.address for server in cluster]})
    async with open_connections(broker, journal) as connections:
        listeners = [Listener(await connections.new("default", f"load-{n}")) for n in range(3)]
        for listener in listeners:
            await listener.handle.subscribe(f"mine.{listener.handle.owner}", listener.hear)
        for _ in range(ROUNDS):
            async with anyio.create_task_group() as group:
                for server in rng.sample(cluster, rng.choice((1, 2, 3))):
                    group.start_soon(disturb, server, rng)
            for listener in listeners:
                await listener.check()
