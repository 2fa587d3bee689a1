"""What a load is given for one run, what it left in the journal, and a broker to clean up on."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio

from supervisor.broker.connection import Connections
from supervisor.broker.embedded import expand
from supervisor.broker.ports import free_ports
from supervisor.journal.events import CleanedUp, Event, LoadStopped, LoadWindow, Sample
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.command import CommandLoad
from supervisor.loads.crew import run_load
from supervisor.loads.recorder import Recorder

PATIENCE = 40.0
"""Seconds for one step on a busy machine: none of them is waited for where all goes well."""
WHOLE = 100.0
"""Seconds for all that a test does while its load runs: less than pytest gives it, so that it says where it stood."""


@dataclass
class Bench:
    """Runs command loads and counts what they report."""

    base: Path
    journal: JournalWriter
    events: list[Event] = field(default_factory=list)
    connections: Connections | None = None
    run_id: str = field(default_factory=lambda: f"run-{uuid4().hex[:8]}")
    """The processes of a run are found, and ended, by it: no two tests may share one."""

    def context(self, name: str = "e2e") -> LoadContext:
        timeline = Timeline()
        return LoadContext(
            name=name,
            run=self.run_id,
            base=self.base,
            directory=self.journal.run_dir,
            start=time.monotonic(),
            seed=1,
            journal=self.journal,
            timeline=timeline,
            recorder=Recorder(name, self.journal, timeline),
            stop=anyio.Event(),
            connections=self.connections,
            environment={"SOAKD_NATS_URL": "nats://127.0.0.1:1"},
        )

    async def run(self, **entry: Any) -> None:
        """Run a load until it ends by itself."""
        with anyio.fail_after(WHOLE):
            await CommandLoad.model_validate(entry).run(self.context())
        await self.settle()

    async def script(self, script: str, **entry: Any) -> None:
        """The same with a shell."""
        await self.run(**{"command": script, "shell": True, **entry})

    @asynccontextmanager
    async def running(self, **entry: Any) -> AsyncIterator[LoadContext]:
        """Run a load, and stop it on the way out."""
        context = self.context()
        with anyio.fail_after(WHOLE):
            async with anyio.create_task_group() as group:
                group.start_soon(CommandLoad.model_validate(entry).run, context)
                yield context
                context.stop.set()
        await self.settle()

    @asynccontextmanager
    async def under(self, load: Load) -> AsyncIterator[LoadContext]:
        """Run a load of any kind, and stop it on the way out."""
        context = self.context("load")
        with anyio.fail_after(WHOLE):
            async with anyio.create_task_group() as group:
                group.start_soon(run_load, load, context)
                yield context
                context.stop.set()
        await self.settle()

    async def until_counted(self, context: LoadContext, name: str = "ok", count: int = 1) -> None:
        """Wait until so much was counted under a name."""

        def enough() -> bool:
            context.recorder.flush()
            return self.counts.get(name, 0) >= count

        await until(enough)

    async def settle(self) -> None:
        """Wait until all that was emitted is heard, and logs are written."""
        await self.journal.commit(LoadStopped(load="settled"))
        await self.journal.call(lambda: None)  # a record is told before the logs of its time are written

    @property
    def windows(self) -> list[LoadWindow]:
        return [event for event in self.events if isinstance(event, LoadWindow)]

    @property
    def cleaned(self) -> list[CleanedUp]:
        return [event for event in self.events if isinstance(event, CleanedUp)]

    @property
    def counts(self) -> dict[str, float]:
        """Operations by outcome and error class, and counters, over all windows; what is zero is left out."""
        total: dict[str, float] = {}
        for window in self.windows:
            parts = [{"scheduled": window.scheduled, "started": window.started}, window.counters]
            for piece in window.slices:
                parts += [{"ok": piece.ok, "failed": piece.failed, "indeterminate": piece.indeterminate}]
                parts += [piece.errors]
            for part in parts:
                for name, count in part.items():
                    total[name] = total.get(name, 0) + count
        return {name: count for name, count in total.items() if count}

    @property
    def samples(self) -> list[Sample]:
        return [sample for window in self.windows for sample in window.samples]

    def log(self, name: str = "e2e") -> str:
        return (self.journal.run_dir / f"{name}.log").read_text(errors="replace")


async def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait for a condition, with a deadline."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # files and processes tell nobody
            await anyio.sleep(0.01)


class NatsServer:
    """One nats-server, with JetStream unless it shall have none, on a port that stays the same over restarts."""

    def __init__(self, directory: Path, *, jetstream: bool = True) -> None:
        self.directory = directory
        engine, self.broker = expand({"nodes": 1}, free_ports())
        self.unit = engine["process"]["units"]["nats1"]
        if not jetstream:
            files = self.unit["files"]
            files["nats.conf"] = re.sub(
                r"jetstream \{.*?\}|jetstream: enabled,", "", files["nats.conf"], flags=re.DOTALL
            )
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.directory.mkdir(exist_ok=True)
        for name, content in self.unit["files"].items():
            (self.directory / name).write_text(content)
        self._spawn()
        await until(self._ready)

    def stop(self) -> None:
        """Kill it."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self.unit["command"], cwd=self.directory, stdout=log, stderr=log)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.unit["ready"]["http"], timeout=1) as answer:  # noqa: S310  # our own server
                return bool(answer.status == 200)
        except OSError:
            return False
