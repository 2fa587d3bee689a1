"""The fault that kills units again and again."""

from __future__ import annotations

import signal as signals
from typing import ClassVar, Final, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.base import EngineError
from supervisor.engines.fleet import Fleet
from supervisor.engines.selectors import Selector
from supervisor.faults.base import World
from supervisor.faults.kill import start_unwatched
from supervisor.faults.units import AtOnce, is_up, ours, still, together
from supervisor.journal.events import FaultIntent
from supervisor.values import Duration, format_duration

LOOK: Final = 0.05
"""Seconds from one look whether a unit is up again to the next."""


class CrashLoop(AtOnce):
    """Kill units as soon as they have run for a moment, several times, as a bad release or a poisoned message does.

    Their watchdogs bring them back in between; one that no watchdog keeps up is started here. The ends are the episode's and no
    crashes: they count towards no intensity.
    """

    key: ClassVar[str] = "crash_loop"
    over: ClassVar[str] = "is over with its last crash"
    in_targets: ClassVar[bool] = False
    lingers: ClassVar[bool] = True

    crash_loop: Selector = Field(description="The units to kill.")
    crashes: int = Field(5, ge=2, description="How often each of them is killed.")
    uptime: Duration = Field(1.0, description="How long it runs in between.")

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if (least := (self.crashes - 1) * self.uptime) >= self.inject_timeout:
            raise ValueError(
                f"inject_timeout: {self.crashes} crashes take more than {format_duration(least)}, "
                f"so they do not fit into {format_duration(self.inject_timeout)}"
            )
        return self

    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Kill each unit, wait until it runs again, and so on; each at its own pace."""
        fleet, by = world.fleet, intent.episode

        async def crash(unit: str) -> None:
            for left in reversed(range(self.crashes)):
                killed = fleet.status(unit).observed.incarnation
                await _kill(fleet, unit, by)
                if left:
                    await _up_again(fleet, unit, by, killed)
                    await anyio.sleep(self.uptime)

        await together([target.unit for target in intent.targets], crash)

    async def undo(self, world: World, intent: FaultIntent) -> None:
        """Start what is down and has nobody who would."""
        # After a death: whichever life is there, the engine may have been asked to kill it, and not have come to that.
        told = ours(world, intent) if world.recovering else ()
        with still("down", "start them"):
            await start_unwatched(world, intent, told)


async def _kill(fleet: Fleet, unit: str, by: str) -> None:
    try:
        await fleet.kill(unit, by=by, signal=signals.SIGKILL)
    except EngineError:
        if is_up(fleet, unit):
            raise  # else it went by itself, which is as good


async def _up_again(fleet: Fleet, unit: str, by: str, killed: str | None) -> None:
    """Wait until a life after the killed one is up, of whose end the fleet may not know yet; `inject_timeout` is the deadline."""
    if not fleet.is_watched(unit):
        await fleet.start(unit, by=by)
    while not is_up(fleet, unit) or fleet.status(unit).observed.incarnation == killed:  # noqa: ASYNC110  # nobody tells of a start
        await anyio.sleep(LOOK)
