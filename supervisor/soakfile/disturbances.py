"""What no single fault of a soak file can see: whether each of them ever comes, and whether they fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from supervisor.broker.control import META
from supervisor.faults.base import Fault, Layout
from supervisor.journal.events import OPERATOR
from supervisor.soakfile.parts import Parts
from supervisor.soakfile.wording import Finding, did_you_mean, either

SHOWN: Final = 12
"""Names in one message."""


def check(layout: Layout, parts: Parts) -> Iterator[Finding]:
    """Yield all that does not fit together."""
    for name, fault in parts.faults.items():
        for path, message in fault.problems(layout):
            yield Finding(("faults", name, *path), message)
    for rule in _RULES:
        yield from rule(parts)


def _comes(parts: Parts) -> Iterator[Finding]:
    """A fault has one way to come: its own schedule, or the nemesis."""
    drawn = parts.nemesis.of if parts.nemesis else {}
    for name, fault in parts.faults.items():
        if name not in drawn and not fault.scheduled and "nemesis" not in parts.bad:
            what = "expected one of every, between, at or after, or its name in nemesis: of, found none"
            yield Finding(("faults", name), what)
        for key in ("every", "between", "at", "after", "times") if name in drawn else ():
            if getattr(fault, key) is not None:
                what = f"the nemesis draws {name}: leave {key} out, or the fault out of nemesis: of"
                yield Finding(("faults", name, key), what, key=True)


def _named(parts: Parts) -> Iterator[Finding]:
    if OPERATOR in parts.faults:
        what = "that is whose episodes are made by hand (`soakd unit hold`): choose another name"
        yield Finding(("faults", OPERATOR), what, key=True)


def _drawn(parts: Parts) -> Iterator[Finding]:
    known = parts.names("faults")
    for name in parts.nemesis.of if parts.nemesis else ():
        if name not in known:
            written = parts.data["nemesis"]["of"]
            listed = isinstance(written, list)
            path = ("nemesis", "of", written.index(name) if listed else name)
            yield Finding(path, _unknown(name, known), key=not listed)


def _after(parts: Parts) -> Iterator[Finding]:
    """Faults that come after others: there must be one that comes by itself."""
    known, before = parts.names("faults"), dict[str, list[str]]()
    for name, fault in parts.faults.items():
        if fault.after is not None and fault.after not in known:
            yield Finding(("faults", name, "after"), _unknown(fault.after, known))
        elif fault.after is not None:
            before[name] = [fault.after]
    while True:
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            del before[circle[0]]
            what = f"these faults wait for each other, so none ever comes: {' after '.join(circle[:SHOWN])}"
            yield Finding(("faults", circle[0], "after"), what)
        else:
            return


def _leading(parts: Parts) -> Iterator[Finding]:
    """Leaders can only be found if it is known which unit is which server."""
    for name, fault in parts.faults.items():
        selector, broker = fault.selects(), parts.broker
        if selector is None or selector.leader_of is None or broker is None:
            continue
        path = ("faults", name, fault.key, "leader_of")
        if selector.leader_of == META and broker.system is None:
            what = "the leader of the cluster is seen through the system account: add system: {user: ..., password: ...} to broker"
            yield Finding(path, what)
        if not broker.nodes:
            yield Finding(path, "a leader is a server: say which units are servers, in broker: nodes")


def _room(parts: Parts) -> Iterator[Finding]:
    """Faults that alone are more than the limits allow."""
    most = parts.limits.units_down if parts.limits else None
    for name, fault in parts.faults.items() if most is not None else ():
        if most is not None and (down := _down(fault)) > most:
            what = f"it takes down {down} units at once, but limits: units_down is {most}, so it would never come"
            yield Finding(("faults", name, fault.key), what)


def _down(fault: Fault) -> int:
    """Return how many units a fault takes down at once, as far as its selector says."""
    selector = fault.selects()
    if selector is None or not selector.of:
        return 1 if selector and selector.leader_of and fault.at_once is None else 0
    count = selector.pick.size(len(selector.of)) if selector.pick else len(selector.of)
    return count if fault.at_once is None else min(fault.at_once, count)


def _unknown(name: str, known: Sequence[str]) -> str:
    hint = did_you_mean(name, known) or (
        f": expected {either(known[:SHOWN])}" if known else ": there are no faults"
    )
    return f'there is no fault "{name}"{hint}'


_RULES: Final[Sequence[Callable[[Parts], Iterator[Finding]]]] = (
    _comes,
    _named,
    _drawn,
    _after,
    _leading,
    _room,
)
