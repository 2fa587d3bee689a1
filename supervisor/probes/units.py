"""The probe of units: up, and not restarted too often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, ClassVar, Final

import anyio
from pydantic import BeforeValidator, Field

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Fleet
from supervisor.engines.selectors import Selector
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Tolerance, View

PATIENCE: Final = 1.0
"""Seconds that a look waits for a readiness check; one that says yes does so in milliseconds."""


class UnitLook(Strict):
    """What is expected of units."""

    unit: Selector = Field(description="The units; each of them must be as expected.")
    up: bool = Field(True, description="Whether they are up, and ready where they have a readiness check.")
    restarts: Tolerance | None = Field(
        None, description="How often each was restarted by its watchdog since the run began."
    )


def _lift(written: object) -> object:
    """A name or a list of names alone means: up."""
    return {"unit": written} if isinstance(written, str | list) else written


class Unit(Probe):
    """Units are up, or down, and were not restarted too often."""

    key: ClassVar[str] = "unit"

    unit: Annotated[UnitLook, BeforeValidator(_lift, json_schema_input_type=str | list[str] | UnitLook)]

    @property
    def title(self) -> str:
        """The units, and what is expected of them."""
        wanted = self.unit
        restarts = f", restarts {wanted.restarts}" if wanted.restarts else ""
        return f"unit {wanted.unit} {'up' if wanted.up else 'down'}{restarts}"

    async def see(self, view: View) -> Seen:
        """Take what the fleet knows. The value is the most restarts if those are asked for, else how many units are up."""
        units = await resolve(view.fleet, self.unit.unit)
        up = [unit for unit in units if view.fleet.status(unit).observed.state is UnitState.UP]
        wrong = [_describe(view.fleet, unit) for unit in units if (unit in up) != self.unit.up]
        if self.unit.up:
            wrong += [f"{unit} is not ready" for unit in await _not_ready(view, up)]
        if (wanted := self.unit.restarts) is None:
            return Seen(not wrong, len(up), "; ".join(wrong))
        if view.restarts is None:
            raise CannotSee("restarts are not counted outside a run")
        restarts = {unit: view.restarts(unit) for unit in units}
        wrong += [
            f"{unit} was restarted {count} times"
            for unit, count in restarts.items()
            if not wanted.holds(count)
        ]
        return Seen(not wrong, max(restarts.values()), "; ".join(wrong))


async def resolve(fleet: Fleet, selector: Selector) -> tuple[str, ...]:
    """Return the units a probe means; CannotSee if there are none. A `pick` draws the same ones at every look."""
    try:
        return await fleet.resolve(selector, random.Random(0))  # noqa: S311  # not secret
    except EngineError as error:
        raise CannotSee(str(error)) from error


async def _not_ready(view: View, units: Sequence[str]) -> list[str]:
    """Return those of some units that run whose readiness check does not say yes within `PATIENCE`."""
    running = {unit: view.fleet.status(unit).observed.incarnation or "" for unit in units}
    asked = [unit for unit in units if view.ready.get(unit) != running[unit]]

    async def ask(unit: str) -> None:
        with suppress(EngineError), anyio.move_on_after(PATIENCE):
            await view.fleet.wait_ready(unit)
            view.ready[unit] = running[unit]

    if asked:
        async with anyio.create_task_group() as group:
            for unit in asked:
                group.start_soon(ask, unit)
    return [unit for unit in asked if view.ready.get(unit) != running[unit]]


def _describe(fleet: Fleet, unit: str) -> str:
    status = fleet.status(unit)
    holder = f", held {status.desired} by {status.holder}" if status.holder else ""
    return f"{unit} is {status.observed.state}{holder}"
