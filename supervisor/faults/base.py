"""The seam every kind of fault fills. `scheduler.py` drives it through the life of an episode."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import anyio
from pydantic import Field, model_validator

from supervisor.engines.base import container_of
from supervisor.faults.schedule import Schedule
from supervisor.journal.events import FaultIntent, Target
from supervisor.kinds import Kind, Name
from supervisor.values import Duration

if TYPE_CHECKING:
    from supervisor.broker.connection import Connections
    from supervisor.broker.options import Broker
    from supervisor.engines.base import Engine
    from supervisor.engines.fleet import Fleet
    from supervisor.engines.selectors import Selector
    from supervisor.links.base import Control


class CannotAim(Exception):  # noqa: N818  # it says what happened; nothing went wrong
    """There is nothing to aim at just now; the text says why. The draw is skipped."""


class UndoError(Exception):
    """Something of the fault is still in place; the text says what, and how to mend it by hand."""


class Steady(Protocol):
    """How the scheduler asks whether the system is in its steady state."""

    async def wait(self, timeout: float) -> tuple[bool, tuple[str, ...]]:
        """Wait up to `timeout` seconds for the steady state; return whether it holds and the expectations that fail."""


class Expectations(Protocol):
    """How an episode asks for what the soak file expects around it (`expect:`)."""

    async def meet(
        self,
        fault: str,
        episode: str,
        when: Literal["before", "during", "recovered"],
        patience: float = 0.0,
        over: anyio.Event | None = None,
    ) -> tuple[str, ...]:
        """Look until each expectation holds, for as long as it may take or `patience` lasts; return those that do not, in words.

        Once `over` is set each is looked at for the last time.
        """


async def _nobody_counts() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class World:
    """What a fault may touch.

    In recovery, after the death of a run, the fleet knows only units whose engine says that they outlive the run
    (`Engine.units_outlive_run`). A target that it does not know is gone together with whatever was done to it.
    """

    fleet: Fleet
    connections: Connections | None = None
    recovering: bool = False
    """True: the run is dead, so nobody holds a unit any more and no watchdog keeps one up."""
    servers_ended: bool = False
    """In recovery: the servers of the broker have ended with the run, together with what they had stored."""
    base: Path = field(default_factory=Path)
    """The soak file's folder."""
    run_dir: Path | None = None
    """The run directory: its file system is never filled."""
    born: float = field(default_factory=time.monotonic)
    """Monotonic seconds at which the run began: what is older on the broker existed before it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What commands find in their environment besides soakd's own."""
    links: Control | None = None
    """The links of the run, or what is left of them; None if it has none."""
    heard: Callable[[], Awaitable[tuple[str, ...]]] = _nobody_counts
    """Waits until all who count operations know which episodes are open; bounded in time. Before anything is injected.

    Returns the loads that may not know.
    """


class Layout(Protocol):
    """What the soak file alone says about the system."""

    @property
    def broker(self) -> Broker | None:
        """The cluster under test."""

    def selected(self, selector: Selector) -> list[str]:
        """Return the ids of the units that a selector may mean."""

    def engine_of(self, unit: str) -> Engine:
        """Return the engine of a unit."""

    def nodes(self) -> frozenset[str]:
        """Return the units that are servers of the broker."""

    def lacks(self, unit: str, power: type) -> str:
        """Say what keeps a unit's engine from a capability just now; empty if nothing does. Blocks."""

    def volume(self, unit: str, path: str, base: Path) -> Path | None:
        """Return where on this machine a unit's volume is, None if only the run can tell; EngineError if it has none. Blocks."""

    def configuration_of(self, unit: str, base: Path) -> Mapping[str, str]:
        """Return the files that a unit's command names as its configuration, as far as they can be read here. Blocks."""

    def files_of(self, unit: str) -> Mapping[str, str]:
        """Return the files that the soak file gives a unit: path -> content."""


class Site(NamedTuple):
    """Where a run would be."""

    base: Path
    """The soak file's folder."""
    runs: Path
    """Where run directories go."""


class Problem(NamedTuple):
    """Why a fault cannot work, as far as the soak file alone tells."""

    path: tuple[str | int, ...]
    """Where, below the fault's entry."""
    message: str


@dataclass(frozen=True, slots=True)
class Aim:
    """What one episode will do: its targets, and everything that undo needs."""

    targets: tuple[Target, ...]
    undo: dict[str, Any] = field(default_factory=dict)
    """JSON. `undo` gets nothing but this, perhaps in another process after the death of this one."""

    @property
    def units(self) -> frozenset[str]:
        """The units it acts on."""
        return frozenset(target.unit for target in self.targets)


