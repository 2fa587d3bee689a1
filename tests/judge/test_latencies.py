"""Sums of packed histograms: the same as adding up the histograms themselves, and nothing that is none is added."""

from __future__ import annotations

from random import Random

import pytest

from supervisor.histogram import Histogram
from supervisor.judge.latencies import PackedSum


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
