"""When and why a soak ends, how much time is left for its end, and the signals that say so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import structlog

from supervisor.journal.events import EndReason
from supervisor.supervision import nursery

LEFT_AT_ONCE: Final = 130
"""Exit code of a daemon that was told twice; not one of a verdict's, so the guardian knows it has to heal."""
PATIENT: Final = 3600.0
"""Seconds for the end of a soak that nobody is in a hurry to stop: each step has a shorter limit of its own."""
_log: Final = structlog.get_logger("soakd")


class Interrupted(Exception):  # noqa: N818  # it is no error to be stopped
    """The soak ended while it was still starting."""


class End:
    """The end of a soak: set once, the first reason wins; a signal also sets the clock running (`grace`)."""

    def __init__(self, grace: float) -> None:
        self.reason: EndReason | None = None
        self.detail = ""
        self._grace = grace
        self._event = anyio.Event()
        self._hurry = anyio.Event()
        self._reload = anyio.Event()
        self._deadline: float | None = None

    def __call__(self, reason: EndReason, detail: str = "", *, hurry: bool = False) -> None:
        """End the soak. `hurry`: everything that follows has to fit into `grace`."""
        if hurry and self._deadline is None:
            self._deadline = time.monotonic() + self._grace
            self._hurry.set()
        if self.reason is None:
            self.reason, self.detail = reason, detail
            self._event.set()

    def allow(self, grace: float) -> None:
        """Let the end take so many seconds after a signal; one that came already has set its clock."""
        self._grace = grace

    def ask_reload(self) -> None:
        """Somebody wants the soak file read again."""
        self._reload.set()

    async def reload_asked(self) -> None:
        """Wait until somebody wants the soak file read again, since the last time."""
        await self._reload.wait()
        self._reload = anyio.Event()

    async def wait(self) -> None:
        """Wait for the end."""
        await self._event.wait()

    def budget(self, wanted: float, *, keep: float = 0.0) -> float:
        """Return the seconds a step of the end may take: what it wants, or what is left of the grace less `keep` for later steps."""
        left = PATIENT if self._deadline is None else self._deadline - time.monotonic()
        return max(min(wanted, left - keep), 0.1)

    async def spend(
        self, wanted: float, step: Callable[[float], Awaitable[object]], *, keep: float = 0.0
    ) -> None:
        """Take a step of the end, which is told how many seconds it has; again, with what is left, if a signal cuts it short."""

        async def watch() -> None:
            await self._hurry.wait()
            group.cancel_scope.cancel()

        patient, done = self._deadline is None, False
        if patient:
            async with nursery() as group:
                group.start_soon(watch, name="hurry")
                await step(wanted)
                done = True
        if not done:
            await step(self.budget(wanted, keep=keep))

    @asynccontextmanager
    async def interrupts(self) -> AsyncIterator[None]:
        """Cancel the body when the end comes and raise Interrupted in its stead."""

        async def watch() -> None:
            await self.wait()
            group.cancel_scope.cancel()

        async with nursery() as group:
            group.start_soon(watch, name="interrupt")
            yield
        if self.reason is not None:
            raise Interrupted


@asynccontextmanager
async def signals(end: End) -> AsyncGenerator[None]:
    """Let SIGTERM and SIGINT end the soak in order; a second one leaves at once, and the guardian heals.

    This is the outermost lifetime: a receiver inside a scope that the first signal cancels would be gone when the second
    one comes. SIGHUP has the soak file read again; a lost terminal ends nothing, and the guardian keeps it to itself.
    """
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:

        async def receive() -> None:
            told = False
            async for number in received:
                if number == signal.SIGHUP:
                    end.ask_reload()
                    continue
                if told:
                    os._exit(LEFT_AT_ONCE)
                told = True
                _log.warning(
                    "stopping in order; a second signal leaves at once", signal=signal.Signals(number).name
                )
                end(EndReason.SIGNAL, signal.Signals(number).name, hurry=True)

        async with nursery() as group:
            group.start_soon(receive, name="signals")
            yield


class Guardian:
    """The daemon's side of the pipe that its guardian holds: when it closes, nobody would heal after us."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._gone = descriptor is None

    def alive(self) -> bool:
        """Say whether a guardian is there; without one nothing is injected."""
        return not self._gone

    async def watch(self, end: End) -> None:
        """End the soak in order when the guardian is gone. A leaf task."""
        if self._descriptor is None:
            return
        await anyio.wait_readable(self._descriptor)
        self._gone = True
        _log.error("the guardian is gone: nobody would heal after us, so the soak ends in order")
        end(EndReason.GUARDIAN_GONE, "the guardian was killed", hurry=True)
