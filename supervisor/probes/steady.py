"""The steady state: the expectations that hold when no fault is active, and whether they hold now."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

import anyio

from supervisor.engines.selectors import Selector
from supervisor.journal.base import Journal
from supervisor.journal.events import ProbeChanged, Reading, SteadyChanged
from supervisor.probes.base import Probe, View
from supervisor.probes.broker import BrokerAnswers, Canary
from supervisor.probes.units import Unit, UnitLook

POLL: Final = 0.2
"""Seconds from one round of looks to the next while somebody waits: short against any recovery that is worth a threshold."""
EVERY: Final = 5.0
"""Seconds from one round to the next while nobody waits."""


def default_probes(units: Iterable[str], *, broker: bool) -> tuple[Probe, ...]:
    """Return the steady state of a soak file that says nothing: each unit up and, with a broker, the canary answered."""
    up: list[Probe] = [Unit(unit=UnitLook(unit=Selector(of=(unit,)))) for unit in units]
    return (*up, *([BrokerAnswers(broker=Canary())] if broker else []))


async def look_all(probes: Sequence[Probe], view: View) -> tuple[Reading, ...]:
    """Give each probe the time it has (`within`) until its expectation holds; return the last reading of each, in order.

    `took` of a reading counts from the call: for one that holds it is how long that took.
    """
    readings: dict[int, Reading] = {}
    began = time.monotonic()

    async def look(index: int, probe: Probe) -> None:
        while True:
            reading = await probe.look(view)
            took = time.monotonic() - began
            readings[index] = reading.model_copy(update={"took": took})
            if reading.ok or took >= probe.within:
                return
            await anyio.sleep(min(POLL, probe.within - took))

    async with anyio.create_task_group() as group:
        for index, probe in enumerate(probes):
            group.start_soon(look, index, probe)
    return tuple(readings[index] for index in range(len(probes)))


class SteadyState:
    """Looks at the system all along, and waits for it to be steady when asked."""

    def __init__(self, probes: Sequence[Probe], view: View, journal: Journal) -> None:
        self.readings: dict[str, Reading] = {}
        """The last reading of each probe, by its title."""
        self.view = view
        self._probes, self._journal = {probe.title: probe for probe in probes}, journal
        self._ok_at: dict[str, float] = {}
        """Monotonic seconds at which each probe was last ok; of its first look as long as it never was."""
        self._known: dict[str, bool] = {}
        """Whether each expectation holds, as far as the journal was told."""
        self._steady: bool | None = None

    def expect(self, probes: Sequence[Probe]) -> None:
        """Expect this from now on; what is expected as before is remembered."""
        self._probes = {probe.title: probe for probe in probes}
        for known in (self.readings, self._ok_at, self._known):
            for title in known.keys() - self._probes.keys():
                del known[title]
        if self._known:
            self._tell()

    async def wait(self, timeout: float) -> tuple[bool, tuple[str, ...]]:
        """Wait up to `timeout` seconds until one round of looks finds every probe ok.

        Returns whether that was so, and else the titles of the probes that were not ok when they were last seen.
        """
        last: dict[str, Reading] = {}
        current: dict[str, Reading] = {}
        with anyio.move_on_after(timeout):
            while True:
                await self._look(current := {})
                last |= current
                if all(reading.ok for reading in current.values()):
                    return True, ()
                await anyio.sleep(POLL)
        last |= current
        failing = tuple(title for title in self._probes if title not in last or not last[title].ok)
        return False, failing or tuple(title for title in self._probes if title not in current)

    async def run(self) -> None:
        """Look every few seconds, for as long as the run lives. A leaf task."""
        while True:
            await self._look({})
            await anyio.sleep(EVERY)

    async def look(self) -> tuple[Reading, ...]:
        """Look once, now, at everything; return what was seen, in the order of the probes."""
        readings: dict[str, Reading] = {}
        await self._look(readings)
        return tuple(readings.values())

    async def _look(self, readings: dict[str, Reading]) -> None:
        """Look once through all probes at the same time; readings are there as they come, and changes in the journal."""

        async def look(title: str, probe: Probe) -> None:
            readings[title] = self.readings[title] = reading = await probe.look(self.view)
            self._note(probe, reading)

        async with anyio.create_task_group() as group:
            for title, probe in self._probes.items():
                group.start_soon(look, title, probe)

    def _note(self, probe: Probe, reading: Reading) -> None:
        """Journal an expectation that begins to hold, or that has not held for as long as it may take (`within`)."""
        title, now = reading.probe, time.monotonic()
        if reading.ok:
            self._ok_at[title] = now
        elif now - self._ok_at.setdefault(title, now) < probe.within:
            return
        if self._known.get(title) is reading.ok:
            return
        self._known[title] = reading.ok
        self._journal.emit(ProbeChanged(reading=reading))
        self._tell()

    def _tell(self) -> None:
        """Journal a change of the whole."""
        failing = tuple(title for title, ok in self._known.items() if not ok)
        steady = not failing and len(self._known) == len(self._probes)
        if self._steady is not steady and (failing or steady):
            self._steady = steady
            self._journal.emit(SteadyChanged(holds=steady, failing=failing))
