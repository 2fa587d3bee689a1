"""`soakd watch` attached to a run on a cluster with many streams and keys, some of whose nodes stop answering."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import psutil
import pytest
from watch_terminal import PATIENCE, Watch

from supervisor.broker.api import call, each
from supervisor.broker.connection import BrokerError, Handle, open_connections
from supervisor.engines.spawn import stopped
from supervisor.journal.events import Event
from supervisor.journal.runs import RunIndex
from supervisor.soakfile.errors import NotRunning
from supervisor.soakfile.running import load_running

STREAMS = 1_000
KEYS = 5_000
LONG = 90.0
"""Seconds that all these streams and keys may take to be made and seen, and a cluster to know that nodes are away, or back."""


class Unheard:
    """Nobody reads what connections report."""

    def emit(self, event: Event) -> None:
        pass


class Running(NamedTuple):
    """A run on three nodes, which lasts as long as the test."""

    file: Path
    process: subprocess.Popen[bytes]

    def nodes(self) -> list[psutil.Process]:
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in family if process.name() == "nats-server"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    file = tmp_path / "soak.yaml"
    broker = {"embedded": {"nodes": 3, "max_file": "1GB"}, "monitor": {"buckets": ["B"]}}
    file.write_text(json.dumps({"soak": "many", "broker": broker}))
    with (tmp_path / "output").open("wb") as output:
        command = [sys.executable, "-m", "supervisor", "run", str(file)]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    running = Running(file, process)
    endpoint = tmp_path / "runs" / "many" / "latest" / "endpoint"
    deadline = time.monotonic() + LONG
    try:
        while not (endpoint.exists() and endpoint.read_text().endswith("\n")):
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        yield running
    finally:
        for node in running.nodes():
            node.resume()
        process.terminate()
        process.wait(LONG)


@asynccontextmanager
async def connected(file: Path, state_dir: Path) -> AsyncIterator[Handle]:
    with anyio.fail_after(LONG):
        while True:
            try:
                broker = load_running(file, RunIndex(state_dir)).soak.broker
                break
            except NotRunning:  # its nodes are made one after the other
                await anyio.sleep(0.05)
    assert broker is not None
    async with open_connections(broker, Unheard()) as connections:
        handle = await connections.handle()
        await handle.wait_connected(PATIENCE)
        yield handle


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # processes tell nobody
            await anyio.sleep(0.01)


async def make(handle: Handle) -> None:
    async def create(name: str) -> None:
        config = {"name": name, "subjects": [name if name[0] == "s" else "$KV.B.>"], "storage": "memory"}
        with anyio.fail_after(LONG):
            while True:
                try:
                    await call(handle, f"STREAM.CREATE.{name}", config)
                except BrokerError:  # the cluster has only just been made
                    await anyio.sleep(0.2)
                else:
                    return

    async def put(n: int) -> None:
        await handle.request(f"$KV.B.key.{n}", b"value", timeout=30)

    await create("KV_B")
    await each([f"s{n:05}" for n in range(STREAMS)], create)
    await each(range(KEYS), put)


@pytest.mark.timeout(300)
async def test_many_streams_and_keys_and_nodes_that_go_away(
    running: Running, state_dir: Path, watch: Watch
) -> None:
    async with connected(running.file, state_dir) as handle:
        await make(handle)
        terminal = watch(str(running.file))
        whole = f"streams {STREAMS + 1:,}  "
        await terminal.shows(lambda text: whole in text and f"keys {KEYS:,}" in text, LONG)
        await terminal.shows("HEALTHY", LONG)
        await terminal.shows(re.compile(r"nats\d .*up").search)
        assert max(map(len, terminal.text.splitlines())) <= 80
        changed = f"s{STREAMS // 2:05}"
        await handle.request(changed, b"one message", timeout=10)
        await terminal.shows(re.compile(rf"^stream .*\n{changed} +1 ", re.MULTILINE).search)
        await handle.request("$KV.B.key.7", b"changed", timeout=10)
        await terminal.shows(re.compile(rf"^key of B .*\nkey\.7 +{KEYS + 1:,} ", re.MULTILINE).search)
        away = running.nodes()[1:]
        for node in away:
            node.suspend()
        await until(lambda: all(stopped(node.pid) for node in away))
        await terminal.shows(lambda text: "UNHEALTHY" in text and "not everything is known" in text, LONG)
        assert whole in terminal.text, "unknown is not gone"
        assert "deleted" not in terminal.text
        for node in away:
            node.resume()
        await terminal.shows(
            lambda text: re.search(r"^HEALTHY", text, re.MULTILINE) and "not everything" not in text, LONG
        )
        assert whole in terminal.text
        assert terminal.sent.count("\x1b[2J") == 1, (
            "it is drawn whole once, and by changed lines from then on"
        )
        terminal.press("q")
        assert terminal.ends() == 0
