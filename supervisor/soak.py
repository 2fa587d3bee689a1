"""The soak file's top model: what one soak is made of, every room's part under its own key."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from supervisor.broker.options import Broker
from supervisor.engines.base import Engine
from supervisor.engines.registry import ENGINES
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Fault
from supervisor.faults.limits import Limits
from supervisor.faults.nemesis import Nemesis
from supervisor.faults.registry import FAULTS
from supervisor.judge.thresholds import STEPS, Threshold
from supervisor.kinds import Name, Strict
from supervisor.links.base import Link
from supervisor.loads.base import Load
from supervisor.loads.registry import LOADS
from supervisor.probes.base import Probe
from supervisor.probes.expectations import When
from supervisor.probes.registry import PROBES
from supervisor.values import Duration
from supervisor.watch.watchdog import Watchdog


class Hook(Strict):
    """A command for the end; its environment says how it ended (`SOAKD_VERDICT`) and where that stands (`SOAKD_RUN_DIR`)."""

    command: str | tuple[str, ...] = Field(
        description="A program and its arguments, split as a shell would, or a list. It runs in the soak file's folder."
    )
    shell: bool = Field(False, description="Let /bin/sh run the command: pipes, variables, several lines.")
    timeout: Duration = Field(60.0, gt=0, description="How long it may take before it is ended.")

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.shell and not isinstance(self.command, str):
            raise ValueError("with shell: true the command is one text, not a list")
        try:
            program = self.argv[:1]
        except ValueError as error:
            raise ValueError(f"the command cannot be split: {str(error).lower()}") from None
        if not "".join(program).strip():
            raise ValueError("expected a program and its arguments, found nothing")
        return self

    @property
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments."""
        if self.shell:
            return ("/bin/sh", "-c", str(self.command))
        return tuple(shlex.split(self.command)) if isinstance(self.command, str) else self.command


class On(Strict):
    """What is run when the soak is over and judged."""

    fail: Hook | None = Field(None, description="Run if the verdict is fail.")
    end: Hook | None = Field(None, description="Run whatever the verdict is, after `fail`.")


