from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.loads.arrivals import Crew, Slope, between, bursts, constant, crew, poisson, ramp

RATES = st.floats(0.1, 10_000)
SINCE = st.floats(0, 10_000)
RISES = st.just(0.0) | st.floats(1, 200)
SLOPES = st.lists(st.builds(Slope, RATES, st.floats(0.1, 100)), min_size=1, max_size=5)


def until(times: Iterator[float], end: float) -> list[float]:
    return list(takewhile(lambda due: due < end, times))


@given(rate=RATES, since=SINCE, seed=st.integers(), slopes=SLOPES)
def test_no_schedule_goes_back_or_before_its_beginning(
    rate: float, since: float, seed: int, slopes: list[Slope]
) -> None:
    chance = random.Random(seed)  # noqa: S311  # draws of a schedule
    for times in (
        constant(rate, since),
        ramp(slopes, since),
        poisson(rate, chance, since),
        between(1 / rate, 2 / rate, str(seed), since),
        bursts(3, 1 / rate, since, since),
        bursts(3, 1 / rate, 0.7 / rate, since),
    ):
        due = list(islice(times, 50))
        assert due[0] >= since - 1e-9
        assert all(one <= other for one, other in pairwise(due))


@given(rate=RATES, n=st.integers(1, 10**9))
def test_a_constant_rate_never_drifts(rate: float, n: int) -> None:
    due = next(constant(rate, n / rate))
    assert math.isclose(due, n / rate, abs_tol=1.5 / rate)
    assert math.isclose(due * rate, round(due * rate), rel_tol=1e-9)


@given(rate=st.floats(1, 1000), cut=st.floats(0, 5))
def test_a_schedule_entered_later_goes_on_where_it_would_be(rate: float, cut: float) -> None:
    whole = until(constant(rate), 5)
    rest = until(constant(rate, cut), 5)
    assert rest == whole[len(whole) - len(rest) :]
    assert abs(len(rest) - sum(due >= cut for due in whole)) <= 1, "but for the rounding of one"


@given(slopes=st.lists(st.builds(Slope, RISES, st.floats(0.1, 3)), min_size=1, max_size=4))
def test_a_ramp_makes_as_many_operations_as_its_area(slopes: list[Slope]) -> None:
    seconds = sum(slope.seconds for slope in slopes)
    lows = [0.0, *(slope.rate for slope in slopes)]
    area = sum((low + slope.rate) / 2 * slope.seconds for low, slope in zip(lows, slopes, strict=False))
    assert abs(len(until(ramp(slopes), seconds)) - area) <= 1
    assert abs(len(until(ramp(slopes, seconds), seconds + 1)) - slopes[-1].rate) <= 1, "the last rate stays"


@given(
    slopes=st.lists(st.builds(Slope, st.floats(1, 200), st.floats(0.1, 3)), min_size=1, max_size=4),
    cut=st.floats(0, 5),
)
def test_a_ramp_entered_later_goes_on_where_it_would_be(slopes: list[Slope], cut: float) -> None:
    whole = [due for due in until(ramp(slopes), 6) if due >= cut]
    assert abs(len(until(ramp(slopes, cut), 6)) - len(whole)) <= 1
    for one, other in zip(reversed(until(ramp(slopes, cut), 6)), reversed(whole), strict=False):
        assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("rates", "per_second"),
    [((100, 100, 10), [50, 100, 55, 10]), ((100, 0), [50, 50, 0, 0]), ((40, 0, 0, 60), [20, 20, 0, 30])],
)
def test_a_ramp_up_and_down(rates: tuple[float, ...], per_second: list[int]) -> None:
    due = until(ramp([Slope(rate, 1) for rate in rates]), 4)
    assert [sum(second <= one < second + 1 for one in due) for second in range(4)] == per_second


@given(seed=st.integers())
def test_poisson_has_its_rate_and_its_spread(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # draws of a schedule
    due = list(islice(poisson(100, chance), 10_000))
    assert 90 < len(due) / due[-1] < 110
    gaps = sorted(one - other for other, one in pairwise(due))
    assert math.isclose(gaps[len(gaps) // 2], math.log(2) / 100, rel_tol=0.15), "exponential, not even"


def test_the_same_seed_gives_the_same_times() -> None:
    def draw() -> list[float]:
        return list(islice(between(0.05, 0.2, "1/rpc", 3), 20))

    assert draw() == draw()
    assert all(0.05 <= one - other <= 0.2 + 1e-9 for other, one in pairwise([3, *draw()]))


@settings(max_examples=20)
@given(of=st.integers(1, 5), done=st.integers(1, 2000))
def test_gaps_that_are_shared_are_those_of_the_whole(of: int, done: int) -> None:
    whole = list(islice(between(0.05, 0.2, "1/rpc", 3), of * (done + 20)))
    for process in range(of):
        mine = list(islice(between(0.05, 0.2, "1/rpc", 3, (process, of)), done + 20))
        assert mine == whole[process::of]
        later = list(islice(between(0.05, 0.2, "1/rpc", mine[done], (process, of), done=done), 20))
        assert later == pytest.approx(mine[done:]), "who begins anew goes on where it was"


def test_bursts_are_due_at_one_instant() -> None:
    assert list(islice(bursts(3, 10), 6)) == [0, 0, 0, 10, 10, 10]
    assert list(islice(bursts(2, 10, first=0.1), 4)) == [0.1, 0.1, 10.1, 10.1], "the first one is not missed"
    assert list(islice(bursts(2, 10, first=0.1, since=0.2), 3)) == [10.1, 10.1, 20.1], "others had that one"
    assert list(islice(bursts(2, 10, first=5, since=1), 3)) == [5, 5, 15]


@pytest.mark.parametrize(
    ("at", "expected"),
    [(0, (10, 30)), (29, (10, 1)), (30, (25, 60)), (90, (50, math.inf)), (1e9, (50, math.inf))],
)
def test_workers_by_stage(at: float, expected: tuple[int, float]) -> None:
    assert crew([Crew(10, 30), Crew(25, 60), Crew(50, 60)], at) == expected
