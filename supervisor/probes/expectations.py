"""What is expected around the episodes of single faults (`expect:`), beside the steady state."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import anyio

from supervisor.journal.base import Journal
from supervisor.journal.events import Evidence, Reading
from supervisor.probes.base import Probe, View
from supervisor.probes.steady import POLL

When = Literal["before", "during", "recovered"]


class Expectations:
    """Looks when an episode asks, and writes down what it saw."""

    def __init__(
        self, expected: Mapping[str, Mapping[When, Sequence[Probe]]], view: View, journal: Journal
    ) -> None:
        """`expected` has the probes by fault and time."""
        self._expected, self._view, self._journal = expected, view, journal
        self._since: dict[str, float] = {}
        """Wall seconds at which open episodes began, by fault: it has one at a time."""

    def expect(self, expected: Mapping[str, Mapping[When, Sequence[Probe]]]) -> None:
        """Expect this from now on."""
        self._expected = expected

    async def meet(
        self, fault: str, episode: str, when: When, patience: float = 0.0, over: anyio.Event | None = None
    ) -> tuple[str, ...]:
        """Look until each expectation holds, for as long as it may take or `patience` lasts; return the titles of those that do not.

        Once `over` is set each is looked at for the last time.
        """
        probes = self._expected.get(fault, {}).get(when, ())
        if when == "before":
            self._since[fault] = time.time()
        if not probes:
            return ()
        view, readings = replace(self._view, since=self._since.get(fault)), dict[int, Reading]()

        async def look(index: int, probe: Probe) -> None:
            began, last = time.monotonic(), False
            while not last:
                last = over is not None and over.is_set()
                reading = await probe.look(view)
                took = time.monotonic() - began
                readings[index] = reading.model_copy(update={"took": took})
                if reading.ok or took >= max(probe.within, patience):
                    return
                await anyio.sleep(POLL)

        try:
            async with anyio.create_task_group() as group:
                for index, probe in enumerate(probes):
                    group.start_soon(look, index, probe)
        finally:
            seen = tuple(readings[index] for index in sorted(readings))
            if seen:
                self._journal.emit(Evidence(episode=episode, when=when, readings=seen))
        return tuple(reading.probe for reading in seen if not reading.ok)
