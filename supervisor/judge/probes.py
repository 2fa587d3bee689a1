"""What the probes saw over a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.journal.events import Reading
from supervisor.judge.counting import NAMES, slot


@dataclass(slots=True)
class ProbeTotals:
    """One expectation over the whole run."""

    title: str
    looked: bool = False
    """True: at least once the probe saw something, as it should be or not."""
    losses: int = 0
    """How often the expectation ceased to hold, outside the looks of episodes."""
    last: Reading | None = None

    def read(self, reading: Reading) -> None:
        """Take a reading; one without a value and not ok is a look that failed."""
        self.looked = self.looked or reading.ok or reading.value is not None
        self.last = reading


class Probes(dict[str, ProbeTotals]):
    """All of them, by their titles."""

    def expect(self, titles: Iterable[str]) -> None:
        """Take note of probes that will look."""
        for title in titles:
            self.setdefault(title, ProbeTotals(title))

    def read(self, reading: Reading) -> ProbeTotals:
        """Take a reading, also of a probe that the run did not announce."""
        key = slot(self, reading.probe, NAMES)
        self.expect([key])
        self[key].read(reading)
        return self[key]
