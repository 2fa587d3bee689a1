"""What soakd's own slowness keeps from being relied upon."""

from __future__ import annotations

import pytest
from judge_story import piece
from judged_stories import of, only, seen

from supervisor.histogram import Histogram
from supervisor.journal.events import EndReason, EpisodeClosed, FaultInjected, FaultUndone, LoopLag
from supervisor.judge.evaluation import Verdict


def lagged(seconds: float, count: int = 100) -> tuple[int | float, ...]:
    histogram = Histogram()
    for _ in range(count):
        histogram.record(seconds)
    return tuple(histogram.pack())


@pytest.mark.parametrize(
    ("text", "lag", "verdict"),
    [
        ("p99 < 1s", 0.15, "pass"),
        ("p99 < 1s", 0.25, "inconclusive"),
        ("p99 < 5ms", 0.25, "fail"),  # it takes longer than that even from when we began
        ("service p99 < 1s", 0.25, "pass"),
        ("ok == 100%", 0.25, "pass"),
    ],
)
def test_operations_that_we_began_late_say_nothing_of_short_times(
    text: str, lag: float, verdict: str
) -> None:
    story = of(text).wait(10).operate(ok=100, late=100, lag=lagged(lag)).end()

    assert seen(story)[0] == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("p99 < 1s", "inconclusive"), ("service p99 < 1s", "inconclusive"), ("p99 < 5s", "pass")],
)
def test_a_slow_event_loop_says_nothing_of_short_times(text: str, verdict: str) -> None:
    story = of(text).wait(10).operate(ok=100).tell(LoopLag(times=lagged(0.5))).end()

    checked = only(story)

    assert checked.verdict == verdict
    assert (verdict == "pass") or "its event loop was p99 500ms late" in checked.why


def test_a_window_in_which_we_were_late_is_left_out() -> None:
    story = of("p99 < 1s in every 30s", duration=None)
    for n in range(9):
        late = n == 4
        waited = piece(ok=100, took=2.0 if late else 0.01).model_copy(
            update={"service": piece(ok=100).response}
        )
        story.wait(10).window("rpc", waited, lag=lagged(2.0 if late else 0.0001))

    checked = only(story.end(EndReason.SIGNAL))

    assert checked.verdict is Verdict.INCONCLUSIVE
    assert "soakd itself was so slow" in checked.why


@pytest.mark.parametrize(
    ("text", "lagging", "verdict"),
    [
        ("p99 < 1s in every 30s", (), "pass"),
        ("p99 < 1s in every 30s", (4,), "inconclusive"),
        ("p99 outside episodes < 1s", (4,), "inconclusive"),
        ("p99 during restart-nats < 1s", (4,), "pass"),
        ("p99 during restart-nats < 1s", (7,), "inconclusive"),
        ("p99 < 5s in every 30s", (4,), "pass"),
    ],
)
def test_a_slow_event_loop_is_held_against_the_time_it_was_slow_in(
    text: str, lagging: tuple[int, ...], verdict: str
) -> None:
    story = of(text, faults=("restart-nats",), duration=None).wait(10)
    for n in range(9):
        if n == 7:
            story.intend().tell(FaultInjected(episode="restart-nats#1", took=0.0))
        marks = ("restart-nats#1:during",) if n == 7 else ()
        story.wait(10).window("rpc", piece(*marks, ok=100, took=0.01))
        story.tell(LoopLag(times=lagged(0.5 if n in lagging else 0.0001)))
        if n == 7:
            story.tell(FaultUndone(episode="restart-nats#1"))
            story.tell(EpisodeClosed(episode="restart-nats#1", recovered=True, recovery=0.0))

    checked = only(story.wait(1).end(EndReason.SIGNAL))

    assert checked.verdict == verdict, checked.why


@pytest.mark.parametrize(("load", "verdict"), [("", "pass"), ("rpc", "inconclusive"), ("other", "pass")])
def test_processes_of_a_load_are_as_late_as_they_are_themselves(load: str, verdict: str) -> None:
    """Of a load whose processes have event loops of their own it does not matter how late the daemon's was."""
    story = of("load rpc: p99 < 1s", loads=("rpc", "other")).wait(10).operate(ok=100).operate("other")
    story.tell(LoopLag(times=lagged(0.0001), load="rpc"), LoopLag(times=lagged(0.5), load=load))

    assert seen(story.end())[0] == verdict
