"""What the tests see of the system: its broker, as a subscriber and as the directory would use it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError

PATIENCE = float(os.environ.get("E2E_PATIENCE", "5"))
"""Seconds that the system may take to anything."""

T = TypeVar("T")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async def ignore(_: Exception) -> None:
        """Whoever needs the connection says what is wrong with it."""

    async def dial() -> Client:
        return await nats.connect(
            os.environ.get("SOAKD_NATS_URL", "nats://127.0.0.1:4222").split(","),
            name="e2e",
            user=os.environ.get("SOAKD_NATS_USER"),
            password=os.environ.get("SOAKD_NATS_PASSWORD"),
            connect_timeout=1,
            max_reconnect_attempts=3,
            reconnect_time_wait=0.2,
            error_cb=ignore,
        )

    nc = await eventually(dial)
    try:
        yield Api(nc)
    finally:
        await nc.close()


async def eventually(call: Callable[[], Awaitable[T]]) -> T:
    """Try again while the system is not able to, as a patient user would."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except (nats.errors.Error, OSError, AssertionError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


class Api:
    """The system as it is used from outside."""

    def __init__(self, nc: Client) -> None:
        self.js = nc.jetstream(timeout=2)
        self._nc = nc

    async def subscribe(self, kind: str, *topics: str, prefill: bool = False) -> str:
        """Create a subscription and wait until it is set up; return its name, which ends with a number."""
        name = f"{kind}_{time.time_ns() // 1_000_000 % 10**8}"
        entry = json.dumps({"topics": topics, "prefill": prefill, "status": "pending"}).encode()

        async def create() -> None:
            bucket = await self.js.key_value("SUBSCRIPTIONS")
            try:
                await bucket.get(name)
            except KeyNotFoundError:
                await bucket.put(name, entry)

        async def done() -> None:
            bucket = await self.js.key_value("SUBSCRIPTIONS")
            status = json.loads((await bucket.get(name)).value or b"{}").get("status")
            assert status == "done", f"the subscription is {status}"

        await eventually(create)
        await eventually(done)
        return name

    async def change(self, topic: str, *names: str) -> None:
        """Change objects of the directory, one after the other."""
        for name in names:
            body = json.dumps({"id": name, "topic": topic, "body": {"NAME": f" {name} "}}).encode()
            await eventually(lambda body=body: self._nc.request("directory.changed", body, timeout=2))  # type: ignore[misc]  # nothing to infer from

    async def read(self, subscription: str, count: int) -> list[dict[str, Any]]:
        """Wait for messages of a subscription and return the first ones."""
        stream = f"stream_{subscription}"

        async def all_there() -> None:
            stored = (await self.js.stream_info(stream)).state.messages
            assert stored >= count, f"{stored} of {count} messages have arrived"

        await eventually(all_there)
        return [await eventually(lambda n=n: self._get(stream, n)) for n in range(1, count + 1)]  # type: ignore[misc]  # nothing to infer from

    async def _get(self, stream: str, sequence: int) -> dict[str, Any]:
        message = await self.js.get_msg(stream, sequence)
        assert message.data is not None
        return dict(json.loads(message.data))

    async def fetch(self, subscription: str, count: int) -> list[dict[str, Any]]:
        """Read messages as a client does: with a durable consumer, each acknowledged."""
        stream = f"stream_{subscription}"
        pull = await eventually(
            lambda: self.js.pull_subscribe(f"subscription.{subscription}.*", durable="client", stream=stream)
        )
        received: list[dict[str, Any]] = []

        async def some() -> None:
            for message in await pull.fetch(count - len(received), timeout=1):
                await message.ack_sync(timeout=2)
                received.append(json.loads(message.data))
            assert len(received) >= count, f"{len(received)} of {count} messages have arrived"

        await eventually(some)
        return received

    async def stored(self, subscription: str) -> int:
        """Return how many messages a subscription holds."""
        return (await eventually(lambda: self.js.stream_info(f"stream_{subscription}"))).state.messages
