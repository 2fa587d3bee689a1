"""The running side of the docker engine: what can be done to units, on top of what the tracker knows of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Unpack

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from supervisor.engines.base import EngineError, GoneError, Observed, Part, container_of
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.container import Container
from supervisor.engines.dockerd.kernel import oom_kills, signalled
from supervisor.engines.dockerd.life import Life, Unit
from supervisor.engines.dockerd.logs import Wanted, follow, read
from supervisor.engines.dockerd.news import News
from supervisor.engines.dockerd.powers import Powers
from supervisor.engines.dockerd.restore import inspect
from supervisor.engines.dockerd.settings import Containers
from supervisor.engines.dockerd.taker import UNTOLD
from supervisor.engines.dockerd.tracker import Tracker
from supervisor.engines.member import HARMLESS, REQUESTS
from supervisor.engines.output import Awaited
from supervisor.engines.problems import how
from supervisor.engines.readiness import Ready
from supervisor.values import format_duration

START: Final = 60.0
"""Seconds that the engine may take to start a container; large ones on slow disks take many."""
GONE: Final = 20.0
"""Seconds that the end of a container may take from SIGKILL to its event: the engine tears its network down in between."""
STOP: Final = 10.0
"""Seconds that a container has to stop in order unless it or the soak file says otherwise, as with `docker stop`."""
BACKOFF: Final = 70.0
"""Seconds that an engine may wait before it restarts a container by itself: up to a minute."""
HEALTHY: Final = 60.0
"""Seconds that a container may take to its first `healthy` where the soak file has no `ready` for it, if its own check takes no longer."""
LAST_LINES: Final = 10
_NANO: Final = 1_000_000_000
AT_ONCE: Final = 2 * _NANO
"""Nanoseconds by which an engine may be late to take note of a start; 5 ms were seen on an idle machine."""
_LOOK: Final = 0.1
"""Seconds between two looks at what is not ready."""
_NOT_RUNNING: Final = 409
_NOT_FOUND: Final = 404


class DockerUnits(Powers):
    """Implements `Units` and all capabilities with the containers of an engine."""

    def __init__(self, api: Api, spec: Containers, tracker: Tracker) -> None:
        super().__init__(api, tracker)
        self._spec = spec

    async def observe(self) -> Mapping[str, Observed]:
        """Say what is known: events keep it true."""
        return {name: unit.observed() for name, unit in self._tracker.units.items()}

    def exits(self) -> MemoryObjectReceiveStream[News]:
        """All exits, in order, and what others decided."""
        return self._tracker.news

    # --- start, readiness --------------------------------------------------------------------------------------------

    async def start(self, unit: str) -> Observed:
        """Start the youngest container of a unit; one that the engine is about to start by itself is left to it."""
        known = self._tracker.units[unit]
        if known.life is None and known.last and known.last.restarting and known.last.has_policy:
            return await self._await_restart(known)
        async with known.lock:
            if known.life:
                return known.observed()
            if (container := known.container) is None:
                raise GoneError(
                    f"cannot start {unit}: its container was removed; create it again (`docker compose up -d`)"
                )
            limited = known.last is not None and known.last.memory > 0
            kills = await to_thread.run_sync(oom_kills) if limited else None
            before = time.monotonic()
            try:
                await self._api.insist("POST", f"containers/{container}/start", deadline=START)
                seen = await inspect(self._api, container)
            except ApiError as error:
                kind = (
                    GoneError
                    if error.status == _NOT_FOUND and not await inspect(self._api, container)
                    else EngineError
                )
                raise kind(f"cannot start {unit}: {error}") from error
            if seen is None:
                raise GoneError(f"cannot start {unit}: its container was removed in that moment")
            if known.ended is None or known.ended.incarnation != seen.incarnation:
                began = time.monotonic() - self._api.ago(seen.begun)
                known.begin(seen, seen.begun, started=min(max(began, before), time.monotonic()))
                if limited:
                    await known.count_kills(kills)
                return known.observed()
            known.last = (
                seen  # somebody has given it a restart policy meanwhile: the engine is about to start it
            )
        return await self._await_restart(known)

    async def _await_restart(self, known: Unit) -> Observed:
        """Wait for the engine's own restart."""
        with anyio.move_on_after(BACKOFF):
            while known.life is None:
                await known.begins.wait()
            return known.observed()
        raise EngineError(
            f"cannot see {known.name} come up: its own restart policy has not started it within {BACKOFF:g} s"
        )

    async def ready(self, unit: str) -> None:
        """Wait until the unit's check says yes: the one of the soak file, else the container's own."""
        known = self._tracker.units[unit]
        life, check = known.life, self._spec.ready.get(unit)
        if life is None:
            raise EngineError(await self._never_ready(known, check, ""))
        timeout = _patience(known, check)
        seen, is_ready = "", False

        def say(what: str) -> None:
            nonlocal seen
            seen = what

        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await life.gone.wait()
                    group.cancel_scope.cancel()

                group.start_soon(give_up)
                awaited = Awaited(check.log) if check and check.log else None
                if awaited and known.last:
                    group.start_soon(self._watch_output, known.last, life, awaited)
                if check:
                    await check.wait(awaited, say)
                elif known.last and known.last.health_within:
                    await self._healthy(life, say)
                is_ready = not life.gone.is_set()
                group.cancel_scope.cancel()
        if not is_ready:
            raise EngineError(await self._never_ready(known, check, "" if life.gone.is_set() else seen))

    async def _watch_output(self, container: Container, life: Life, awaited: Awaited) -> None:
        def take(stream: int, text: bytes) -> bool:
            awaited.take(text, stream)
            return awaited.seen.is_set()

        # What it writes at once may carry a time before the one at which the engine took note of its start, not one before its last end.
        since = min(max(life.begun - AT_ONCE, container.finished), life.begun)
        while not awaited.seen.is_set():
            with suppress(ApiError):  # the engine went away: it is asked for all of it again
                await follow(self._api, container, since / _NANO, take)
            if not awaited.seen.is_set():
                await anyio.sleep(_LOOK)

    async def _healthy(self, life: Life, say: Callable[[str], None]) -> None:
        while True:  # its event may have come before anybody waited for it
            seen = await inspect(self._api, life.container)
            if seen and seen.health == "healthy":
                return
            say(seen.health or "no word" if seen else "removed")
            await anyio.sleep(_LOOK)

    async def _never_ready(self, known: Unit, check: Ready | None, seen: str) -> str:
        if known.life is None:
            what = f"it {how(known.ended)} before that; waited for {check or 'its start'}"
        else:
            what = f"waited {format_duration(_patience(known, check))} for {check or 'its health check'}, last seen: {seen or 'not healthy'}"
            what += "" if check else "; `ready` may name a better sign of this unit"
        text = ""
        if known.last:
            try:
                lines = (await self.logs(known.name, last=LAST_LINES)).decode(errors="replace").splitlines()
                text = "".join(f"\n  | {line[:400]}" for line in lines)
            except EngineError as error:
                text = f" ({error})"
        return f"cannot see {known.name} become ready: {what}" + (f"; its last output:{text}" if text else "")

    # --- stop, kill, pause -------------------------------------------------------------------------------------------

    async def stop(self, unit: str, timeout: float | None = None, signal: int | None = None) -> None:
        """Send the container's stop signal, and SIGKILL if that does not end it in time."""
        known = self._tracker.units[unit]
        life, last = known.life, known.last
        if life is None:
            if last and last.restarting:  # it would come up by itself
                await self._api.insist("POST", f"containers/{last.id}/stop", deadline=GONE)
            return
        if timeout is None:
            timeout = stop_timeout(self._spec.stop_timeout, last)
        life.ours = True
        if life.paused:
            await self.resume(unit)
        await self._signal(known, life, signal or (last.stop_signal if last else _SIGTERM))
        with anyio.move_on_after(timeout):
            await life.gone.wait()
        if not life.gone.is_set():
            await self._end(known, life)

    async def kill(self, unit: str, signal: int) -> None:
        """Signal the container's process; SIGKILL is waited for."""
        known, life = self._running(unit, f"send it signal {signal}")
        if signal == _SIGKILL:
            life.ours = True
            await self._end(known, life)
        elif not (signal in REQUESTS and await self._ask(life, signal)):
            if signal not in HARMLESS:
                known.sent[signal] += 1
            await self._signal(known, life, signal)

    async def _ask(self, life: Life, number: int) -> bool:
        """Send a signal that is not meant to end a container past its engine; return whether that could be done.

        An engine that was asked to signal it, with whatever, does not start it again by its restart policy, long after the run.
        """
        return await to_thread.run_sync(signalled, life.pid, life.container, number)

    async def _end(self, known: Unit, life: Life) -> None:
        await self._signal(known, life, _SIGKILL)
        with anyio.move_on_after(GONE):
            await life.gone.wait()
            return
        await self._tracker.compare(known, UNTOLD)  # its event may be lost
        if not life.gone.is_set():
            raise EngineError(
                f"cannot end {known.name}: SIGKILL had no effect on its container within {GONE:g} s; see `docker inspect`"
            )

    async def _signal(self, known: Unit, life: Life, number: int) -> None:
        if life.gone.is_set():
            return
        life.asked = True
        try:
            path = f"containers/{life.container}/kill"
            await self._api.call("POST", path, params={"signal": number}, deadline=GONE)
        except ApiError as error:
            if error.status in {_NOT_RUNNING, _NOT_FOUND}:  # it has ended in that moment: its event says how
                with anyio.move_on_after(GONE):
                    await life.gone.wait()
                return
            raise EngineError(f"cannot send signal {number} to {known.name}: {error}") from error

    async def pause(self, unit: str) -> None:
        """Freeze all processes of the container."""
        known, life = self._running(unit, "pause it")
        await self._switch(known, life, "pause")
        life.paused = True

    async def resume(self, unit: str) -> None:
        """Let them go on."""
        known, life = self._running(unit, "resume it")
        await self._switch(known, life, "unpause")
        life.paused = False

    async def _switch(self, known: Unit, life: Life, what: str) -> None:
        try:
            await self._api.insist("POST", f"containers/{life.container}/{what}", deadline=GONE)
        except ApiError as error:
            seen = await inspect(self._api, life.container)
            if seen is None or not seen.running or seen.paused is not (what == "pause"):
                raise EngineError(f"cannot {what} {known.name}: {error}") from error

    # --- output ------------------------------------------------------------------------------------------------------

    async def logs(self, unit: str, **part: Unpack[Part]) -> bytes:
        """Read a part of the container's log, the one that has a life if that is named; what an earlier one wrote may have gone with it."""
        known = self._tracker.units[unit]
        container = await self._container_of(known, part.get("incarnation"))
        up = known.life is not None and known.life.container == container.id
        wanted = Wanted(
            part.get("last"), part.get("since"), part.get("until"), part.get("stamped", False), not up
        )
        if wanted.last is None:  # times of ours; an exit's is the engine's already
            since, until = (
                None if at is None else self._api.theirs(at) for at in (wanted.since, wanted.until)
            )
            wanted = replace(wanted, since=since, until=until)
        return await read(self._api, container, wanted)

    async def _container_of(self, known: Unit, incarnation: str | None) -> Container:
        """Return the container that had a life: another one may have taken its place since, with a log of its own."""
        if (last := known.last) is None:
            raise EngineError(f"cannot read the log of {known.name}: it has no container")
        if (short := container_of(incarnation)) is None or last.id.startswith(short):
            return last
        there = next((one for one in known.containers if one.startswith(short)), None)
        if there is None or (seen := await inspect(self._api, there)) is None:
            raise EngineError(
                f"cannot read the log of {known.name}: its container {short} was removed, and its log with it"
            )
        return seen


_SIGKILL: Final = signal.SIGKILL
_SIGTERM: Final = signal.SIGTERM


def _patience(known: Unit, check: Ready | None) -> float:
    return check.timeout if check else max(HEALTHY, known.last.health_within if known.last else 0.0)


def stop_timeout(asked: float | None, container: Container | None) -> float:
    """Return the seconds that a container has to stop in order."""
    own = container.stop_timeout if container else None
    return asked or (STOP if own is None else own)