class Fault(Schedule, Kind):
    """A disturbance with its schedule.

    `inject` and `undo` see only the journalled intent, so undo works from the intent alone. Undo is idempotent, bounded in
    time by its own calls, and harmless if inject never ran or only half of it did.
    """

    at_once: ClassVar[int | None] = None
    """How many of its targets are down at the same time; None: all of them."""
    in_targets: ClassVar[bool] = True
    """The disturbance sits in the targets as inject left them: it is cut short where one vanishes or is replaced before undo."""

    stays: ClassVar[bool] = False
    """It stays with targets that are started anew, and is only gone with one that is made anew."""

    renews: ClassVar[bool] = False
    """Inject itself may begin new lives of its targets: then a new incarnation is no sign of somebody else."""

    lingers: ClassVar[bool] = False
    """Undo leaves ends that are still to come, and starts after them, to watchdogs. Those die with the run: recovery undoes it until its close."""

    undo_needs_engines: ClassVar[bool] = True
    """Undo acts on the targets through their engines: as long as one of these cannot be reached, it is not undone."""

    alone: ClassVar[bool] = True
    """Its targets are its own: no other fault disturbs them at the same time."""

    over: ClassVar[str] = ""
    """When it is over, in words, where there is nothing to hold; empty: it lasts for `hold`."""

    after: Name | None = Field(
        None,
        description="Comes after each close of an episode of this fault; with `every` or `between`, so long after it.",
    )
    hold: Duration = Field(0.0, description="Time between inject and undo.")
    recovery_timeout: Duration = Field(120.0, description="How long the system may take to its steady state.")
    inject_timeout: Duration = Field(120.0, gt=0, description="How long inject may take before it is undone.")
    undo_timeout: Duration = Field(60.0, gt=0, description="How long one attempt to undo may take.")

    @model_validator(mode="after")
    def _after_or_at(self) -> Self:
        if self.after is not None and self.at is not None:
            raise ValueError("expected one of after or at, found both")
        return self

    @model_validator(mode="after")
    def _nothing_to_hold(self) -> Self:
        if self.over and self.hold:
            raise ValueError(f"hold: a {self.key} {self.over}, leave hold out")
        return self

    @property
    def scheduled(self) -> bool:
        """Whether it says when it comes; one that does not is for the nemesis to draw."""
        return self.after is not None or super().scheduled

    @abstractmethod
    async def aim(self, world: World, rng: random.Random) -> Aim:
        """Choose targets with `rng`, which is drawn from (seed, fault, n) alone. Touches nothing; CannotAim if there are none.

        Called again, with the same draw, when the targets were busy: what it says last counts.
        """
        raise NotImplementedError

    @property
    def undo_needs_broker(self) -> bool:
        """Whether undo speaks to the broker: then recovery opens connections."""
        return False

    def is_in(self, life: str | None, done_to: str | None) -> bool:
        """Say whether what was done to one incarnation of a target is in another one, too; None: it is not known which that is."""
        if self.stays:
            life, done_to = container_of(life), container_of(done_to)
        return life == done_to or None in {life, done_to}

    def preview(self, rng: random.Random, units: Sequence[str]) -> str:  # noqa: ARG002  # for kinds that draw
        """Say in words what `aim` would choose among `units` with the same `rng`, as far as that is known before the run."""
        return ""

    def selects(self) -> Selector | None:
        """The units that it may act on, as written; None if it selects none."""
        return None

    def problems(self, layout: Layout) -> Iterator[Problem]:  # noqa: ARG002  # for kinds that can tell
        """Yield what of the soak file keeps this fault from working. Called by `soakd check` and before a run; touches nothing."""
        yield from ()

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:  # noqa: ARG002  # for kinds that need more than the soak file has
        """Yield what of this machine and its engines keeps this fault from working just now, in words for the user.

        Called before a run; `soakd check` shows it as warnings. Touches nothing; blocks.
        """
        yield from ()

    @abstractmethod
    async def inject(self, world: World, intent: FaultIntent) -> None:
        """Begin the disturbance; what it creates is named after `intent.episode`."""
        raise NotImplementedError

    @abstractmethod
    async def undo(self, world: World, intent: FaultIntent) -> None:
        """End it. UndoError (or any other) if that failed; the text says what is still broken and how to mend it."""
        raise NotImplementedError
