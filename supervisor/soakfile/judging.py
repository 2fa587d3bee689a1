"""What no threshold can see by itself: whether what it names is there, and whether the soak can show what it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from supervisor.judge.metrics import Subject, Unit
from supervisor.judge.thresholds import Threshold
from supervisor.soakfile.errors import Path
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.wording import Finding, unknown


class Names(Protocol):
    """The units there are."""

    ids: dict[str, tuple[str, str]]

    def find(self, name: str, engine: str = "") -> str | None:
        """Return the id of a unit."""

    def unknown(self, name: str) -> str:
        """Say why a name means no unit."""


def check(names: Names, parts: Parts) -> Iterator[Finding]:
    """Yield what is wrong with the thresholds and the baseline of a soak file."""
    data = parts.data if isinstance(parts.data, dict) else {}
    based = data.get("baseline") is not None
    for index, threshold in parts.thresholds.items():
        path = _place(parts, index)
        yield from _named(parts, threshold, path)
        yield from _unit(names, threshold, path)
        yield from _counted(parts, threshold, path)
        if why := _settled(threshold):
            yield Finding(path, why, offset=threshold.text.index(threshold.op))
        if threshold.relative and not based:
            what = (
                "there is no baseline to compare with: add baseline: 2m (or what it takes) to the soak file"
            )
            yield Finding(path, what, offset=_offset(threshold.text, "baseline"))
        if threshold.abort and not threshold.can_be_lost:
            what = (
                "abort needs a threshold that can be lost before the end: a number with <, <= or ==, recovery, max, "
                "or one with 'in every TIME'"
            )
            yield Finding((*path[:-1], "abort"), what)
        yield from _client(parts, threshold, path)
    if based and not parts.loads and "loads" not in parts.bad:
        yield Finding(("baseline",), "a baseline is what loads show: there are none", key=True)


def _settled(threshold: Threshold) -> str:
    """Return why nothing can come of a threshold whatever happens, since nothing is less than 0, or more than 100%; empty if it can."""
    op, limit = threshold.op, threshold.limit
    if threshold.relative:
        return "" if limit.factor else "0x baseline is no limit: expected a factor of more than 0"
    top = limit.value >= 1 and threshold.unit is Unit.SHARE
    if (op == ">=" and limit.value == 0) or (op == "<=" and top):
        expected = "less than 100%" if top else "more than 0"
        return f"this holds whatever happens: expected {expected}"
    if (op == "<" and limit.value == 0) or (op == ">" and top):
        return f"this holds never: expected {'>= 100%' if top else '<= 0'}"
    return ""


def _place(parts: Parts, index: int) -> Path:
    entries = parts.data.get("thresholds") if isinstance(parts.data, dict) else None
    written = entries[index] if isinstance(entries, list) and index < len(entries) else None
    return ("thresholds", index, "that") if isinstance(written, dict) else ("thresholds", index)


def _named(parts: Parts, threshold: Threshold, path: Path) -> Iterator[Finding]:
    """Loads and faults that are not there."""
    named = [("load", threshold.load)]
    if threshold.metric.subject is Subject.FAULT:
        named.append(("fault", threshold.of))
    if threshold.scope:
        named.append(("fault", threshold.scope.fault))
    for noun, name in named:
        known = parts.names(f"{noun}s")
        if name is not None and name not in known and (known or f"{noun}s" not in parts.bad):
            yield Finding(path, unknown(noun, name, known), offset=_offset(threshold.text, name))
    if threshold.scope and threshold.scope.fault is None and not parts.names("faults"):
        what = "there are no faults, so there are no episodes"
        yield Finding(path, what, offset=_offset(threshold.text, str(threshold.scope.where).split()[0]))


def _unit(names: Names, threshold: Threshold, path: Path) -> Iterator[Finding]:
    name = threshold.of
    if name is None or threshold.metric.subject is not Subject.UNIT or name in names.ids:
        return
    unit = names.find(name)
    what = f"this unit is called {unit} here" if unit else names.unknown(name)
    if what:
        yield Finding(path, what, offset=_offset(threshold.text, name))


def _counted(parts: Parts, threshold: Threshold, path: Path) -> Iterator[Finding]:
    """Counters that no load has."""
    counter, name = threshold.metric.counter, threshold.load
    if counter is None or "loads" in parts.bad or (name is not None and name not in parts.loads):
        return
    loads = {name: parts.loads[name]} if name is not None else parts.loads
    if any(load.reports(counter) for load in loads.values()):
        return
    known = sorted({one for load in loads.values() for one in (*load.counters, *load.settled)})
    whose = f"load {name}" if name is not None else "any load"
    offset = _offset(threshold.text, threshold.metric.name)
    yield Finding(path, f"{unknown('counter', counter, known)} of {whose}", offset=offset)


def _client(parts: Parts, threshold: Threshold, path: Path) -> Iterator[Finding]:
    """A client of a load that is not named, or that has none."""
    if threshold.client is None:
        return
    place = (*path[:-1], "client")
    if threshold.load is None:
        yield Finding(
            place, f"client needs the one load that it is meant of: write 'load NAME: {threshold.text}'"
        )
    elif (load := parts.loads.get(threshold.load)) and not hasattr(load, "client"):
        yield Finding(place, f"load {threshold.load} is not on NATS and has no client: leave it out")


def _offset(text: str, name: str) -> int:
    """Return where a name stands as words of its own in a threshold."""
    match = re.search(rf"(?<![^\s:]){re.escape(name)}(?![^\s:<>=!])", text)
    return match.start() if match else 0
