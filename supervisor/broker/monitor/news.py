"""Tells the journal what changed on the broker, so that a load which creates a thousand streams a minute does not flood it.

The first change of a sort is told at once, what follows within 10 s together, as a count with a few examples.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from supervisor.journal.events import ConsumerChanged, EntriesChanged, Event, LeaderChanged, StreamChanged

APART: Final = 10.0
"""Seconds between two events of one sort."""
SAMPLES: Final = 10
SAMPLE: Final = 120
"""Characters of an example: keys and names can be long."""

Group = Literal["stream", "consumer", "meta"]


@dataclass(slots=True)
class _Held:
    since: float
    counts: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    detail: str = ""


class News:
    """Collects changes and passes them on as events, few enough to keep for ever."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._held: dict[tuple[str, ...], _Held] = {}
        self._told: dict[tuple[str, ...], float] = {}

    def stream(self, change: str, name: str, detail: str = "") -> None:
        """Note a change of a stream, as `StreamChanged` has them."""
        self._note(("stream", change), change, name, detail)

    def consumer(self, change: str, name: str, detail: str = "") -> None:
        """Note a change of a consumer, as `ConsumerChanged` has them."""
        self._note(("consumer", change), change, name, detail)

    def leader(self, change: str, of: Group, name: str) -> None:
        """Note a change of a leader, as `LeaderChanged` has them."""
        self._note(("leader", change, of), change, name)

    def entry(self, bucket: str, change: str, key: str) -> None:
        """Note a change of an entry, by the name `EntriesChanged` has for it."""
        self._note(("entries", bucket), change, key)

    def flush(self, *, everything: bool = False) -> None:
        """Pass on what is due by now, or everything that is held."""
        now = self._clock()
        due = [k for k in self._held if everything or now - self._told.get(k, float("-inf")) >= APART]
        for key in due:
            held = self._held.pop(key)
            self._told[key] = now
            self._emit(_event(key, held, round(now - held.since, 3)))

    def _note(self, key: tuple[str, ...], change: str, sample: str, detail: str = "") -> None:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(self._clock())
        held.counts[change] += 1
        held.detail = held.detail or detail
        if len(held.samples) < SAMPLES:
            held.samples.append(sample[:SAMPLE])


def _event(key: tuple[str, ...], held: _Held, over: float) -> Event:
    samples, count = tuple(held.samples), held.counts.total()
    common: dict[str, Any] = {"over": over}
    match key:
        case ("stream", change):
            common |= {"change": change, "count": count, "detail": held.detail}
            return StreamChanged(streams=samples, **common)
        case ("consumer", change):
            common |= {"change": change, "count": count, "detail": held.detail}
            return ConsumerChanged(consumers=samples, **common)
        case ("leader", change, of):
            return LeaderChanged(change=change, of=of, count=count, groups=samples, **common)
        case (_, bucket):
            return EntriesChanged(bucket=bucket, samples=samples, **held.counts, **common)
    raise ValueError(f"no event tells of {key}")
