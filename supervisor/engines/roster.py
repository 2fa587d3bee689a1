"""Which units there are, and which of them a selector means at the moment of asking."""

from __future__ import annotations

import difflib
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping

from supervisor.engines.base import EngineError, Observed, Units, UnitState
from supervisor.engines.member import Member
from supervisor.engines.selectors import Selector

Leaders = Callable[[str], Awaitable[str | None]]
"""Finds the unit that leads a stream."""


class Roster:
    """All units, over all engines, in the order of the soak file. A unit is named by its id, or as `engine/name`."""

    def __init__(
        self, engines: Mapping[str, Units], names: Mapping[str, tuple[str, str]], leaders: Leaders | None
    ) -> None:
        """`names` gives for each unit id its engine and its name there."""
        self.engines, self._leaders = dict(engines), leaders
        self._units = {unit: Member(unit, engines[engine], name) for unit, (engine, name) in names.items()}
        self._ids = {place: unit for unit, place in names.items()}

    async def join(self, name: str, engine: Units, units: Mapping[str, str]) -> None:
        """Take in one more engine, with its units: id -> name there. They have been looked at when they can be found here."""
        seen = await engine.observe()
        self.engines[name] = engine
        for unit, own in units.items():
            self._units[unit] = member = Member(unit, engine, own)
            member.observed = seen.get(own, Observed(UnitState.ABSENT))
            self._ids[name, own] = unit

    def __iter__(self) -> Iterator[str]:
        """Give the ids of all units."""
        return iter(self._units)

    def __getitem__(self, unit: str) -> Member:
        """Return a unit by its id."""
        return self._units[unit]

    def at(self, engine: str, name: str) -> Member | None:
        """Return the unit that an engine has under a name; None if the soak file names none such."""
        unit = self._ids.get((engine, name))
        return self._units[unit] if unit else None

    def id_of(self, unit: str) -> str:
        """Return the id for either way to name a unit, or what was asked for if there is no such unit."""
        engine, _, name = unit.partition("/")  # this always says who is meant, needed or not
        return self._ids.get((engine, name), unit)

    def find(self, unit: str) -> Member:
        """Return the unit that is named in either way; EngineError if there is none."""
        if found := self._units.get(self.id_of(unit)):
            return found
        near = difflib.get_close_matches(unit, self._units, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._units) or 'none'}"
        raise EngineError(f"cannot find the unit {unit}: {hint}")

    # --- who is meant ------------------------------------------------------------------------------------------------

    async def resolve(
        self, selector: Selector, rng: random.Random, *, targets: bool = False
    ) -> tuple[str, ...]:
        """Return the units a selector means now (see `Fleet.resolve`)."""
        await self.look_at_new()
        if selector.leader_of:
            candidates = [await self._leader(selector.leader_of)]
        elif selector.label:
            candidates = self._labelled(selector.label, unprotected=targets)
        else:
            candidates = [self.find(unit) for unit in selector.of]
        if targets:
            for member in candidates:
                member.refuse_protected("choose it")
        try:
            drawn = selector.draw([member.id for member in candidates], rng)
        except ValueError as error:
            raise EngineError(f"cannot choose {selector}: {error}") from error
        if not drawn:
            raise EngineError(
                f"cannot choose {selector}: no unit fits, see `soakd check` for the units there are"
            )
        return drawn

    async def _leader(self, stream: str) -> Member:
        leader = await self._leaders(stream) if self._leaders else None
        if leader is None:
            raise EngineError(
                f"cannot choose the leader of {stream}: it has none now, or `broker: nodes:` does not say which "
                "unit its server is"
            )
        return self.find(leader)

    def _labelled(self, label: str, *, unprotected: bool) -> list[Member]:
        key, _, value = label.partition("=")
        found = [member for member in self._units.values() if member.labels.get(key) == value]
        return [member for member in found if not (unprotected and member.is_protected)]

    async def look_at_new(self) -> None:
        """Look at the units that nobody has looked at: their labels are not known before."""
        for engine in self.engines.values():
            new = [unit for unit in self._units.values() if unit.engine is engine and unit.observed is None]
            if new:
                seen = await engine.observe()
                for unit in new:
                    unit.observed = unit.observed or seen.get(unit.name, Observed(UnitState.ABSENT))
