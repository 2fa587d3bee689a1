"""The running side of the process engine: the lives of its units, one task for each."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Unpack

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines import cgroups
from supervisor.engines.base import EngineContext, EngineError, Exit, Observed, Part
from supervisor.engines.local_unit import Kills, Life, LocalUnit
from supervisor.engines.output import ANSWER, Generations
from supervisor.engines.problems import explain, how
from supervisor.engines.program import run_program
from supervisor.engines.spawn import stopped
from supervisor.engines.survivors import end_survivors
from supervisor.journal.base import JournalError
from supervisor.values import format_duration

if TYPE_CHECKING:
    from supervisor.engines.process import ProcessUnit

STANDSTILL: Final = 2.0
"""Seconds that a process may take to stand still after SIGSTOP; one that hangs in the kernel does nothing anyway."""
GONE: Final = 5.0
"""Seconds that SIGKILL may take."""
EXITS: Final = 1024
LAST_LINES: Final = 10
"""Lines of output in an error."""


class LocalUnits:
    """Implements `Units` and `CanPause` with processes of this machine, and `CanLimit` where they have control groups, `HasVolumes`."""

    def __init__(
        self,
        specs: Mapping[str, ProcessUnit],
        context: EngineContext,
        group: TaskGroup,
        groups: cgroups.Place | None = None,
    ) -> None:
        self._context, self._group = context, group
        self._units = {name: LocalUnit(name, spec, context, groups) for name, spec in specs.items()}
        self._send, self._receive = anyio.create_memory_object_stream[Exit](EXITS)
        self._kills = Kills()

    async def observe(self) -> Mapping[str, Observed]:
        """Say what runs; nothing has to be looked at, since exits are seen as they happen."""
        return {name: unit.observed() for name, unit in self._units.items()}

    def exits(self) -> MemoryObjectReceiveStream[Exit]:
        """All exits, in order."""
        return self._receive.clone()

    # --- start, readiness --------------------------------------------------------------------------------------------

    async def start(self, unit: str) -> Observed:
        """Spawn the process; one that runs already is left alone."""
        known = self._units[unit]
        if known.life and known.life.over:
            await known.life.gone.wait()
        if known.life is None:
            try:
                await known.prepare()
                child = await to_thread.run_sync(known.spawn)
            except (OSError, ValueError, JournalError) as error:
                raise EngineError(
                    f"cannot start {unit}: {explain(error, known.spec.command[0], known.cwd)}"
                ) from error
            known.life = Life(child, known.spec.ready.log if known.spec.ready else None)
            self._group.start_soon(self._attend, known, known.life, name=f"unit {unit}")
        return known.observed()

    async def ready(self, unit: str) -> None:
        """Wait until the unit's check says yes. The error shows the last lines of its output."""
        known, life = self._units[unit], self._units[unit].life
        check, seen, is_ready = known.spec.ready, "", False

        def say(what: str) -> None:
            nonlocal seen
            seen = what

        if life and check is None:
            return
        if life and check:
            with anyio.move_on_after(check.timeout):
                async with anyio.create_task_group() as group:

                    async def give_up() -> None:
                        await life.gone.wait()
                        group.cancel_scope.cancel()

                    group.start_soon(give_up)
                    await check.wait(life.awaited, say)
                    is_ready = not life.over
                    group.cancel_scope.cancel()
        if is_ready:
            return
        if life is None or life.over or check is None:
            what = f"it {how(known.last)} before that; waited for {check or 'its start'}"
        else:
            what = f"waited {format_duration(check.timeout)} for {check}, last seen: {seen}"
        raise EngineError(f"cannot see {unit} become ready: {what}{await self._last_lines(known)}")

    async def _last_lines(self, known: LocalUnit) -> str:
        lines = (await self.logs(known.name, last=LAST_LINES)).decode(errors="replace").splitlines()
        shown = "".join(f"\n  | {line[:400]}" for line in lines)
        return f"; its last output, more of it in {known.log}:{shown}" if shown else "; it wrote nothing"

    async def _attend(self, known: LocalUnit, life: Life) -> None:
        """See a life to its end, and tell of it. Shielded: it ends with the process, which `close` sees to."""
        try:
            with life.scope:
                known.last = await known.see_end(life, self._kills)
                await self._send.send(known.last)
        finally:
            known.life = None
            life.gone.set()
            life.child.close()

    # --- stop, kill, pause -------------------------------------------------------------------------------------------

    async def stop(self, unit: str, timeout: float | None = None, signal: int | None = None) -> None:
        """Stop signal to the process, later SIGKILL to the group; down already: no error."""
        known = self._units[unit]
        if life := known.life:
            life.child.send(signal or known.spec.stop_signal)
            if life.paused:
                life.child.send_group(_SIGCONT)
            with anyio.move_on_after(known.spec.stop_timeout if timeout is None else timeout):
                await life.gone.wait()
            if not life.gone.is_set():
                await self._end(known, life)

    async def kill(self, unit: str, signal: int) -> None:
        """Signal the process; SIGKILL ends the whole group, and is waited for."""
        life = self._running(unit, f"send it signal {signal}")
        if signal == _SIGKILL:
            await self._end(self._units[unit], life)
        else:
            life.child.send(signal)

    async def _end(self, known: LocalUnit, life: Life) -> None:
        life.child.send_group(_SIGKILL)
        with anyio.move_on_after(GONE):
            await life.gone.wait()
            return
        raise EngineError(
            f"cannot end {known.name}: SIGKILL had no effect on pid {life.child.pid} within {GONE:g} s; "
            f"it hangs in the kernel, see /proc/{life.child.pid}/stack"
        )

    async def pause(self, unit: str) -> None:
        """SIGSTOP the group, and wait until the process stands still: a thread that has not stopped yet would still answer."""
        life = self._running(unit, "pause it")
        life.child.send_group(signal.SIGSTOP)
        life.paused = True
        with anyio.move_on_after(STANDSTILL):
            while not await to_thread.run_sync(stopped, life.child.pid):  # noqa: ASYNC110  # the kernel tells only a tracer
                await anyio.sleep(0.001)

    async def resume(self, unit: str) -> None:
        """SIGCONT the group."""
        life = self._running(unit, "resume it")
        life.child.send_group(signal.SIGCONT)
        life.paused = False

    # --- limits, volumes ---------------------------------------------------------------------------------------------

    async def limits(self, unit: str) -> Mapping[str, int]:
        """Return the limits of the unit's control group: microseconds of each period, bytes; -1 is none."""
        return await to_thread.run_sync(self._limitable(unit).limits)

    async def limit(self, unit: str, limits: Mapping[str, int]) -> None:
        """Set some of them. Version 1 of control groups refuses a limit below what is in use and cannot be taken back."""
        await to_thread.run_sync(self._limitable(unit).limit, limits)

    async def tightened(
        self, unit: str, *, cpus: float | None = None, memory: int | None = None
    ) -> Mapping[str, int]:
        """Return what to write for so many processors, or bytes of memory; EngineError if it has no more already."""
        return await to_thread.run_sync(partial(self._limitable(unit).tightened, cpus=cpus, memory=memory))

    async def volume(self, unit: str, path: str) -> Path:  # noqa: ARG002  # it is the same for all
        """Return the directory, seen from the soak file's folder."""
        return self._context.base / path

    def _limitable(self, unit: str) -> cgroups.Group:
        if group := self._units[unit].group:
            return group
        raise EngineError(
            f"cannot limit {unit}: set cgroups: true at its engine, so that it has a control group"
        )

    def _running(self, unit: str, what: str) -> Life:
        life = self._units[unit].life
        if life is None or life.over:
            raise EngineError(f"cannot {what}: {unit} is not running")
        return life

    async def execute(
        self, unit: str, command: Sequence[str], timeout: float, env: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes]:
        """Run a program in the unit's directory, with its environment; it ends with its time, or with the engine."""
        self._running(unit, f"run {command[0]}")
        known, kept = self._units[unit], bytearray()

        def keep(chunk: bytes) -> None:
            kept.extend(chunk)
            del kept[:-ANSWER]

        try:
            ended = await run_program(
                command,
                cwd=known.cwd,
                env={**known.env, **env},
                output=keep,
                timeout=timeout,
                stop=anyio.Event(),
            )
        except (OSError, ValueError) as error:
            raise EngineError(
                f"cannot run {command[0]} in {unit}: {explain(error, command[0], known.cwd)}"
            ) from error
        if ended.why != "exit":
            raise EngineError(f"{command[0]} in {unit} did not end within {timeout:g} s, and was ended")
        return (128 + signal.Signals[ended.status] if ended.code is None else ended.code), bytes(kept)

    async def close(self) -> None:
        """End everything, also what left its group."""
        lives = [unit.life for unit in self._units.values() if unit.life]
        for life in lives:
            life.child.send_group(_SIGKILL)
        with anyio.move_on_after(GONE):
            for life in lives:
                await life.gone.wait()
        for life in lives:
            life.scope.cancel()
        self._send.close()
        self._receive.close()
        await to_thread.run_sync(end_survivors, self._context.run, set(self._units))
        for unit in self._units.values():
            if unit.group:
                await to_thread.run_sync(unit.group.remove)

    # --- output ------------------------------------------------------------------------------------------------------

    async def logs(self, unit: str, **part: Unpack[Part]) -> bytes:
        """Read back output, at most the last `output.ANSWER` bytes of it."""
        await self._context.journal.call(_nothing)  # what was written before is in the file now
        return await to_thread.run_sync(_read_back, self._units[unit].log, part)


_SIGKILL: Final = signal.SIGKILL
_SIGCONT: Final = signal.SIGCONT


def _nothing() -> None:
    return


def _read_back(path: Path, part: Part) -> bytes:
    stamped, last = part.get("stamped", False), part.get("last")
    with Generations(path) as files:
        if last is not None:
            return files.last(last, stamped=stamped)
        return files.between(part.get("since"), part.get("until"), stamped=stamped)
