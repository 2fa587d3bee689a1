"""What another version of the soak file means for the faults of a run: which begin anew, and how many episodes are planned."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from supervisor.faults.base import Fault
from supervisor.faults.lines import Line


def changing(lines: Mapping[str, Line], faults: Mapping[str, Fault]) -> list[str]:
    """Return the faults there are that go or change, and those that come after them."""
    found = [name for name, line in lines.items() if faults.get(name) != line.written]
    found += [name for name in lines if name not in found and _follows(name, found, faults)]
    return found


def _follows(name: str, others: Collection[str], faults: Mapping[str, Fault]) -> bool:
    """Say whether a fault comes after one of the others, over however many in between."""
    while (after := faults[name].after) is not None:
        if after in others:
            return True
        name = after
    return False


def planned(lines: Mapping[str, Line], faults: Mapping[str, Fault], now: float) -> dict[str, int]:
    """Return how many episodes a run must have seen in the end of faults whose schedule names their number.

    `now` is seconds since the soak's start: times before that are not made up for.
    """
    anew, found = changing(lines, faults), dict[str, int]()
    for name, fault in faults.items():
        if fault.at is not None:
            line = lines.get(name)
            lived = line.episodes if line and name in anew else 0
            due = [at for at in fault.at if at > now or (line and name not in anew)]
            found[name] = lived + min(len(due), fault.times or len(due))
    return found
