"""The watchdogs of a run: each unit has one task, which goes by what the soak file says at the time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from supervisor.supervision import Supervisor
from supervisor.watch.watchdog import WatchContext, Watchdog


class Kept:
    """Who is kept up by which watchdog. They may change while the units run."""

    def __init__(
        self, watched: Iterable[tuple[Watchdog, str]], context: WatchContext, supervisor: Supervisor
    ) -> None:
        self._context, self._supervisor = context, supervisor
        self._policies: Mapping[str, Watchdog] = {unit: policy for policy, unit in watched}
        for unit in self._policies:
            self._keep(unit)

    def adopt(self, watched: Iterable[tuple[Watchdog, str]]) -> None:
        """Keep these up from now on; units that came after the begin of the run are not the run's."""
        before = self._policies
        now = {unit: policy for policy, unit in watched if unit in self._context.fleet.ids}
        self._policies = now
        for unit, policy in now.items():
            if before.get(unit) != policy:
                self._context.follow(unit, policy)
            if unit not in before:
                self._keep(unit)
        for unit in before.keys() - now.keys():
            self._context.dismiss(unit)

    def _keep(self, unit: str) -> None:
        self._supervisor.keep(f"watchdog {unit}", partial(self._watch, unit))

    async def _watch(self, unit: str) -> None:
        while policy := self._policies.get(unit):
            await policy.watch(unit, self._context)  # it ends when it is dismissed
