"""What no single entry of a soak file can see: whether the names in it mean something, and whether the parts fit together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pydantic import BaseModel

from supervisor.broker.options import DEFAULT
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Layout
from supervisor.kinds import check_name
from supervisor.probes.base import Probe
from supervisor.probes.broker import BrokerAnswers
from supervisor.probes.jetstream import JetStream
from supervisor.soak import Expect, UnitNames
from supervisor.soakfile import disturbances, judging, linking, traffic
from supervisor.soakfile.errors import Path
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.shape import leaves, member
from supervisor.soakfile.wording import NEAR, SHOWN, Finding, did_you_mean, either, unknown

PROTECT: Final = "soakd.protect"
_UNIT_FILES: Final = re.compile(r".*\.mon|.*\.crash\..*")
"""`x.mon.log` and `x.crash.<time>.log` are files of a unit x; the log of a load is `<load>.log`."""


def check(parts: Parts) -> Iterator[Finding]:
    """Yield all that does not fit together."""
    names = _Names(parts)
    for rule in _RULES:
        yield from rule(names, parts)


def layout(parts: Parts) -> Layout:
    """Return what faults may ask about the soak that these are the parts of."""
    return _Names(parts)


class _Names(UnitNames):
    """The units there are, and what is said where one is named that is not among them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.engines)
        discovered = any(not engine.unit_names() for engine in parts.engines.values())
        self.broker = parts.broker
        self.all_known = "engines" not in parts.bad and not discovered
        """False: there may be units that only the run, or a corrected file, knows."""
        self.labels_known = self.all_known and all(
            set(engine.unit_names()) <= set(engine.labels()) for engine in parts.engines.values()
        )
        self._parts = parts

    def labels(self) -> list[str]:
        """Return all labels of all units, each as a selector writes it."""
        found = (of for engine in self._parts.engines.values() for of in engine.labels().values())
        return sorted({f"{key}={value}" for of in found for key, value in of.items()})

    def nodes(self) -> frozenset[str]:
        """Return the units that are servers of the broker."""
        return frozenset(
            unit for node in (self.broker.nodes if self.broker else ()) if (unit := self.find(node))
        )

    def selected(self, selector: Selector) -> list[str]:
        """Return the ids of the units that a selector may mean: a leader may be any server."""
        return sorted(self.nodes()) if selector.leader_of else super().selected(selector)

    def unknown(self, name: str) -> str:
        """Say why a name means no unit; empty if it does, or may."""
        if self.find(name) or not self.all_known:
            return ""
        same = [unit for unit, (_, own) in self.ids.items() if own == name]
        if same:
            return f"more than one engine has a unit {name}: write {either(same)}"
        return unknown("unit", name, list(self.ids))


def _unit_names(names: _Names, parts: Parts) -> Iterator[Finding]:
    files: dict[str, str] = {}
    for unit, (engine, own) in names.ids.items():
        if (other := files.setdefault(unit.replace("/", "."), unit)) != unit:
            what = f"the files of {unit} and {other} would have the same names: rename one of them"
            yield Finding(_locate(parts.data, ("engines", engine), own), what, key=True)
    for engine, kind in parts.engines.items():
        for unit in kind.unit_names():
            try:
                check_name(unit)
            except ValueError as error:
                yield Finding(_locate(parts.data, ("engines", engine), unit), str(error), key=True)


def _load_names(_: _Names, parts: Parts) -> Iterator[Finding]:
    for name in parts.names("loads"):
        if _UNIT_FILES.fullmatch(name):
            what = f"a load cannot be called {name}: {name}.log is the name of a unit's file, choose another"
            yield Finding(("loads", name), what, key=True)


def _selected(names: _Names, parts: Parts) -> Iterator[Finding]:
    """Names of units in watchdogs, faults and probes."""
    for path, selector in _selectors(parts):
        for name in selector.names():
            if what := names.unknown(name):
                yield Finding(_locate(parts.data, path, name), what)


def _labelled(names: _Names, parts: Parts) -> Iterator[Finding]:
    """Labels that no unit has, or too few: nothing would ever be chosen."""
    for path, selector in _selectors(parts) if names.labels_known else ():
        if label := selector.label:
            found, protected = names.selected(selector), names.labelled(PROTECT, "true")
            fit = [unit for unit in found if not (_disturbs(path) and unit in protected)]
            if not found:
                known = names.labels()
                rest = f": expected {either(known[:SHOWN])}" if known else ": none has any"
                what = f'no unit has the label "{label}"{did_you_mean(label, known[:NEAR]) or rest}'
            elif not fit:
                what = (
                    f"all units with the label {label} have {PROTECT}: true too, so no fault may touch them"
                )
            else:
                what = _too_few(selector, len(fit))
            if what:
                yield Finding(_locate(parts.data, path, label), what)


def _too_few(selector: Selector, count: int) -> str:
    try:
        if selector.pick:
            selector.pick.size(count)
    except ValueError as error:
        return f"{error} with the label {selector.label}"
    return ""


def _disturbs(path: Path) -> bool:
    """Say whether a selector at a path is a fault's own: what it means is disturbed, not looked at."""
    return path[0] == "faults" and "expect" not in path


