"""One local unit: its files, its process, and its lives, from the start to the end and the last word of each."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from supervisor.engines import cgroups
from supervisor.engines.base import EngineContext, Exit, Observed, UnitState
from supervisor.engines.output import GENERATIONS, MAX_BYTES, Awaited, Output
from supervisor.engines.spawn import Child, oom_kills, spawn
from supervisor.engines.survivors import RUN, UNIT

if TYPE_CHECKING:
    from supervisor.engines.process import ProcessUnit

DIRECTORY: Final = "SOAKD_UNIT_DIR"
OUTPUT: Final = "output.log"
CHUNK: Final = 32_768
"""Bytes read at once: so few that even newlines alone, each stamped, fit the log's queue."""
BURST: Final = 1_000_000
RATE: Final = 10_000_000
"""Bytes a second: a unit that writes more, in bursts of `BURST`, has to wait for us, as it would for a slow disk."""
DRAIN: Final = 0.5
"""Seconds that the rest of the output may take after the exit; only a process that left the group makes use of them."""


class Life:
    """One incarnation of a unit."""

    def __init__(self, child: Child, pattern: str | None) -> None:
        self.child = child
        self.awaited = Awaited(pattern) if pattern else None
        self.paused = False
        self.over = False
        """The process has ended; its last output is still being read."""
        self.drained = anyio.Event()
        self.gone = anyio.Event()
        """Set once the exit has been told."""
        self.scope = anyio.CancelScope(shield=True)


class Kills:
    """How often the kernel of this machine has killed for want of memory, as far as that was told of."""

    def __init__(self) -> None:
        self._told = 0

    async def have_hit(self, group: cgroups.Group | None, child: Child) -> bool:
        """Say whether the kernel counted one in this life, and none of them was told of before."""
        if group:
            return await to_thread.run_sync(group.oom_kills) > child.oom_kills
        before = max(child.oom_kills, self._told)
        self._told = await to_thread.run_sync(oom_kills)
        return self._told > before


class LocalUnit:
    """A unit, over all its lives."""

    def __init__(
        self, name: str, spec: ProcessUnit, context: EngineContext, groups: cgroups.Place | None
    ) -> None:
        self.name, self.spec, self._journal = name, spec, context.journal
        self.group = cgroups.Group(groups, context.run, name) if groups else None
        place = f"units/{name}/{OUTPUT}"
        self.directory = context.directory / "units" / name
        self.log = context.directory / place
        self.output = Output(context.journal.log(place, max_bytes=MAX_BYTES, keep=GENERATIONS))
        self.cwd = context.base / spec.cwd if spec.cwd else self.directory if spec.files else context.base
        self.env = {
            **os.environ,
            **context.environment,
            **spec.env,
            RUN: context.run,
            UNIT: name,
            DIRECTORY: str(self.directory),
        }
        self._prepared = False
        self.life: Life | None = None
        self.last: Exit | None = None

    def observed(self) -> Observed:
        """Say what is known: exits are seen as they happen."""
        if self.life is None:
            return Observed(UnitState.DOWN, labels=self.spec.labels)
        child = self.life.child
        state = UnitState.PAUSED if self.life.paused else UnitState.UP
        return Observed(state, child.incarnation, child.pid, child.started, self.spec.labels)

    async def prepare(self) -> None:
        """Make the unit's directory and its files, once: later starts find what the unit itself left there."""
        if not self._prepared:
            await self._journal.call(lambda: self.directory.mkdir(parents=True, exist_ok=True))
            for name, content in self.spec.files.items():
                await self._journal.write_file(f"units/{self.name}/{name}", content.encode())
            if self.group:
                await to_thread.run_sync(self.group.make)
            self._prepared = True

    def spawn(self) -> Child:
        """Start the unit's process, and put it where it belongs before it has done much. Blocks."""
        child = spawn(self.spec.command, self.cwd, self.env)
        if self.group is None:
            return child
        try:
            self.group.add(child.pid)
            child.oom_kills = self.group.oom_kills()
        except BaseException:
            child.send_group(signal.SIGKILL)
            child.reap()
            child.close()
            raise
        return child

    # --- the life of a process ---------------------------------------------------------------------------------------

    async def see_end(self, life: Life, kills: Kills) -> Exit:
        """Read what the process of a life writes, and see its end."""
        child = life.child
        async with anyio.create_task_group() as reading:
            reading.start_soon(self._read, life)
            await anyio.wait_readable(child.pidfd)
            noticed = time.monotonic()
            life.over = True
            code, name = child.reap()
            with anyio.move_on_after(DRAIN):
                await life.drained.wait()
            reading.cancel_scope.cancel()
        self.output.end()
        oom = name == "SIGKILL" and not child.killed and await kills.have_hit(self.group, child)
        return Exit(self.name, child.incarnation, code, name, oom, noticed, noticed - child.started)

    async def _read(self, life: Life) -> None:
        """Read its output to the end, no faster than `RATE`."""
        taken, since = 0, time.monotonic()
        while True:
            await anyio.wait_readable(life.child.output)
            try:
                data = os.read(life.child.output, CHUNK)
            except BlockingIOError:
                continue
            if not data:
                break
            self.output.take(data)
            if life.awaited:
                life.awaited.take(data)
            taken += len(data)
            if taken >= BURST and not life.over:
                await anyio.sleep(max(since + taken / RATE - time.monotonic(), 0))
                taken, since = 0, time.monotonic()
        life.drained.set()
