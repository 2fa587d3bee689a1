"""The soak held against its own minutes without faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from judge_story import BOOT, START, Story, piece
from judged_stories import of, only, seen

from supervisor.journal.events import LoadWindow, Phase, PhaseEntered, Record, SteadyChanged
from supervisor.judge import summary
from supervisor.judge.evaluation import Verdict
from supervisor.judge.verdict import judge


def baseline(*texts: str, ok: tuple[int, ...] = (100,) * 6, took: float = 0.01, **facts: Any) -> Story:
    """Tell of a minute of baseline, and begin the soak."""
    given: dict[str, Any] = {"loads": ("rpc",), "units": ("worker",), "thresholds": texts, "baseline": 60.0}
    story = Story().begin(**(given | facts))
    story.records = story.records[:1]
    story.wait(9).tell(PhaseEntered(phase=Phase.BASELINE))
    for n in ok:
        story.wait(10).window("rpc", piece(ok=n, failed=100 - n, took=took))
    return story.tell(PhaseEntered(phase=Phase.SOAKING))


def soaked(story: Story, ok: int = 100, took: float = 0.01) -> Story:
    for _ in range(6):
        story.wait(10).window("rpc", piece(ok=ok, failed=100 - ok, took=took))
    return story.end()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("p99 < 2x baseline", "fail"),
        ("p99 < 4x baseline", "pass"),
        ("p99 < baseline + 30ms", "pass"),
        ("ok >= baseline - 11%", "pass"),
        ("ok >= baseline - 9%", "fail"),
        ("failures <= baseline + 11%", "pass"),
        ("ok rate >= 0.8x baseline", "pass"),
        ("ok rate >= 0.95x baseline", "fail"),
        ("p99 < 2x baseline in every 30s", "fail"),
        ("ok >= baseline - 11% in every 30s", "pass"),
    ],
)
def test_the_soak_is_held_against_its_baseline(text: str, verdict: str) -> None:
    checked = only(soaked(baseline(text), ok=90, took=0.03))

    assert checked.verdict == verdict, checked.why
    assert "the baseline has " in checked.why


def _crash(story: Story) -> None:
    at = next(n for n, one in enumerate(story.records) if isinstance(one.event, LoadWindow))
    crash = Story()
    crash.now = 12.0
    story.records[at:at] = crash.crash().records


def _steady(story: Story) -> None:
    story.records.insert(3, Record(4, START + 20, BOOT + 20, SteadyChanged(holds=False, failing=("x",))))


@pytest.mark.parametrize(
    ("ok", "spoil", "why"),
    [
        ((100,) * 6, _crash, "worker crashed in it"),
        ((100,) * 6, _steady, "the steady state was lost in it"),
        (
            (100, 100, 100, 80, 80, 80),
            None,
            "the ok share of load rpc was 100.0% in its first half and 80.0% in its second",
        ),
        ((), None, "nothing was to be seen of it in the baseline"),
    ],
)
def test_an_unsteady_baseline_is_no_measure(
    ok: tuple[int, ...], spoil: Callable[[Story], None] | None, why: str
) -> None:
    story = baseline("p99 < 2x baseline", ok=ok)
    if spoil:
        spoil(story)

    checked = only(soaked(story))

    assert checked.verdict is Verdict.INCONCLUSIVE
    assert why in checked.why


def test_a_run_without_a_baseline_has_nothing_to_compare_with() -> None:
    story = of("p99 < 2x baseline").wait(10).operate().end()

    assert only(story).why.startswith("there was no baseline")


def test_the_baseline_counts_for_thresholds_that_do_not_compare() -> None:
    assert seen(soaked(baseline("failures == 0", ok=(100, 99, 100, 100, 100, 100)))) == ("fail", "1")


def test_the_summary_shows_the_soak_beside_its_baseline() -> None:
    text = summary.render(judge(soaked(baseline("p99 < 2x baseline"), ok=90, took=0.03).records))

    assert "Of 1m without faults." in text
    assert "| rpc | baseline | 100% | 10/s | 10ms | 10ms | 10ms |" in text
    assert "|  | whole run | 95% |" in text


def test_a_load_that_begins_later_has_the_rate_of_the_time_in_which_it_worked() -> None:
    """As one does whose processes take 30 of the 60 seconds to start."""
    story = Story().begin(
        loads=("rpc",), units=("worker",), thresholds=("ok rate >= 0.95x baseline",), baseline=60.0
    )
    story.records = story.records[:1]
    story.wait(9).tell(PhaseEntered(phase=Phase.BASELINE)).wait(30)
    for _ in range(3):
        story.wait(10).window("rpc", piece(ok=100))
    checked = only(soaked(story.tell(PhaseEntered(phase=Phase.SOAKING))))

    assert "the baseline has 10/s" in checked.why
