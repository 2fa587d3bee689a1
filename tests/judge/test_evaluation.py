from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_story import Story, patient, piece

from supervisor.journal.events import (
    CUT_OFF,
    EndReason,
    FaultInjected,
    LoadStopped,
    Observation,
    UnitGivenUp,
)
from supervisor.judge.document import document
from supervisor.judge.evaluation import Checked, Verdict, check, show
from supervisor.judge.thresholds import Unit
from supervisor.judge.verdict import judge


def checked(story: Story, text: str) -> Checked:
    return check(text, judge(story.records).tally)


def busy() -> Story:
    """Tell of 1,000 scheduled operations and four crashes."""
    story = Story().begin(
        units=("worker", "idle"), loads=("rpc", "idle"), faults=("restart-nats", "never"), duration=None
    )
    story.wait(10).window(
        "rpc",
        piece(ok=949, took=0.01),
        piece(ok=1, took=0.3),
        piece("restart-nats#1:during", failed=20, indeterminate=15),
        piece(failed=4, indeterminate=1),
        scheduled=1000,
        late=3,
        dropped=10,
        counters={"lost": 2, "skipped": 1, "my_own": 4.5},
    )
    story.crash().crash().crash(episodes=("restart-nats#1:during",))
    story.tell(UnitGivenUp(unit="worker", crashes=3, intensity="2 / 1m"))
    return story.episode(recovery=3.0).wait(1).episode(n=2, recovery=12.5)


@pytest.mark.parametrize(
    ("text", "verdict", "shown", "why"),
    [
        ("load rpc: ok >= 95%", "pass", "95%", "950 of 1,000 scheduled operations"),
        ("ok > 95%", "fail", "95%", "950 of 1,000 scheduled operations"),
        ("failures <= 40", "pass", "40", "40 of 1,000"),
        ("failures < 4%", "fail", "4%", "40 of 1,000"),
        ("failed == 24", "pass", "24", ""),
        ("indeterminate == 16", "pass", "16", ""),
        ("unexplained failures == 0", "fail", "5", ""),
        ("dropped <= 1%", "pass", "1%", ""),
        ("late == 3", "pass", "3", ""),
        ("p50 < 20ms", "pass", "10.24ms", "of 950 ok operations"),
        ("p99 < 10ms", "fail", "10.24ms", ""),
        ("max <= 300ms", "inconclusive", "300ms", "soakd itself started 3 of them late"),
        ("service p90 < 20ms", "pass", "10.24ms", ""),
        ("load idle: ok >= 0%", "inconclusive", "nothing", "idle did not schedule a single operation"),
        ("load idle: p99 < 1h", "inconclusive", "nothing", "idle did not schedule a single operation"),
        ("load other: ok >= 95%", "inconclusive", "nothing", "there was no load other in this run"),
        ("load rpc: lost == 0", "fail", "2", ""),
        ("load rpc: tests skipped <= 1", "pass", "1", ""),
        ("load rpc: counter my own < 5", "inconclusive", "nothing", "cannot be read"),
        ("load rpc: counter my_own < 5", "pass", "4.5", ""),
        ("duplicates == 0", "inconclusive", "nothing", "all loads never reported a count of duplicates"),
        ("crashes <= 2", "fail", "3", "worker 3"),
        ("crashes of idle == 0", "pass", "0", ""),
        ("crashes of nobody == 0", "inconclusive", "nothing", "there was no unit nobody in this run"),
        ("unexplained crashes < 3", "pass", "2", "worker 2"),
        ("restarts == 3", "pass", "3", ""),
        ("given_up == 0", "fail", "1", "worker 1"),
        ("recovery < 12s", "fail", "12.5s", "the worst of 2 recoveries"),
        ("recovery of restart-nats <= 12.5s", "pass", "12.5s", ""),
        ("recovery of never < 1m", "inconclusive", "nothing", "no recovery of an episode was seen"),
        ("recovery of nothing < 1m", "inconclusive", "nothing", "there was no fault nothing in this run"),
        ("episodes == 2", "pass", "2", ""),
        (
            "a new metric >= 5",
            "inconclusive",
            "nothing",
            "cannot be read by this version of soakd (column 1:",
        ),
    ],
)
def test_holds_a_threshold_against_what_was_seen(text: str, verdict: str, shown: str, why: str) -> None:
    one = checked(busy().end(EndReason.SIGNAL), text)

    assert (one.verdict, one.shown) == (verdict, shown)
    assert why in one.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("crashes == 0", "the soak did not begin"),
        ("recovery < 30s", "there was no fault in this run"),
        ("episodes == 0", "there was no fault in this run"),
        ("ok >= 0%", "all loads did not schedule a single operation"),
        ("lost == 0", "all loads never reported a count of lost"),
    ],
)
def test_nothing_seen_is_inconclusive(text: str, why: str) -> None:
    one = checked(Story(), text)

    assert (one.verdict, one.seen) == (Verdict.INCONCLUSIVE, None)
    assert why in one.why


