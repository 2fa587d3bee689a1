"""Sums of packed histograms: the same as adding up the histograms themselves, and nothing that is none is added."""

from __future__ import annotations

from random import Random

import pytest

from supervisor.histogram import Histogram
from supervisor.judge.latencies import MANY, PackedSum


def test_a_sum_of_packed_histograms_is_the_histogram_of_everything() -> None:
    rng = Random(7)  # noqa: S311  # samples
    total, everything = PackedSum(), Histogram()
    for often in (1, 20, 400):  # buckets of more than 255 operations, too
        part = Histogram()
        for _ in range(often):
            for seconds in (0.0, 0.001, rng.lognormvariate(-5.5, 0.3), rng.lognormvariate(-1, 3)):
                part.record(seconds)
                everything.record(seconds)
        total.add(part.pack())
    total.add(())
    assert total.histogram() == everything
    assert total.highest == pytest.approx(everything.highest, abs=1e-6)


@pytest.mark.parametrize("often", [3, MANY - 1, MANY, 3 * MANY])
def test_sums_of_few_and_of_many_add_up_alike(often: int) -> None:
    rng = Random(often)  # noqa: S311  # samples
    few, total, everything = PackedSum(), PackedSum(), Histogram()
    for n in range(often):
        part = Histogram()
        for _ in range(9):
            part.record(rng.lognormvariate(-5.5, 1))
        everything.merge(part)
        total.add(part.pack())
        if n < 3:
            few.add(part.pack())
    assert total.histogram() == everything
    for one, other in ((total, few), (few, total)):
        both = PackedSum()
        both.merge(one)
        both.merge(other)
        one.merge(other)
        assert one.histogram() == both.histogram() == Histogram.unpack(both.histogram().pack())
        one.merge(other, -1)
    assert total.histogram() == everything
    assert set(total.counts) == set(everything.buckets)


@pytest.mark.parametrize(
    "flat",
    [
        (0.1, 0.1),
        (0.1, 0.1, 5),
        (0.1, 0.1, 5, 1, 2),
        (0.1, 0.1, 5, -1),
        (0.1, 0.1, 5, 300, 2, -300),
        (0.1, 0.1, 5, 1, -2, 1),
        (0.1, 0.1, -5, 1, 7, 1),
        (0.1, 0.1, Histogram.BUCKETS, 1),
        (0.1, 0.1, 5, 1, Histogram.BUCKETS - 5, 1),
        (-0.1, 0.1, 5, 1),
        (0.1, -0.1, 5, 1),
    ],
)
def test_what_no_histogram_packs_to_is_refused_and_nothing_of_it_is_added(flat: tuple[float, ...]) -> None:
    total = PackedSum()
    with pytest.raises(ValueError, match="not packed by soakd"):
        total.add(flat)
    assert total == PackedSum()
