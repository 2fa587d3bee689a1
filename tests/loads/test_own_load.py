"""The example of a load of one's own runs as it stands, and sees what is wrong with a service."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from load_bench import Bench

from supervisor.soakfile.load import load

CONFIG = Path(__file__).parents[2] / "config" / "own-load.yaml"


@pytest.mark.parametrize("honest", [True, False])
async def test_the_example_of_a_load_of_ones_own(bench: Bench, honest: bool) -> None:
    numbers = itertools.count(1)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            line = await stream.receive()
            wrong = not honest and next(numbers) % 10 == 0
            await stream.send(b"another\n" if wrong else line)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            soak = load(CONFIG, {"ECHO_PORT": str(port)}).soak
            async with bench.under(soak.loads["lines"]) as context:
                await bench.until_counted(context, "ok" if honest else "mixed_up", 5)
            group.cancel_scope.cancel()
    found = {
        name: count for name, count in bench.counts.items() if name not in ("scheduled", "started", "ok")
    }
    assert bool(found) is not honest
    assert honest or found["wrong answer"] == found["mixed_up"] == found["failed"]