def test_a_fault_free_soak_without_units_has_no_crashes_to_count() -> None:
    assert checked(Story().begin().end(), "crashes == 0").why == "there was no unit in this run"


def test_drops_and_operations_without_an_outcome_count_against_the_ok_share() -> None:
    story = Story().begin(loads=("rpc",)).wait(10).operate(ok=90, scheduled=100, started=95, dropped=5)

    assert checked(story, "ok >= 91%").shown == "90%"


def test_a_load_that_schedules_less_than_it_does_gains_nothing() -> None:
    story = Story().begin(loads=("rpc",)).window("rpc", piece(ok=50, failed=50), scheduled=0, started=0)

    assert checked(story, "ok >= 51%").shown == "50%"


def test_operations_cut_off_at_the_end_are_indeterminate_once() -> None:
    story = Story().begin(loads=("rpc",)).operate(ok=90, scheduled=100, started=100)
    story.tell(LoadStopped(load="rpc", open=10))
    reported = Story().begin(loads=("rpc",))
    reported.window("rpc", piece(ok=90, indeterminate=10), scheduled=100, started=100)
    reported.tell(LoadStopped(load="rpc", open=10))

    assert checked(story, "failures == 0").shown == "10"
    assert checked(story, "unexplained failures == 0").verdict is Verdict.PASS
    assert checked(reported, "failures == 0").shown == "10"


def test_what_the_end_cuts_off_fails_wherever_failures_are_counted_and_is_explained_by_the_end() -> None:
    story = Story().begin(loads=("rpc",), faults=("a",), thresholds=CUT).wait(50).operate(ok=90)
    story.episode("a").wait(1).end()
    cut = {"error": CUT_OFF, "first_failure": story.wait(4).mono}
    story.window("rpc", piece("a#1:during", indeterminate=2, **cut), piece(indeterminate=3, **cut))
    story.tell(LoadStopped(load="rpc", open=5))

    shown = {one.text: (one.verdict, one.shown) for one in judge(story.records).thresholds}
    assert shown == {
        "failures == 0": (Verdict.FAIL, "5"),
        "failures during a == 0": (Verdict.FAIL, "2"),
        "failures outside a == 0": (Verdict.FAIL, "3"),
        "failures == 0 in every 10s": (Verdict.FAIL, "5"),
        "unexplained failures == 0": (Verdict.PASS, "0"),
        "unexplained failures == 0 in every 10s": (Verdict.PASS, "0"),
    }
    judged = document(judge(story.records))
    load, (episode,) = judged["loads"]["rpc"], judged["episodes"]
    assert (load["cut_off"], load["errors"], load["unexplained_errors"]) == (5, {CUT_OFF: 5}, {})
    assert episode["errors"] == {CUT_OFF: 2}
    assert "5 operations cut off at the end, counted as indeterminate" in " ".join(judged["notes"])
    assert judged["first"].keys() == {"failed operation"}


CUT = (
    "failures == 0",
    "failures during a == 0",
    "failures outside a == 0",
    "failures == 0 in every 10s",
    "unexplained failures == 0",
    "unexplained failures == 0 in every 10s",
)


def test_timeouts_cannot_pass_as_no_failures() -> None:
    story = Story().begin(loads=("rpc",)).window("rpc", piece(ok=1, indeterminate=500)).end()

    assert checked(story, "failures == 0").verdict is Verdict.FAIL


