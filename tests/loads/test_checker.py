from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads import checker as module
from supervisor.loads.checker import Arrival, Checker, Loss

WRITTEN = 60
NUMBERS = st.lists(st.integers(1, WRITTEN), max_size=120)


@given(numbers=NUMBERS)
def test_what_is_lost_is_what_never_arrived(numbers: list[int]) -> None:
    checker = Checker()
    seen: set[int] = set()
    for n in numbers:
        arrival = checker.arrived(n, WRITTEN)
        expected = Arrival.FIRST if n > max(seen, default=0) else Arrival.REORDERED
        assert arrival is (Arrival.DUPLICATE if n in seen else expected)
        seen.add(n)
    lost = checker.finish(WRITTEN)
    assert {n for loss in lost for n in range(loss.first, loss.last + 1)} == set(range(1, WRITTEN + 1)) - seen
    assert sum(loss.size for loss in lost) == WRITTEN - len(seen)
    for loss in lost:
        before, after = any(n < loss.first for n in seen), any(n > loss.last for n in seen)
        assert loss.where == ("prefix" if not before else "middle" if after else "postfix")
    assert checker.finish(WRITTEN) == []


@given(numbers=NUMBERS, cuts=st.lists(st.integers(0, WRITTEN), max_size=5))
def test_nothing_is_lost_twice_and_what_comes_after_that_is_late(numbers: list[int], cuts: list[int]) -> None:
    checker = Checker()
    seen: set[int] = set()
    lost: set[int] = set()
    for i, n in enumerate(numbers):
        arrival = checker.arrived(n, WRITTEN)
        assert (arrival is Arrival.DUPLICATE) == (n in seen)
        assert (arrival is Arrival.LATE) == (n in lost and n not in seen)
        seen.add(n)
        if i < len(cuts):
            for loss in checker.settle(cuts[i]):
                found = set(range(loss.first, loss.last + 1))
                assert not found & (seen | lost)
                assert max(found) <= cuts[i]
                lost |= found
    for loss in checker.finish(WRITTEN):
        lost |= set(range(loss.first, loss.last + 1))
    assert lost | seen == set(range(1, WRITTEN + 1))


@given(n=st.integers(-5, 100), written=st.integers(0, 50))
def test_what_was_never_written_is_unexpected(n: int, written: int) -> None:
    assert (Checker().arrived(n, written) is Arrival.UNEXPECTED) == (not 1 <= n <= written)


def test_what_is_above_all_that_arrived_may_still_come() -> None:
    checker = Checker()
    checker.arrived(1, 100)
    assert checker.settle(100) == []
    assert checker.finish(100) == [Loss(2, 100, "postfix")]


def test_memory_is_bounded_and_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAPS", 100)
    checker, lost = Checker(), 0
    for n in range(2, 20_002, 2):  # every other one is missing
        assert checker.arrived(n, n) is Arrival.FIRST
        if n % 1000 == 0:
            lost += sum(loss.size for loss in checker.settle(0))
            assert checker.gaps <= 100
            assert len(checker._given_up) <= 100
    lost += sum(loss.size for loss in checker.finish(20_000))
    assert lost == 10_000


def test_two_hundred_thousand_messages_with_few_losses_take_little() -> None:
    checker = Checker()
    for n in range(1, 200_001):
        if n % 1000:
            checker.arrived(n, n)
    assert checker.gaps == 199
    assert sum(loss.size for loss in checker.finish(200_000)) == 200
