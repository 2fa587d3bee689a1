"""A load that does not say what it counts cannot be judged by it: `soakd check` would know no such counter."""

from __future__ import annotations

import re
from pathlib import Path

import supervisor.loads
from supervisor.loads.registry import LOADS
from supervisor.loads.window import FOLDED

ROOM = Path(supervisor.loads.__file__).parent
ELSEWHERE = {FOLDED}
"""What recorders count."""


def test_every_counter_of_a_load_is_declared() -> None:
    declared = {name for kind in LOADS.kinds.values() for name in (*kind.counters, *kind.settled)}
    counted = {
        name
        for file in ROOM.glob("*.py")
        for name in re.findall(r'\bcount\(\s*"(\w+)"|_count\(\s*"(\w+)"', file.read_text())
        for name in name
        if name
    }

    assert len(counted) > 20
    assert counted - ELSEWHERE <= declared


def test_what_is_settled_is_not_taken_for_what_is_counted_as_it_happens() -> None:
    for kind in LOADS.kinds.values():
        assert not set(kind.counters) & set(kind.settled), kind.key
