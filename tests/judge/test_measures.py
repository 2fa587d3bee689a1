"""Thresholds on parts of a run, on sliding windows and on what loads count, and runs that end early by them."""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_story import Story, patient, piece
from judged_stories import of, only, seen

from supervisor.journal.events import EndReason, LoadBroken, LoadWindow, Record, RunStarted
from supervisor.journal.fold import fold
from supervisor.journal.lines import encode, line_of, parse
from supervisor.journal.replay import decode
from supervisor.judge.abort import Abort
from supervisor.judge.curve import STEPS, Curve
from supervisor.judge.evaluation import Verdict
from supervisor.judge.thresholds import Threshold
from supervisor.judge.verdict import judge

# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "verdict", "shown"),
    [
        ("failures during rollout == 0", "fail", "6"),
        ("failures while disturbed by rollout == 0", "fail", "4"),
        ("failures while recovering == 0", "fail", "3"),
        ("failures outside rollout == 0", "fail", "4"),
        ("failures outside episodes == 3", "pass", "3"),
        ("failures during bounce <= 1", "pass", "1"),
        ("ok during rollout >= 60%", "pass", "60%"),
        ("dropped during rollout == 4", "pass", "4"),
        ("p99 during rollout < 1s", "fail", "2000ms"),
        ("p99 outside episodes < 1s", "pass", "10ms"),
        ("crashes of worker during rollout == 1", "pass", "1"),
        ("crashes outside episodes == 0", "pass", "0"),
        ("failures during never == 0", "inconclusive", "nothing"),
        ("failures during unknown == 0", "inconclusive", "nothing"),
    ],
)
def test_a_part_of_the_run(text: str, verdict: str, shown: str) -> None:
    story = of(text, faults=("rollout", "bounce", "never"), duration=None)
    story.intend("rollout").crash(episodes=("rollout#1:direct",))
    story.records.pop()  # the restart is told below
    story.episode("bounce").window(
        "rpc",
        piece("rollout#1:during", ok=10, failed=4, took=2.0, dropped=4),
        piece("rollout#1:recovering", ok=5, indeterminate=2),
        piece("bounce#1:recovering", failed=1),
        piece(ok=100, failed=3),
        dropped=4,
    )
    story.episode("rollout", n=1)

    checked = only(story.end(EndReason.SIGNAL))

    assert (checked.verdict, checked.shown.replace("2s", "2000ms")) == (verdict, shown), checked.why


def test_a_part_in_which_the_load_did_nothing_says_nothing() -> None:
    story = of("failures during rollout == 0", faults=("rollout",)).operate(ok=9).episode("rollout").end()

    assert only(story).why == "all loads did not schedule a single operation during rollout"


# --- sliding windows -------------------------------------------------------------------------------------------------


def test_a_bad_minute_is_found_wherever_it_lies() -> None:
    story = of("ok >= 90% in every 1m", duration=None)
    for failed in (0, 0, 0, 0, 0, 0, 30, 40, 0, 0, 0, 0):
        story.wait(10).window("rpc", piece(ok=100 - failed, failed=failed))

    checked = only(story.end(EndReason.SIGNAL))

    assert (checked.verdict, checked.shown) == (Verdict.FAIL, "88.3333%")
    assert checked.why == "seen 88.3333% (the worst of 8 windows of 1m, from 08:00:30 to 08:01:30 UTC)"


@patient
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=6, max_size=40))
def test_every_window_there_was_is_looked_at(steps: list[tuple[int, int]]) -> None:
    story = of("failures <= 20 in every 1m", duration=None)
    for ok, failed in steps:
        story.wait(10).window("rpc", piece(ok=ok, failed=failed))
    story.end(EndReason.SIGNAL)
    windows = [sum(failed for _, failed in steps[n : n + 6]) for n in range(len(steps) - 5)]

    checked = only(story)

    assert checked.seen == max(windows) or not any(ok + failed for ok, failed in steps)
    assert (checked.verdict is Verdict.FAIL) is (max(windows) > 20)


