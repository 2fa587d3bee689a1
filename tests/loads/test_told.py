"""Which revisions a watch has told, remembered as runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads import watched
from supervisor.loads.watched import Told


@given(revisions=st.lists(st.integers(1, 40), max_size=80))
def test_what_was_told_is_known_in_whatever_order_it_came(revisions: list[int]) -> None:
    told = Told()
    for revision in revisions:
        told.add(revision)
    assert {n for n in range(42) if n in told} == set(revisions)


def test_what_comes_in_order_takes_no_room_and_the_oldest_run_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched, "RUNS", 3)
    told = Told()
    for revision in [*range(1, 1001), 1003, 1004, 1010, 1020]:
        told.add(revision)
    assert len(told) == 3
    assert 1000 not in told
    assert all(n in told for n in (1003, 1004, 1010, 1020))
