"""How fast a load goes, as the soak file says it: the keys that all loads of single operations share."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from supervisor.kinds import Strict
from supervisor.loads import arrivals
from supervisor.loads.base import Book, Load, LoadContext
from supervisor.values import Duration, Rate

PACES: Final = ("rate", "ramp", "poisson", "between", "burst", "workers")
SPARE: Final = 1000
"""Operations in flight at most, unless the soak file says otherwise."""

_Length = Annotated[Duration, Field(gt=0)]


def _or_none(written: object, read: ValidatorFunctionWrapHandler) -> object:
    return 0.0 if isinstance(written, str) and _NO_RATE.fullmatch(written) else read(written)


_NO_RATE: Final = re.compile(r"\s*0+(\.0+)?\s*/\s*(\d\S*|ms|s|m|h|d)\s*")
_RateOrNone = Annotated[Rate, WrapValidator(_or_none)]
"""A rate, or 0/s."""


class RampStage(Strict):
    """A stage of a ramp."""

    to: _RateOrNone = Field(description="The rate at the end of the stage; it changes evenly until then.")
    seconds: _Length = Field(alias="for", description="How long the stage takes.")


class WorkerStage(Strict):
    """A stage of workers."""

    workers: int = Field(ge=0, le=10_000, description="How many work at the same time.")
    seconds: _Length = Field(alias="for", description="How long the stage takes.")


class Burst(Strict):
    """Operations at the same instant."""

    size: int = Field(ge=1, le=100_000, description="How many begin together.")
    every: _Length = Field(description="Time from one burst to the next.")


class Paced(Load):
    """A load of single operations. Exactly one key says when they come."""

    rate: Rate | None = Field(None, description="So many a second, evenly.")
    ramp: tuple[RampStage, ...] = Field(
        (), description="A rate that begins at 0 and changes evenly, stage by stage; the last one stays."
    )
    poisson: Rate | None = Field(None, description="So many a second on average, independent of each other.")
    between: tuple[Duration, Duration] | None = Field(
        None, description="Shortest and longest time from one operation to the next, drawn evenly."
    )
    burst: Burst | None = Field(None, description="Many at the same instant, again and again.")
    workers: Annotated[int, Field(ge=1, le=10_000)] | tuple[WorkerStage, ...] | None = Field(
        None,
        description="So many do one operation after the other, each as soon as the last one ended; or stages of that, "
        "the last of which stays.",
    )
    in_flight: int = Field(
        SPARE,
        ge=1,
        le=100_000,
        description="Operations under way at the same time, at most; one that is due beyond it is dropped and counted.",
    )

    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the operations, for more than one core can carry; each does every so many-th.",
    )

    shareable: ClassVar[bool] = False
    """Whether several processes may do its operations: those of one must not depend on those of another."""
    alone: ClassVar[str] = (
        "this load runs in one process, since its class does not say shareable = True: that its operations do not depend "
        "on each other, whichever process does them (context.process of context.processes)"
    )
    """Why they may not, and what to do instead."""

    def book(self, context: LoadContext) -> Book | None:  # noqa: ARG002  # for kinds that have one
        """Return what puts together what several processes see, if it takes all of that to know what is wrong; a new one each time."""
        return None

    @model_validator(mode="after")
    def _can_be_shared(self) -> Self:
        if self.processes > 1 and not self.shareable:
            raise ValueError(f"processes: {self.alone}")
        if self.processes > 1 and isinstance(self.workers, int) and self.workers < self.processes:
            raise ValueError(f"processes: {self.workers} workers are too few for {self.processes} processes")
        if self.burst and self.burst.size < self.processes:
            raise ValueError(f"burst: {self.burst.size} at once are too few for {self.processes} processes")
        if self.in_flight < self.processes:
            raise ValueError(
                f"in_flight: {self.in_flight} are too few for {self.processes} processes; raise it"
            )
        return self

    @model_validator(mode="after")
    def _one_pace(self) -> Self:
        if len(found := [name for name in PACES if getattr(self, name)]) != 1:
            seen = " and ".join(found) or "none of them"
            raise ValueError(f"expected one of {', '.join(PACES)} to say when operations come, found {seen}")
        if self.ramp and not any(stage.to for stage in self.ramp):
            raise ValueError("ramp: expected a stage that leads to a rate of more than 0")
        if isinstance(self.workers, tuple) and not any(stage.workers for stage in self.workers):
            raise ValueError("workers: expected a stage with at least 1, for nobody would ever do anything")
        if self.between and not 0 < self.between[1] >= self.between[0]:
            raise ValueError("between: expected the shortest time and then the longest, more than 0")
        if self.burst and self.burst.size > self.in_flight:
            raise ValueError(
                f"burst: {self.burst.size} at once never fit into in_flight: {self.in_flight}; raise it"
            )
        return self

    def part(self, whole: int, context: LoadContext) -> int:
        """Return this process's part of a number of things that all processes have together, at least 1."""
        return max(_part(whole, context.process, context.processes), 1)

    def share(self, whole: int, context: LoadContext) -> int:
        """Return the same where it may be nothing."""
        return _part(whole, context.process, context.processes)

    def room(self, process: int = 0, of: int = 1) -> int:
        """Return how many operations may be under way in one of so many processes."""
        return _part(self.in_flight, process, of)

    def crew(self, process: int = 0, of: int = 1) -> tuple[arrivals.Crew, ...]:
        """Return the stages of a closed loop in one of so many processes; empty for an open loop."""
        stages = (
            [arrivals.Crew(self.workers, 0.0)]
            if isinstance(self.workers, int)
            else [arrivals.Crew(stage.workers, stage.seconds) for stage in self.workers or ()]
        )
        return tuple(arrivals.Crew(_part(workers, process, of), seconds) for workers, seconds in stages)

    def due(
        self,
        since: float,
        seed: str,
        process: int = 0,
        of: int = 1,
        *,
        first: float | None = None,
        done: int = 0,
    ) -> Iterator[float]:
        """Yield when operations of one of so many processes are due, in seconds since the run's start, from `since` on.

        Only for an open loop. The same seed gives the same draws. Processes need not agree on `since`: what is due from the latest one
        on is due in exactly one of them. On `first`, when the first burst is due and the first gap begins, they have to agree; left out:
        `since`. Of gaps a process must know how many operations it has `done`, if it is not in its first life; the next is due at `since`.
        """
        if (
            self.poisson is not None
        ):  # the sum of independent ones is one again; every n-th of one would not be
            own = random.Random(f"{seed}/{process}" if process else seed)  # noqa: S311  # draws are to be repeatable
            return arrivals.poisson(self.poisson / of, own, since)
        if self.rate is not None:
            return arrivals.constant(self.rate, since, (process, of))
        if self.between is not None:
            begin = since if done or first is None else first
            return arrivals.between(*self.between, seed, begin, (process, of), done=done)
        if self.burst is not None:
            size, every = _part(self.burst.size, process, of), self.burst.every
            return arrivals.bursts(size, every, since if first is None else first, since)
        slopes = [arrivals.Slope(stage.to, stage.seconds) for stage in self.ramp]
        return arrivals.ramp(slopes, since, (process, of))


def _part(whole: int, process: int, of: int) -> int:
    """Return one of so many parts that differ by one at most."""
    return (whole + of - 1 - process) // of
