"""The entries of a soak file that can be read, each by itself, so that one bad entry hides nothing about the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from supervisor.broker.options import Broker
from supervisor.engines.base import Engine
from supervisor.faults.base import Fault
from supervisor.faults.limits import Limits
from supervisor.faults.nemesis import Nemesis
from supervisor.judge.thresholds import Threshold
from supervisor.kinds import Strict
from supervisor.links.base import Link
from supervisor.loads.base import Load
from supervisor.probes.base import Probe
from supervisor.soak import Soak
from supervisor.watch.watchdog import Watchdog

_MAPPINGS: Final = ("engines", "links", "loads", "faults")
_LISTS: Final = ("watchdogs", "steady_state", "thresholds")
_SINGLE: Final[Mapping[str, type[Strict]]] = {"broker": Broker, "nemesis": Nemesis, "limits": Limits}


@dataclass(frozen=True, slots=True)
class Parts:
    """What could be read, each entry at its key or index."""

    data: Any
    """The whole file."""
    engines: Mapping[str, Engine]
    links: Mapping[str, Link]
    loads: Mapping[str, Load]
    faults: Mapping[str, Fault]
    watchdogs: Mapping[int, Watchdog]
    steady_state: Mapping[int, Probe]
    thresholds: Mapping[int, Threshold]
    broker: Broker | None
    nemesis: Nemesis | None
    limits: Limits | None
    bad: frozenset[str]
    """The sections in which something could not be read."""

    def names(self, section: str) -> list[str]:
        """Return the names in a section, of entries that could not be read too."""
        entries = self.data.get(section) if isinstance(self.data, dict) else None
        return list(entries) if isinstance(entries, dict) else []


def whole(soak: Soak, data: Any) -> Parts:
    """Return the parts of a soak file that was read as a whole."""
    return Parts(
        data=data,
        engines=soak.engines,
        links=soak.links,
        loads=soak.loads,
        faults=soak.faults,
        watchdogs=dict(enumerate(soak.watchdogs)),
        steady_state=dict(enumerate(soak.steady_state)),
        thresholds=dict(enumerate(soak.thresholds)),
        broker=soak.broker,
        nemesis=soak.nemesis,
        limits=soak.limits,
        bad=frozenset(),
    )


def readable(data: Mapping[str, Any], context: Mapping[str, Any]) -> Parts:
    """Return what can be read of a soak file that as a whole cannot."""
    bad: set[str] = set()
    found: dict[str, Any] = {}
    for section in (*_MAPPINGS, *_LISTS):
        entries, form = data.get(section), dict if section in _MAPPINGS else list
        if not isinstance(entries, form):
            bad |= {section} if section in data else set()
            entries = form()
        adapter: TypeAdapter[Any] = TypeAdapter(_entry_type(section))
        found[section] = {}
        for key, entry in entries.items() if isinstance(entries, dict) else enumerate(entries):
            try:
                found[section][key] = adapter.validate_python(entry, context=dict(context))
            except ValidationError:
                bad.add(section)
    for section, kind in _SINGLE.items():
        found[section] = None
        try:
            if data.get(section) is not None:
                found[section] = kind.model_validate(data[section], context=dict(context))
        except ValidationError:
            bad.add(section)
    return Parts(data=data, bad=frozenset(bad), **found)


def _entry_type(section: str) -> Any:
    """Return the type of one entry, as the model has it."""
    arguments = get_args(Soak.model_fields[section].annotation)
    return arguments[1] if section in _MAPPINGS else arguments[0]
