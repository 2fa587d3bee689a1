"""What of a soak file works, but hardly as it was meant: `soakd check` shows it, and nothing is refused for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

from supervisor.faults.base import Fault
from supervisor.faults.corrupt import Corrupt
from supervisor.faults.corruption import Key, Keys
from supervisor.faults.crash_loop import CrashLoop
from supervisor.faults.kill import Kill
from supervisor.faults.schedule import Schedule
from supervisor.soak import Soak, UnitNames
from supervisor.soakfile.errors import Path
from supervisor.values import format_duration
from supervisor.watch.restart import Restart

Advice = tuple[Path, str]


def advice(soak: Soak) -> Iterator[Advice]:
    """Yield what is worth a look, each with its place."""
    for rule in _RULES:
        yield from rule(soak)


def _in_time(soak: Soak) -> Iterator[Advice]:
    """Faults that begin after the end, or would last longer than the soak."""
    if (duration := soak.duration) is None:
        return
    whole = format_duration(duration)
    schedules: dict[Path, Schedule] = {("faults", name): fault for name, fault in soak.faults.items()}
    if soak.nemesis:
        schedules["nemesis",] = soak.nemesis
    for path, schedule in schedules.items():
        late = [time for time in schedule.at or () if time >= duration]
        if late:
            times = ", ".join(map(format_duration, late))
            yield (*path, "at"), f"{times} is not within the {whole} that the soak lasts: it never comes"
        key = "every" if schedule.every is not None else "between"
        first = schedule.every if schedule.between is None else schedule.between[0]
        if first is not None and first >= duration:
            yield (
                (*path, key),
                f"the first comes after {format_duration(first)}, and the soak lasts {whole}: it never comes",
            )
    for name, fault in soak.faults.items():
        if fault.hold >= duration:
            yield (
                ("faults", name, "hold"),
                f"{format_duration(fault.hold)} is no less than the {whole} that the soak lasts: every episode is cut short by its end",
            )


def _meeting(soak: Soak) -> Iterator[Advice]:
    """Faults whose times are written so that one has the unit when the other's turn comes."""
    names = UnitNames(soak.engines)
    fixed = {name: fault for name, fault in soak.faults.items() if fault.at and fault.hold and fault.alone}
    units = {name: _units(fault, names) for name, fault in fixed.items()}
    for one, other in combinations(fixed, 2):
        shared = sorted(units[one] & units[other])
        for first, second in ((one, other), (other, one)) if shared else ():
            found = next(_within(fixed[first], fixed[second]), None)
            if found is not None:
                at, start = map(format_duration, found)
                what = (
                    f"at {at} {first}, from {start} on for {format_duration(fixed[first].hold)}, still has "
                    f"{', '.join(shared)}: it waits until that is over"
                )
                yield ("faults", second, "at"), what
                break


def _within(first: Fault, second: Fault) -> Iterator[tuple[float, float]]:
    """Yield times of the second fault at which an episode of the first is open, each with when that began."""
    for at in second.at or ():
        for start in first.at or ():
            if start <= at < start + first.hold:
                yield at, start


def _units(fault: Fault, names: UnitNames) -> frozenset[str]:
    """Return the units that every episode of a fault has; none if they are drawn."""
    selector = fault.selects()
    return frozenset(names.selected(selector)) if selector and selector.pick is None else frozenset()


def _same_entries(soak: Soak) -> Iterator[Advice]:
    """Faults that damage the same entries: what one has damaged, the other leaves alone."""
    of: dict[str, Keys | Key] = {
        name: entries
        for name, fault in soak.faults.items()
        if isinstance(fault, Corrupt) and (entries := fault.corrupt.entries)
    }
    for one, other in combinations(of, 2):
        a, b = of[one], of[other]
        if a.bucket == b.bucket and (a.key == b.key or _means(a, b.key) or _means(b, a.key)):
            what = (
                f"{one} damages entries {a.key} of {a.bucket} as well: while one of the two is open the other leaves what that has "
                "damaged alone, and is skipped if nothing else is left"
            )
            yield ("faults", other, "corrupt"), what


def _means(entries: Keys | Key, key: str) -> bool:
    return isinstance(entries, Keys) and re.fullmatch(entries.key, key) is not None


def _never_back(soak: Soak) -> Iterator[Advice]:
    """Faults that leave it to watchdogs to bring units back, which those do not."""
    policies: Mapping[str, Restart] = {unit: watchdog.restart for watchdog, unit in soak.watched()}
    names = UnitNames(soak.engines)
    for name, fault in soak.faults.items():
        selector = fault.selects()
        if not isinstance(fault, Kill | CrashLoop) or selector is None:
            continue
        left = [unit for unit in names.selected(selector) if policies.get(unit) is Restart.TEMPORARY]
        if left:
            what = f"the watchdog of {', '.join(left)} is temporary, so nobody starts it again: it stays down"
            yield ("faults", name, fault.key), what


def _never_meet(soak: Soak) -> Iterator[Advice]:
    """A nemesis whose faults shall overlap and cannot."""
    if soak.nemesis and soak.nemesis.overlap:
        if soak.limits.episodes == 1:
            yield ("nemesis", "overlap"), "limits: episodes is 1, so no two of them are ever open together"
        if soak.nemesis.only_when:
            yield (
                ("nemesis", "only_when"),
                "each draw waits for the steady state, which as a rule does not hold while a fault is open: they hardly overlap",
            )


def _without_evidence(soak: Soak) -> Iterator[Advice]:
    """Watched units whose crashes cannot be taken in full."""
    watched = {unit for _, unit in soak.watched()}
    ids = {place: unit for unit, place in soak.units().items()}
    for name, engine in soak.engines.items():
        for own, doubt in engine.doubts().items():
            if (unit := ids.get((name, own))) in watched:
                yield ("engines", name), f"{unit} {doubt}"


_RULES: Final[Sequence[Callable[[Soak], Iterator[Advice]]]] = (
    _in_time,
    _meeting,
    _same_entries,
    _never_back,
    _never_meet,
    _without_evidence,
)