def test_an_episode_that_did_not_recover_fails_any_limit_on_recovery() -> None:
    story = Story().begin(faults=("a",)).episode("a").episode("a", 2, recovered=False, recovery=None).end()

    one = checked(story, "recovery < 24h")

    assert (one.verdict, one.shown) == (Verdict.FAIL, "no recovery")
    assert one.why == "seen no recovery (a#2 did not recover in its time)"


def test_latency_is_that_of_all_loads_together_or_of_one() -> None:
    story = Story().begin(loads=("a", "b")).operate("a", ok=99, took=0.01).operate("b", ok=1, took=2.0)

    assert checked(story, "max < 1s").verdict is Verdict.FAIL
    assert checked(story, "load a: max < 1s").verdict is Verdict.PASS


def test_service_time_is_the_response_time_where_no_other_is_given() -> None:
    plain = piece(ok=10, took=0.5)
    waited = piece(ok=10, took=2.0).model_copy(update={"service": plain.response})
    story = Story().begin(loads=("a",)).window("a", plain, waited)

    assert checked(story, "service max <= 500ms").verdict is Verdict.PASS
    assert checked(story, "max <= 500ms").verdict is Verdict.FAIL


def test_a_latency_without_an_ok_operation_is_inconclusive() -> None:
    story = Story().begin(loads=("a",)).window("a", piece(failed=10))

    assert checked(story, "p99 < 1s").why == "all loads has no ok operation to take a time of"


@pytest.mark.parametrize(("late", "verdict"), [(9, Verdict.PASS), (10, Verdict.INCONCLUSIVE)])
def test_a_latency_that_our_own_lateness_may_have_made_is_inconclusive(late: int, verdict: Verdict) -> None:
    story = Story().begin(loads=("a",)).operate("a", ok=1000, late=late)

    assert checked(story, "p99 < 1s").verdict is verdict
    assert checked(story, "ok == 100%").verdict is Verdict.PASS


def test_a_goal_that_a_short_run_could_still_have_reached_is_inconclusive_not_failed() -> None:
    story = (
        Story().begin(faults=("a",), duration=3600.0).intend("a").tell(FaultInjected(episode="a#1", took=0))
    )
    whole, cut = story.records, EndReason.SIGNAL

    assert checked(story.end(cut), "episodes >= 2").verdict is Verdict.INCONCLUSIVE
    assert checked(story, "episodes >= 1").verdict is Verdict.PASS
    assert checked(story, "episodes < 1").verdict is Verdict.FAIL
    story.records = [record for record in whole if not isinstance(record.event, Observation)]
    assert checked(Story().begin(faults=("a",)).intend("a").end(), "episodes >= 2").verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.9499999999, Unit.SHARE, "94.9999%"),
        (1.0, Unit.SHARE, "100%"),
        (0.999999999, Unit.SHARE, "99.9999%"),
        (0.0, Unit.SHARE, "0%"),
        (12345.0, Unit.COUNT, "12,345"),
        (0.0, Unit.COUNT, "0"),
        (100.0, Unit.COUNT, "100"),
        (0.25004, Unit.DURATION, "250.04ms"),
        (0.0, Unit.DURATION, "0ms"),
        (90.0, Unit.DURATION, "1m30s"),
    ],
)
def test_shows_values_so_that_the_side_of_a_threshold_is_seen(value: float, unit: Unit, shown: str) -> None:
    assert show(value, unit) == shown


@patient
@given(ok=st.integers(0, 10_000), rest=st.integers(0, 10_000), per_mille=st.integers(0, 1000))
def test_an_exact_share_is_on_the_right_side(ok: int, rest: int, per_mille: int) -> None:
    total = ok + rest
    tally = judge(Story().begin(loads=("a",)).window("a", piece(failed=rest), scheduled=total).records).tally
    tally.loads["a"].ok = ok

    one = check(f"ok >= {per_mille / 10}%", tally)

    if not total:
        assert one.verdict is Verdict.INCONCLUSIVE
    else:
        assert (one.verdict is Verdict.PASS) is (ok * 1000 >= per_mille * total)