@patient
@given(st.lists(st.lists(st.integers(1, 5000), max_size=4), min_size=6, max_size=30))
def test_a_quantile_over_windows_is_that_of_each_window(steps: list[list[int]]) -> None:
    story = of("max < 3s in every 1m", duration=None)
    for times in steps:
        story.wait(10).window("rpc", *(piece(ok=1, took=time / 1000) for time in times))
    windows = [list(chain(*steps[n : n + 6])) for n in range(len(steps) - 5)]

    checked = only(story.end(EndReason.SIGNAL))

    worst = max((max(window) for window in windows if window), default=None)
    assert checked.seen is None if worst is None else checked.seen == pytest.approx(worst / 1000)
    if worst is not None and worst < 3000:
        # the first nine seconds, before the first step, are a window's beginning too
        assert (checked.verdict is Verdict.PASS) is all([*windows, [*chain(*steps[:5])]])


def test_a_window_without_an_operation_can_fail_and_never_pass() -> None:
    def story(failed: int) -> Story:
        told = of("ok >= 90% in every 30s", duration=None).wait(5).window("rpc", piece(ok=9, failed=failed))
        return told.wait(75).operate().end(EndReason.SIGNAL)

    assert only(story(9)).verdict is Verdict.FAIL
    checked = only(story(0))
    assert checked.verdict is Verdict.INCONCLUSIVE
    assert "there was no operation to see it from" in checked.why


def test_a_rate_falls_where_nothing_happens() -> None:
    story = of("ok rate >= 5/s in every 30s", duration=None)
    for ok in (100, 100, 100, 0, 0, 0, 100, 100, 100):
        story.wait(10).operate(ok=ok)

    assert seen(story.end(EndReason.SIGNAL)) == ("fail", "0/s")


def test_a_run_shorter_than_the_window_has_none() -> None:
    story = of("failures == 0 in every 5m", duration=None).wait(10).operate().end(EndReason.SIGNAL)

    assert only(story).why == "the soak was shorter than 5m, so there is no such window"


def test_crashes_are_counted_in_every_window() -> None:
    story = of("crashes of worker <= 1 in every 1m", duration=None).wait(20).crash().wait(70).crash()
    assert seen(_quiet(story)) == ("pass", "1")
    story = of("crashes of worker <= 1 in every 1m", duration=None).wait(20).crash().wait(30).crash()
    assert seen(_quiet(story)) == ("fail", "2")


def _quiet(story: Story) -> Story:
    return story.wait(80).end(EndReason.SIGNAL)


def folded(records: list[Record], span: float) -> list[Record]:
    """Return the records as they are when their journal is above its budget."""
    lines = fold([line_of(record, encode(record.event)) for record in records], span)
    heads = [parse(line) for line in lines.splitlines(keepends=True)]
    return [Record(h.sequence, h.wall, h.mono, decode(h.kind, h.version, h.data)) for h in heads]


@pytest.mark.parametrize("bad", [0, 60])
def test_folding_changes_no_verdict_unnoticed(bad: int) -> None:
    texts = ("ok >= 90% in every 1m", "ok >= 90%", "p99 < 1s", "failures outside episodes <= 100")
    story = of(*texts, duration=None)
    for n in range(60):
        story.wait(10).window("rpc", piece(ok=100, failed=bad if n == 30 else 0))
    story.end(EndReason.SIGNAL)

    fine = {one.text: one for one in judge(story.records).thresholds}
    coarse = {one.text: one for one in judge(folded(story.records, 600)).thresholds}

    assert fine[texts[0]].verdict is (Verdict.FAIL if bad else Verdict.PASS) or bad == 60
    assert coarse[texts[0]].verdict is Verdict.INCONCLUSIVE
    assert "folded" in coarse[texts[0]].why
    for text in texts[1:]:
        assert coarse[text] == fine[text]


# --- what loads count ------------------------------------------------------------------------------------------------


def counting(text: str, counters: dict[str, float], ok: int = 10, **facts: Any) -> Story:
    declared: dict[str, Any] = {"counters": {"rpc": ("duplicates",)}, "settled": {"rpc": ("lost", "skipped")}}
    return of(text, **(declared | facts)).wait(10).operate(ok=ok, counters=counters)


