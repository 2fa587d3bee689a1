"""The example of a load of one's own runs as it stands, and sees what is wrong with a service."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from load_bench import Bench

from supervisor.journal.events import LoadBroken
from supervisor.soakfile.load import load

CONFIG = Path(__file__).parents[2] / "config" / "own-load.yaml"


@pytest.mark.parametrize("honest", [True, False])
async def test_the_example_of_a_load_of_ones_own(bench: Bench, honest: bool) -> None:
    numbers = itertools.count(1)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                line = await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return  # it did not wait any longer
            wrong = not honest and next(numbers) % 10 == 0
            await stream.send(b"another\n" if wrong else line)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            soak = load(CONFIG, {"ECHO_PORT": str(port)}).soak
            patient = soak.loads["lines"].model_copy(update={"timeout": 20.0})
            async with bench.under(patient) as context:
                await bench.until_counted(context, "ok" if honest else "mixed_up", 5)
            group.cancel_scope.cancel()
    found = {
        name: count for name, count in bench.counts.items() if name not in ("scheduled", "started", "ok")
    }
    assert bool(found) is not honest
    assert honest or found["wrong answer"] == found["mixed_up"] == found["failed"]


async def test_a_service_that_is_killed_does_not_break_the_example(bench: Bench) -> None:
    """What it had not answered by then is reset."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        async def reset() -> None:
            while True:
                connection, _ = await loop.sock_accept(server)
                with connection:
                    await loop.sock_recv(connection, 1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async with anyio.create_task_group() as group:
            group.start_soon(reset)
            soak = load(CONFIG, {"ECHO_PORT": str(server.getsockname()[1])}).soak
            async with bench.under(soak.loads["lines"]) as context:
                await bench.until_counted(context, "failed", 5)
            group.cancel_scope.cancel()
    assert bench.counts["failed"] == bench.counts["no answer"]
    assert not [event for event in bench.events if isinstance(event, LoadBroken)]