class Web(Strict):
    """Where /metrics, /healthz, /readyz and /status answer."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one and says which.")


class Control(Strict):
    """A port of this machine at which an operator may work on the run, instead of the socket in its run directory."""

    port: int = Field(0, ge=0, le=65535, description="Port on 127.0.0.1; 0 takes a free one.")
    token: SecretStr = Field(
        min_length=8, description="What a request has to bring along: at least 8 characters."
    )


Looks = tuple[Annotated[Probe, PROBES], ...]


class Expect(Strict):
    """What probes shall see around each episode of a fault."""

    before: Looks = Field((), description="Before it, or the draw is skipped.")
    during: Looks = Field(
        (),
        description="Once it is injected (of a fault without `hold`: at any time until its end), or the verdict is fail.",
    )
    recovered: Looks = Field((), description="After it, within recovery_timeout, beside the steady state.")


class Expecting(Strict):
    """What a soak file says of every fault beside what its kind knows."""

    expect: Expect = Field(
        default_factory=lambda: Expect.model_validate({}),
        description="What probes shall see before, during and after each episode.",
    )


class Soak(Strict):
    """A soak file: what runs, what uses it, what disturbs it, and what it must keep to."""

    soak: Name = Field(description="The soak's name; its runs go to runs/<name>/.")
    duration: Duration | None = Field(None, gt=0, description="How long it runs; left out: until stopped.")
    baseline: Duration | None = Field(
        None,
        gt=0,
        description="How long loads run before the soak while faults wait, for thresholds to compare with; left out: not at all.",
    )
    seed: int | None = Field(
        None, ge=0, description="What all draws come from; left out: a new one for each run."
    )
    grace: Duration = Field(
        7.0, gt=0, description="How long the end may take after a signal; faults are undone first."
    )
    engines: dict[Name, Annotated[Engine, ENGINES]] = Field(
        default_factory=dict, description="Where units run, by the name of the engine."
    )
    broker: Broker | None = Field(None, description="The NATS cluster under test.")
    links: dict[Name, Link] = Field(
        default_factory=dict,
        description="TCP relays between clients and a server, by name, for faults to disturb.",
    )
    watchdogs: tuple[Watchdog, ...] = Field((), description="What keeps units up.")
    loads: dict[Name, Annotated[Load, LOADS]] = Field(
        default_factory=dict, description="What uses the system, by name."
    )
    faults: dict[Name, Annotated[Fault, FAULTS.having(Expecting)]] = Field(
        default_factory=dict, description="What disturbs the system, by name."
    )
    nemesis: Nemesis | None = Field(
        None, description="Draws which fault comes next, among those without a schedule of their own."
    )
    limits: Limits = Field(
        default_factory=lambda: Limits.model_validate({}),
        description="How much may be disturbed at the same time.",
    )
    steady_state: tuple[Annotated[Probe, PROBES], ...] = Field(
        (), description="What holds when no fault is active; left out: all units up and the broker answering."
    )
    thresholds: tuple[Threshold, ...] = Field((), description="What the run must keep to.")
    on: On = Field(default_factory=On, description="Commands for the end of the soak.")
    web: Web = Field(default_factory=Web, description="The endpoint for metrics and status.")
    control: Control | None = Field(
        None,
        description="Where an operator may work on the run; left out: at a socket in the run directory, for its owner alone.",
    )

    def units(self) -> dict[str, tuple[str, str]]:
        """Return unit id -> (engine, name there), as far as they are known."""
        return UnitNames(self.engines).ids

    def after(self) -> dict[str, tuple[str, ...]]:
        """Return for each unit id the ids that must be ready before it starts."""
        return {unit: tuple(others) for unit, others in UnitNames(self.engines).after().items()}

    def nodes(self) -> frozenset[str]:
        """Return the ids of the units that are servers of the broker."""
        names = UnitNames(self.engines)
        return frozenset(
            unit for node in (self.broker.nodes if self.broker else ()) if (unit := names.find(node))
        )

    def resting(self) -> frozenset[str]:
        """Return the ids of the units that are down and are to stay so, as far as their engines have looked."""
        names = UnitNames(self.engines)
        resting = {
            names.find(f"{name}/{unit}") for name, engine in self.engines.items() for unit in engine.resting()
        }
        return frozenset(unit for unit in resting if unit)

    def expected(self) -> dict[str, Mapping[When, Sequence[Probe]]]:
        """Return what is expected around the episodes of each fault."""
        written: dict[str, Expect | None] = {
            name: getattr(fault, "expect", None) for name, fault in self.faults.items()
        }
        return {
            name: {"before": expect.before, "during": expect.during, "recovered": expect.recovered}
            for name, expect in written.items()
            if expect
        }

    @property
    def asked(self) -> tuple[Threshold, ...]:
        """The thresholds that hold for these loads, whichever clients they have."""
        return tuple(
            one for one in self.thresholds if one.client in (None, self.clients().get(one.load or ""))
        )

    @property
    def not_asked(self) -> tuple[Threshold, ...]:
        """The thresholds that are meant of loads with another client."""
        asked = self.asked
        return tuple(one for one in self.thresholds if one not in asked)

    def clients(self) -> dict[str, str]:
        """Return the client of each load that has one."""
        return {
            name: client for name, load in self.loads.items() if (client := getattr(load, "client", None))
        }

    @property
    def step(self) -> float:
        """Seconds of a window of the journal: as long as thresholds on sliding windows can do with."""
        return min((threshold.step for threshold in self.asked), default=STEPS[0])

    def watched(self) -> Iterator[tuple[Watchdog, str]]:
        """Yield every watchdog with every unit that it keeps up."""
        names = UnitNames(self.engines)
        for watchdog in self.watchdogs:
            for unit in names.selected(watchdog.units):
                yield watchdog, unit


class UnitNames:
    """The units of a soak, as far as its file alone knows them, and every way to write one."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        places = [(name, unit) for name, engine in engines.items() for unit in engine.unit_names()]
        shared = Counter(unit for _, unit in places)
        self.ids = {unit if shared[unit] == 1 else f"{name}/{unit}": (name, unit) for name, unit in places}
        """Unit id -> (engine, name there). An id is the plain name, or `engine/name` where engines share it."""
        self._engines = engines
        self._by_place = {place: unit for unit, place in self.ids.items()}

    def find(self, name: str, engine: str = "") -> str | None:
        """Return the id of a unit that is written as such, as `engine/name`, or, within its own engine, as its plain name."""
        if engine and (own := self._by_place.get((engine, name))):
            return own
        first, _, rest = name.partition("/")
        return name if name in self.ids else self._by_place.get((first, rest))

    def engine_of(self, unit: str) -> Engine:
        """Return the engine of a unit, by its id."""
        return self._engines[self.ids[unit][0]]

    def lacks(self, unit: str, power: type) -> str:
        """Say what keeps a unit's engine from a capability just now; empty if nothing does. Blocks."""
        engine, name = self.ids[unit]
        return self._engines[engine].lacks(power, name)

    def volume(self, unit: str, path: str, base: Path) -> Path | None:
        """Return where on this machine a unit's volume is, None if only the run can tell; EngineError if it has none. Blocks."""
        engine, name = self.ids[unit]
        return self._engines[engine].volume(name, path, base)

    def configuration_of(self, unit: str, base: Path) -> Mapping[str, str]:
        """Return the files that a unit's command names as its configuration, as far as they can be read here. Blocks."""
        engine, name = self.ids[unit]
        return self._engines[engine].configuration(name, base)

    def files_of(self, unit: str) -> Mapping[str, str]:
        """Return the files that the soak file gives a unit: path -> content."""
        engine, name = self.ids[unit]
        return self._engines[engine].files().get(name, {})

    def after(self) -> dict[str, dict[str, str]]:
        """Return for each unit id those that must be ready before it starts, each with how it is written."""
        written = {
            (name, unit): others
            for name, engine in self._engines.items()
            for unit, others in engine.after().items()
        }
        return {
            unit: {found: other for other in written.get(place, ()) if (found := self.find(other, place[0]))}
            for unit, place in self.ids.items()
        }

    def labelled(self, key: str, value: str) -> list[str]:
        """Return the ids of the units with this label, as far as they are known."""
        labels = {
            (name, unit): of for name, engine in self._engines.items() for unit, of in engine.labels().items()
        }
        return [unit for unit, place in self.ids.items() if labels.get(place, {}).get(key) == value]

    def selected(self, selector: Selector) -> list[str]:
        """Return the ids of the units that a selector means, as far as they are known; all that `pick` draws from."""
        if selector.label:
            key, _, value = selector.label.partition("=")
            return self.labelled(key, value)
        return [unit for name in selector.names() if (unit := self.find(name))]
