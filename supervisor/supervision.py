"""Keeps soakd's own leaf tasks up, and says so when it cannot.

A leaf task that raises is journalled and started again after a short pause. One that raises more often than its intensity allows
ends the run inconclusive: a soak whose watchdog, load or scheduler is dead must not go on and pass. Long-lived resources are not
leaf tasks; they heal inside themselves.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.abc import TaskGroup

from supervisor.journal.base import Journal
from supervisor.journal.events import TaskCrashed
from supervisor.values import Intensity

log = structlog.get_logger("soakd.supervision")

PAUSE = 0.5
"""Seconds before a leaf task is started again: long enough not to spin, short against any watchdog's delay."""
INTENSITY = Intensity(5, 60.0)
"""More than five crashes a minute of one task is no accident (OTP's own default of 1 in 5 s is for millisecond restarts)."""


class GaveUp(Exception):  # noqa: N818  # it is OTP's word for it
    """A part of soakd crashed more often than its intensity allows."""


class Supervisor:
    """Starts leaf tasks in a task group and decides what their exceptions mean."""

    def __init__(
        self,
        group: TaskGroup,
        journal: Journal,
        give_up: Callable[[str], None],
        intensity: Intensity = INTENSITY,
    ) -> None:
        """`give_up` is called once, with the reason, when a task is beyond help; it ends the run."""
        self._group, self._journal, self._give_up, self._intensity = group, journal, give_up, intensity

    def keep(self, name: str, run: Callable[[], Awaitable[None]], over: anyio.Event | None = None) -> None:
        """Start a leaf task and keep it up until it returns by itself or the task group is cancelled.

        `over` is set when it has returned, or is beyond help.
        """
        self._group.start_soon(self._keep, name, run, over or anyio.Event(), name=name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]], over: anyio.Event) -> None:
        crashes: deque[float] = deque(maxlen=self._intensity.count + 1)
        while True:
            try:
                await run()
            except Exception as error:  # this is the place that decides
                crashes.append(now := time.monotonic())
                gave_up = self._intensity.exceeded(crashes, now)
                text = "".join(traceback.format_exception(error))[-4000:]
                self._journal.emit(TaskCrashed(task=name, error=what(error), traceback=text, gave_up=gave_up))
                log.exception("a part of soakd crashed", task=name, gave_up=gave_up)
                if gave_up:
                    over.set()
                    self._give_up(f"{name} crashed more than {self._intensity}: {what(error)}")
                    return
            else:
                over.set()
                return
            await anyio.sleep(PAUSE)


SHOWN = 3
"""Exceptions of a group that are told."""


def what(error: BaseException) -> str:
    """Return the class and the text of an exception; of a group, of the first ones in it that differ."""
    texts = list(dict.fromkeys(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(error)))
    more = [f"{len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; and ".join(texts[:SHOWN] + more)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or those in it if it is a group, at any depth."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@asynccontextmanager
async def nursery() -> AsyncGenerator[TaskGroup]:
    """Open a task group that ends its tasks with the body, and lets the body's exception out as it is, not in a group.

    A task's own exception still ends the body and comes out in a group: it is a bug.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            yield group
        except Exception as error:  # noqa: BLE001  # raised again below, outside the group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
