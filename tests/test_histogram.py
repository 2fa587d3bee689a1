from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from supervisor.histogram import Histogram

SECONDS = st.one_of(
    st.floats(0, 10_000), st.floats(0, 0.01), st.sampled_from([0.0, 63e-6, 64e-6, 65e-6, 9000.0])
)
DURATIONS = st.lists(SECONDS, max_size=60)


def histogram_of(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.record(seconds)
    return histogram


@given(
    st.one_of(
        st.integers(0, Histogram.LIMIT),
        st.integers(0, 33).map(lambda n: 2**n - 1),
        st.integers(0, 32).map(lambda n: 2**n),
    )
)
def test_a_bucket_holds_what_its_bounds_say(micros: int) -> None:
    index = Histogram.index(micros)
    low, high = Histogram.bounds(index)
    assert 0 <= index < Histogram.BUCKETS
    assert low <= micros < high
    assert high - low <= max(1, low / Histogram.SUB)


def test_buckets_follow_one_another_without_gap_or_overlap() -> None:
    edge = 0
    for index in range(Histogram.BUCKETS):
        low, high = Histogram.bounds(index)
        assert low == edge
        assert Histogram.index(low) == Histogram.index(high - 1) == index
        edge = high
    assert edge == Histogram.LIMIT + 1


def test_what_is_beyond_the_scheme_counts_in_its_last_bucket_or_its_first() -> None:
    assert Histogram.index(Histogram.LIMIT + 1) == Histogram.index(10**15) == Histogram.BUCKETS - 1
    assert Histogram.index(-5) == 0
    histogram = histogram_of([1e9, -1.0])
    assert histogram.buckets == {0: 1, Histogram.BUCKETS - 1: 1}
    assert histogram.highest == 1e9
    assert histogram.total == 1e9


@given(first=DURATIONS, second=DURATIONS, third=DURATIONS)
def test_merging_is_addition(first: list[float], second: list[float], third: list[float]) -> None:
    together = histogram_of(first + second + third)
    left, right = histogram_of(first), histogram_of(second)
    left.merge(right)
    left.merge(histogram_of(third))
    right.merge(histogram_of(third))
    right.merge(histogram_of(first))
    for merged in (left, right):
        assert merged == together
        assert merged.total == pytest.approx(together.total)
        assert merged.highest == together.highest
        for share in (0.0, 0.5, 0.99, 1.0):
            assert merged.quantile(share) == together.quantile(share)


@given(DURATIONS)
def test_packing_loses_nothing(durations: list[float]) -> None:
    histogram = histogram_of(durations)
    packed = histogram.pack()
    again = Histogram.unpack(packed)
    assert again == histogram
    assert again.total == pytest.approx(histogram.total, abs=1e-6)
    assert again.highest == pytest.approx(histogram.highest, abs=1e-6)
    assert again.pack() == packed
    assert (
        Histogram.unpack(TypeAdapter(list[float]).validate_json(TypeAdapter(list[float]).dump_json(packed)))
        == histogram
    )


@pytest.mark.parametrize(
    "flat", [[1.0], [1.0, 1.0, 5], [1.0, 1.0, -1, 1], [1.0, 1.0, 5, 0], [1.0, 1.0, Histogram.BUCKETS, 1]]
)
def test_what_is_no_packed_histogram_is_refused(flat: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot read a histogram"):
        Histogram.unpack(flat)


def test_an_empty_histogram_has_no_quantiles() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram.unpack([]) == Histogram.unpack(Histogram().pack()) == Histogram()


@given(durations=st.lists(SECONDS.filter(lambda s: s < 8000), min_size=1, max_size=60), share=st.floats(0, 1))
def test_a_quantile_is_never_flattering_and_at_most_a_bucket_high(
    durations: list[float], share: float
) -> None:
    exact = sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]
    found = histogram_of(durations).quantile(share)
    assert found is not None
    assert exact <= found <= exact * (1 + 1 / Histogram.SUB) + 2e-6


def test_quantiles_rise_and_end_at_the_longest() -> None:
    rng = random.Random(1)  # noqa: S311  # samples, not secrets
    durations = [rng.lognormvariate(-5, 1) for _ in range(5000)]
    histogram = histogram_of(durations)
    quantiles = [histogram.quantile(n / 100) for n in range(101)]
    assert quantiles == sorted(quantiles)  # type: ignore[type-var]  # none of them is None
    assert quantiles[-1] == max(durations)


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    histogram = Histogram()
    for n in range(200_000):
        histogram.record(n * 0.05)
    assert histogram.count == 200_000
    assert len(histogram.buckets) <= Histogram.BUCKETS