def _started_after(names: _Names, parts: Parts) -> Iterator[Finding]:
    for engine, kind in parts.engines.items():
        for unit, others in kind.after().items():
            for other in others:
                if not names.find(other, engine) and (what := names.unknown(other)):
                    yield Finding(_after(parts, engine, unit, other), what)


def _circles(names: _Names, parts: Parts) -> Iterator[Finding]:
    """Units that wait for each other. Each circle is cut where it was found, so that there may be others."""
    before = names.after()
    while True:
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1]  # each comes before the next, the last is the first
            first, unit = circle[0], circle[1]
            written = before[unit].pop(first)
            way = circle[::-1] if len(circle) <= SHOWN else [circle[0], "...", *circle[2::-1]]
            what = f"these units wait for each other, so none can start: {' after '.join(way)}"
            yield Finding(_after(parts, *names.ids[unit], written), what)
        else:
            return


def _watched_twice(names: _Names, parts: Parts) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, watchdog in parts.watchdogs.items():
        for unit in names.selected(watchdog.units):
            if seen.setdefault(unit, index) != index:
                what = f"watchdogs[{seen[unit]}] keeps {unit} up already: a unit has one watchdog"
                yield Finding(_locate(parts.data, ("watchdogs", index, "units"), unit), what)


def _protected(names: _Names, parts: Parts) -> Iterator[Finding]:
    protected = names.labelled(PROTECT, "true")
    for path, selector in _selectors(parts):
        for name in selector.names() if _disturbs(path) else ():
            if names.find(name) in protected:
                what = f"{name} has the label {PROTECT}: true, so no fault may touch it"
                yield Finding(_locate(parts.data, path, name), what)


def _broker_needed(_: _Names, parts: Parts) -> Iterator[Finding]:
    if parts.broker is not None or "broker" in parts.bad:
        return
    needs: list[tuple[Path, str]] = [
        (("loads", name, "cleanup"), "cleanup")
        for name, load in parts.loads.items()
        if getattr(load, "cleanup", None)
    ]
    needs += [(path, "leader_of") for path, selector in _selectors(parts) if selector.leader_of]
    needs += [(path, "this probe") for path, _ in _canaries(parts)]
    for path, what in needs:
        yield Finding(path, f"{what} needs a broker: add the section broker, with its servers")


def _connections(_: _Names, parts: Parts) -> Iterator[Finding]:
    for path, name in _canaries(parts) if parts.broker else ():
        if parts.broker and name not in parts.broker.names:
            what = unknown("connection", name, parts.broker.names)
            yield Finding(_locate(parts.data, path, name), what)


def _broker_nodes(names: _Names, parts: Parts) -> Iterator[Finding]:
    for node in parts.broker.nodes if parts.broker else ():
        if what := names.unknown(node):
            yield Finding(("broker", "nodes", node), what, key=True)


_RULES: Final[Sequence[Callable[[_Names, Parts], Iterator[Finding]]]] = (
    _unit_names,
    _load_names,
    _selected,
    _labelled,
    _started_after,
    _circles,
    _watched_twice,
    _protected,
    disturbances.check,
    traffic.check,
    linking.check,
    _broker_needed,
    _connections,
    _broker_nodes,
    judging.check,
)


def _canaries(parts: Parts) -> Iterator[tuple[Path, str]]:
    for path, probe in _probes(parts):
        if isinstance(probe, BrokerAnswers):
            yield path, probe.broker.connection
        elif isinstance(probe, JetStream):
            yield path, DEFAULT


def _probes(parts: Parts) -> Iterator[tuple[Path, Probe]]:
    """Yield all probes, those that faults expect something of too."""
    for index, probe in parts.steady_state.items():
        yield ("steady_state", index), probe
    for name, fault in parts.faults.items():
        expect: Expect | None = getattr(fault, "expect", None)
        for when in ("before", "during", "recovered") if expect else ():
            for index, probe in enumerate(getattr(expect, when)):
                yield ("faults", name, "expect", when, index), probe


def _selectors(parts: Parts) -> Iterator[tuple[Path, Selector]]:
    for section in ("watchdogs", "faults", "steady_state", "loads"):
        for key, entry in getattr(parts, section).items():
            yield from _selectors_in((section, key), entry)


def _selectors_in(path: Path, value: object) -> Iterator[tuple[Path, Selector]]:
    if isinstance(value, Selector):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _selectors_in((*path, field.alias or name), getattr(value, name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _selectors_in((*path, key), inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _selectors_in((*path, index), inner)


def _after(parts: Parts, engine: str, unit: str, other: str) -> Path:
    """Return where `unit` says that it comes after `other`."""
    section: Path = ("engines", engine)
    for path, value in leaves(member(parts.data, section), section):
        if value == other and unit in path and "after" in path:
            return path
    return section


def _locate(data: Any, path: Path, name: str) -> Path:
    """Return the path of a name below a path, as a value or as a key; the path itself if it is not there."""
    for below, value in leaves(member(data, path), path):
        if value == name:
            return below
        if name in below[len(path) :]:
            return below[: below.index(name, len(path)) + 1]
    return path
