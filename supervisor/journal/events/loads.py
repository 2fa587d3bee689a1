"""Loads: windows of counted operations."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, Field

from supervisor.journal.events.base import PART, Event

CUT_OFF: Final = "cut off at the end"
"""The error class of operations that had not finished when their time at the end of the load was over: no window counts them under
another name. They are indeterminate, and what explains them is that end."""


class Sample(BaseModel):
    """One failed or indeterminate operation, kept as an example."""

    model_config = PART

    at: float
    """Intended start, monotonic seconds."""
    name: str = ""
    outcome: Literal["failed", "indeterminate"]
    error: str
    """Error class."""
    detail: str = ""
    took: float = 0.0
    episodes: tuple[str, ...] = ()
    """The marks of the episodes that it overlapped; empty: nothing explains it."""


class Slice(BaseModel):
    """The operations of a window that the same set of episodes overlapped."""

    model_config = PART

    episodes: tuple[str, ...] = ()
    """Sorted `id:stage` marks; empty: no episode."""
    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    dropped: int = 0
    """Never started, while just these episodes were open."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Failed and indeterminate operations by error class, the number of classes capped, the rest under `other`."""
    first_ok: float | None = None
    """Monotonic seconds at which the first ok operation ended; None: there was none, or nobody noted it."""
    first_failure: float | None = None
    """The same of the first failed or indeterminate operation."""
    slowest_failure: float = 0.0
    """Seconds that the longest failed or indeterminate operation took, from its intended start."""
    slowest_error: str = ""
    """Its error class."""
    response: tuple[int | float, ...] = ()
    """`histogram.Histogram.pack`: from the intended start to the end of ok operations."""
    service: tuple[int | float, ...] = ()
    """The same from the actual start. Empty where it equals `response` (a closed loop)."""


class LoadWindow(Event, kind="load.window", folds=True):
    """What a load did between two instants (monotonic seconds of operations' ends)."""

    load: str
    start: float
    end: float
    windows: int = 1
    """How many windows were folded into this one, above the byte budget."""
    scheduled: int = 0
    started: int = 0
    late: int = 0
    """Started later than the executor's tolerance."""
    dropped: int = 0
    """Never started: no free slot."""
    slices: tuple[Slice, ...] = ()
    samples: tuple[Sample, ...] = ()
    lag: tuple[int | float, ...] = ()
    """`histogram.Histogram.pack` of our own lag: by how much operations of an open loop began after their intended time."""
    counters: dict[str, float] = Field(default_factory=dict)
    """What a kind counts besides operations: lost, duplicates, tests skipped."""


class LoadBroken(Event, kind="load.broken"):
    """A load, or one of the processes that share it, ended otherwise than it should."""

    load: str
    process: str = ""
    """Which one, `process 1 of 3`; empty: the load as a whole."""
    how: Literal["raised", "killed", "cut short", "unworkable"]
    """It raised; its process ended without a word; it had not returned when its time at the end was over; or it cannot work by its own
    settings, and was not started again."""
    error: str


class LoadStopped(Event, kind="load.stopped"):
    """A load ended in order; `open` operations were cut off: as a rule windows have told of them, as `CUT_OFF`; what they have not, counts here."""

    load: str
    open: int = 0
