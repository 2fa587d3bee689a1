"""What the contract suite needs of an engine under test: the same few programs, each as a unit of that engine."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import Engine, EngineContext, Exit, Outside, Units, Unwell
from supervisor.engines.process import ProcessEngine
from supervisor.journal.base import Journal

PATIENCE = 30.0


class Program(StrEnum):
    """Shell scripts: any engine has a shell, or the means to bring one."""

    IDLE = "echo up; exec sleep 1000"
    STUBBORN = "trap '' TERM; echo up; sleep 1000 & while :; do wait; done"
    GRACEFUL = "trap 'echo bye; exit 0' TERM; echo up; sleep 1000 & wait"
    FAILING = "echo one; echo two; printf 'last words'; exit 3"
    TICKING = "while :; do echo tick; sleep 0.02; done"
    SOON_READY = "echo up; sleep 0.1; echo ready now; exec sleep 1000"
    NEVER_READY = "echo still thinking; exec sleep 1000 # never"
    DIES_UNREADY = "echo cannot go on; exit 4"
    INTERLEAVED = """
        e() { echo "$@" >&2; sleep 0.01; }
        echo 'INFO: order 1 is placed'; e 'Traceback (most recent call last):'
        e '  File "/app/shop.py", line 8, in <module>'; echo 'order 2'; e '    main()'; echo '{"level": "error", "event": "order 3"}'
        e '  File "/app/shop.py", line 5, in main'; echo 'WARNING: stock is low'; e '    take(order)'; echo 'ERROR: order 4 is late'
        e 'KeyError: 5'; echo 'Worker: order 6 is done'; echo 'ERROR: order 7 is late'; exit 1
    """
    UNSTARTABLE = "/no/such/program"


READY = {
    Program.SOON_READY: {"log": "^ready"},
    Program.NEVER_READY: {"log": "^ready", "timeout": "0.3s"},
    Program.DIES_UNREADY: {"log": "^ready"},
}


class Harness(Protocol):
    """One kind of engine under test."""

    def engine(self, units: dict[str, Program]) -> Engine: ...


class ProcessHarness:
    def engine(self, units: dict[str, Program]) -> Engine:
        return ProcessEngine.model_validate(
            {"process": {"units": {n: self._unit(p) for n, p in units.items()}}}
        )

    def _unit(self, program: Program) -> dict[str, Any]:
        command = [program.value] if program is Program.UNSTARTABLE else ["sh", "-c", program.value]
        return {"command": command, "ready": READY.get(program), "labels": {"program": program.name}}


@dataclass
class Bench:
    """An engine that is open, and all that was heard of it."""

    engine: Engine
    units: Units
    context: EngineContext
    exits: MemoryObjectReceiveStream[Exit | Outside | Unwell]

    async def exit(self) -> Exit:
        with anyio.fail_after(PATIENCE):
            while not isinstance(gone := await self.exits.receive(), Exit):
                pass  # what somebody outside decided, as recovery does for an engine that is still open
            return gone

    async def logs_have(self, unit: str, text: bytes) -> bytes:
        """Wait until the output of a unit has a text."""
        with anyio.fail_after(PATIENCE):
            while text not in (logs := await self.units.logs(unit)):  # noqa: ASYNC110  # a file tells nobody that it grew
                await anyio.sleep(0.01)
            return logs


@asynccontextmanager
async def opened(
    harness: Harness, journal: Journal, run_dir: Path, programs: dict[str, Program] | Iterable[Program]
) -> AsyncIterator[Bench]:
    """Open an engine with these programs; without names of its own a unit has its program's, in lower case."""
    named = (
        programs if isinstance(programs, dict) else {p.name.lower().replace("_", "-"): p for p in programs}
    )
    engine = await harness.engine(named).discover(run_dir) if named else harness.engine(named)
    context = EngineContext("engine", f"test-{uuid.uuid4().hex}", run_dir, run_dir, journal)
    async with engine.open(context) as units:
        exits = units.exits()
        try:
            yield Bench(engine, units, context, exits)
        finally:
            exits.close()
