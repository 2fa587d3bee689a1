"""The soak file's top model: what one soak is made of, every room's part under its own key."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from supervisor.broker.options import Broker
from supervisor.engines.base import Engine
from supervisor.engines.registry import ENGINES
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Fault
from supervisor.faults.registry import FAULTS
from supervisor.judge.thresholds import Threshold
from supervisor.kinds import Name, Strict
from supervisor.loads.base import Load
from supervisor.loads.registry import LOADS
from supervisor.probes.base import Probe
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


class Soak(Strict):
    """A soak file: what runs, what uses it, what disturbs it, and what it must keep to."""

    soak: Name = Field(description="The soak's name; its runs go to runs/<name>/.")
    duration: Duration | None = Field(None, gt=0, description="How long it runs; left out: until stopped.")
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
    watchdogs: tuple[Watchdog, ...] = Field((), description="What keeps units up.")
    loads: dict[Name, Annotated[Load, LOADS]] = Field(
        default_factory=dict, description="What uses the system, by name."
    )
    faults: dict[Name, Annotated[Fault, FAULTS]] = Field(
        default_factory=dict, description="What disturbs the system, by name."
    )
    steady_state: tuple[Annotated[Probe, PROBES], ...] = Field(
        (), description="What holds when no fault is active; left out: all units up and the broker answering."
    )
    thresholds: tuple[Threshold, ...] = Field((), description="What the run must keep to.")
    on: On = Field(default_factory=On, description="Commands for the end of the soak.")
    web: Web = Field(default_factory=Web, description="The endpoint for metrics and status.")

    def units(self) -> dict[str, tuple[str, str]]:
        """Return unit id -> (engine, name there), as far as the soak file alone knows."""
        return unit_ids(self.engines)

    def after(self) -> dict[str, tuple[str, ...]]:
        """Return for each unit id the ids that must be ready before it starts."""
        units = self.units()
        return {
            unit: tuple(
                found
                for name in self.engines[engine].after().get(own, ())
                if (found := find_unit(name, units, engine))
            )
            for unit, (engine, own) in units.items()
        }

    def watched(self) -> Iterator[tuple[Watchdog, str]]:
        """Yield every watchdog with every unit that it keeps up."""
        for watchdog in self.watchdogs:
            for unit in selected(watchdog.units, self.engines):
                yield watchdog, unit


def selected(selector: Selector, engines: Mapping[str, Engine]) -> list[str]:
    """Return the ids of the units that a selector means, as far as the soak file alone knows; `pick` is left out of account."""
    units = unit_ids(engines)
    if selector.label:
        key, _, value = selector.label.partition("=")
        return [
            unit
            for unit, (engine, own) in units.items()
            if engines[engine].labels().get(own, {}).get(key) == value
        ]
    return [unit for name in selector.names() if (unit := find_unit(name, units))]


def unit_ids(engines: Mapping[str, Engine]) -> dict[str, tuple[str, str]]:
    """Return unit id -> (engine, name there). An id is the plain name, or `engine/name` where engines share it."""
    places = [(name, unit) for name, engine in engines.items() for unit in engine.unit_names()]
    plain = [unit for _, unit in places]
    return {unit if plain.count(unit) == 1 else f"{name}/{unit}": (name, unit) for name, unit in places}


def find_unit(name: str, units: Mapping[str, tuple[str, str]], engine: str = "") -> str | None:
    """Return the id of a unit that is written as its id, as `engine/name`, or, within its own engine, as its plain name."""
    if engine and (own := find_unit(f"{engine}/{name}", units)):
        return own
    if name in units:
        return name
    place = tuple(name.split("/", 1))
    return next((unit for unit, where in units.items() if where == place), None)
