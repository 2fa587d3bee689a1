"""How much may be disturbed at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Fleet
from supervisor.engines.member import OUTSIDE
from supervisor.faults.base import Aim, Fault
from supervisor.kinds import Strict


class Limits(Strict):
    """How much may be disturbed at the same time. Whatever would be too much waits."""

    episodes: int | None = Field(None, ge=1, description="At most so many episodes at the same time.")
    units_down: int | None = Field(
        None, ge=1, description="At most so many units down at the same time, those that crashed included."
    )
    broker: Literal["minority", "any"] = Field(
        "minority",
        description="minority: faults that meet never take down more than a minority of the broker's nodes. One whose own units "
        "are more than that was asked for, and waits until it is alone.",
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """What an episode would disturb."""

    units: frozenset[str] = frozenset()
    down: int = 0
    """How many of them are down at the same time."""
    nodes: int = 0
    """How many nodes of the broker are among those, at most."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits, and what they are measured by."""

    limits: Limits
    nodes: frozenset[str] = frozenset()
    """The units that are servers of the broker."""

    def demand(self, fault: Fault, aim: Aim) -> Demand:
        """Return what an episode of a fault that aims there would disturb."""
        units = aim.units
        down = len(units) if fault.at_once is None else min(fault.at_once, len(units))
        return Demand(units if fault.alone else frozenset(), down, min(down, len(units & self.nodes)))

    def never(self, demand: Demand) -> str:
        """Say why an episode would be too much even if it were alone; empty if it would not."""
        most = self.limits.units_down
        if most is not None and demand.down > most:
            return f"it would take down {demand.down} units at once, and limits allow {most}"
        return ""

    def fits(self, demand: Demand, others: Iterable[Demand], gone: Iterable[str]) -> bool:
        """Say whether an episode may be beside others. `gone` are the units that are down by no episode."""
        others, gone = list(others), frozenset(gone)
        limits = self.limits
        if limits.episodes is not None and len(others) >= limits.episodes:
            return False
        down = sum(other.down for other in others) + len(gone)
        if limits.units_down is not None and demand.down and down + demand.down > limits.units_down:
            return False
        if limits.broker == "any" or not demand.nodes:
            return True
        nodes = sum(other.nodes for other in others) + len(gone & self.nodes)
        return nodes == 0 or nodes + demand.nodes <= (len(self.nodes) - 1) // 2


def down(fleet: Fleet) -> list[str]:
    """Return the units that are down or frozen; not those that somebody outside has left down, nor those that have ended as they may."""
    known = {unit: fleet.status(unit) for unit in fleet.ids}
    return [
        unit
        for unit, status in known.items()
        if status.observed.state is not UnitState.UP and status.holder != OUTSIDE and not status.done
    ]