@pytest.mark.parametrize(
    ("text", "counters", "ok", "verdict"),
    [
        ("duplicates == 0", {}, 10, "pass"),
        ("duplicates == 0", {"duplicates": 0}, 0, "inconclusive"),
        ("duplicates == 0", {"duplicates": 2}, 10, "fail"),
        ("lost == 0", {}, 10, "inconclusive"),
        ("lost == 0", {"lost": 0}, 10, "pass"),
        ("lost == 0", {"lost": 1}, 10, "fail"),
        ("tests skipped == 0", {"skipped": 0}, 0, "inconclusive"),
        ("tests skipped == 0", {"skipped": 0}, 10, "pass"),
        ("double_claims == 0", {}, 10, "inconclusive"),
        ("duplicates == 0 in every 10s", {}, 10, "pass"),
    ],
)
def test_silence_is_a_zero_only_of_who_was_at_work(
    text: str, counters: dict[str, float], ok: int, verdict: str
) -> None:
    assert seen(counting(text, counters, ok).end())[0] == verdict


def test_a_zero_of_one_load_does_not_speak_for_another() -> None:
    story = counting(
        "lost == 0", {"lost": 0}, loads=("rpc", "js"), settled={"rpc": ("lost",), "js": ("lost",)}
    )

    assert only(story.operate("js", ok=10).end()).why == "js never reported a count of lost"


def test_what_a_crashed_load_had_not_settled_is_unknown() -> None:
    story = counting("lost == 0", {"lost": 0}).tell(LoadBroken(load="rpc", how="killed", error="e"))

    assert only(story.end()).verdict is Verdict.INCONCLUSIVE


# --- ending early ----------------------------------------------------------------------------------------------------


def told(story: Story, text: str) -> list[tuple[int, str]]:
    """Return after which record an abort was told, and why."""
    found: list[tuple[int, str]] = []
    abort = Abort([Threshold.parse(text)], lambda why: found.append((record.sequence, why)))
    for record in story.records:
        abort.apply(record)
    return found


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("failures <= 50", 51),
        ("failures <= 100", None),
        ("ok >= 90% in every 30s", 14),
        ("crashes == 0", None),
    ],
)
def test_a_threshold_that_is_lost_ends_the_run_at_once(text: str, after: int | None) -> None:
    story = of(text, duration=None)
    total = []
    for n in range(20):
        failed = 31 if n == 7 else 3
        total.append(failed)
        story.wait(10).window("rpc", piece(ok=100 - failed, failed=failed))

    found = told(story, text)

    assert len(found) == (after is not None and max(accumulate(total)) > 50)
    for sequence, why in found:
        assert why.startswith(f"{text} is lost: seen ")
        assert isinstance(story.records[sequence - 1].event, LoadWindow)
        assert sequence < len(story.records)


def test_what_is_not_lost_yet_goes_on() -> None:
    story = (
        of("failures == 3", "ok operations >= 5", duration=None).wait(10).window("rpc", piece(ok=1, failed=2))
    )

    assert not told(story, "failures == 3")
    assert told(story.wait(10).window("rpc", piece(failed=2)), "failures == 3")


def test_the_story_begins_as_it_should() -> None:
    assert isinstance(of("ok >= 1%").records[0].event, RunStarted)


# --- in the reports ---------------------------------------------------------------------------------------------------


def test_an_operation_counts_once_for_a_kind_of_fault() -> None:
    story = (
        of("ok >= 1%", faults=("a", "b")).intend("a").intend("b").crash(episodes=("a#1:direct", "b#1:direct"))
    )
    story.wait(10).window("rpc", piece("a#1:during", "b#1:direct", ok=2, failed=3, error="x"))

    tally = judge(story.end().records).tally

    kind = tally.episodes.kinds["restart"]
    assert (kind.ok, kind.stages, kind.crashes) == (
        2,
        {"direct": 3, "during": 0, "recovering": 0},
        {"worker": 1},
    )
    assert tally.episodes.faults["a"].damage.by_stage["during"].errors == {"x": 3}
    assert tally.episodes.faults["b"].damage.by_stage["direct"].failures == 3


def test_a_course_is_bounded_and_loses_nothing() -> None:
    curve = Curve()
    for n in range(100_000):
        curve.at(5000 + n * 7).ok += 1

    assert len(curve.steps) <= STEPS
    assert sum(span.step.ok for span in curve.spans()) == 100_000
    assert all(one.end <= other.begin for one, other in pairwise(curve.spans()))
