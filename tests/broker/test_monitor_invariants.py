"""What counts as a violation, and above all what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.broker.monitor.invariants import (
    ANSWERS,
    CONFIRM,
    EXPIRED,
    Finding,
    Ledger,
    Question,
    Replaced,
    Violation,
    instant,
)
from supervisor.broker.monitor.snapshot import Stream

THEN, LATER = "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.51Z"
BEFORE = Stream(
    "S", THEN, seen=0.0, messages=91, first=10, last=100, last_time="2026-01-02T00:00:00Z", leader="n1"
)


def hear(ledger: Ledger, stream: Stream, now: float) -> list[Finding]:
    return ledger.hear(replace(stream, seen=now), asked=now)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    assert hear(ledger, BEFORE, 1) == []
    return ledger


def insist(ledger: Ledger, stream: Stream, start: float = 2.0, seconds: float = CONFIRM) -> list[Finding]:
    """Have a leader say the same for some time, and return what came of it at the end."""
    steps = 10
    for step in range(steps):
        assert hear(ledger, stream, start + seconds * step / steps) == []
    return hear(ledger, stream, start + seconds)


def violation(findings: list[Finding]) -> Violation:
    (found,) = findings
    assert isinstance(found, Violation)
    return found


def test_a_last_sequence_that_stays_back_is_a_violation_with_all_details(ledger: Ledger) -> None:
    found = violation(insist(ledger, replace(BEFORE, last=90, messages=81, leader="n2")))
    assert found.invariant == "stream last_seq"
    assert found.subject == "S"
    assert "100 -> 90, leader n1 -> n2" in found.detail
    assert found.data["before"]["last"] == 100
    assert found.data["now"]["leader"] == "n2"


def test_it_is_told_once_and_the_new_state_is_the_measure(ledger: Ledger) -> None:
    back = replace(BEFORE, last=90)
    insist(ledger, back)
    assert insist(ledger, back, start=20) == []
    assert violation(insist(ledger, replace(BEFORE, last=80), start=40)).data["before"]["last"] == 90


def test_a_first_sequence_that_stays_back_is_a_violation(ledger: Ledger) -> None:
    assert violation(insist(ledger, replace(BEFORE, first=5))).invariant == "stream first_seq"


def test_both_at_once_are_two(ledger: Ledger) -> None:
    findings = insist(ledger, replace(BEFORE, first=1, last=5))
    assert [f.invariant for f in findings if isinstance(f, Violation)] == [
        "stream last_seq",
        "stream first_seq",
    ]


def test_a_creation_time_that_stays_back_is_a_violation(ledger: Ledger) -> None:
    earlier = replace(BEFORE, created="2025-12-31T23:59:59.999999999Z")
    assert violation(insist(ledger, earlier)).invariant == "stream created"


@pytest.mark.parametrize(
    "change", [{"last": 120}, {"first": 101, "messages": 0}, {"first": 50}, {"leader": "n2"}]
)
def test_growth_purge_and_a_new_leader_are_none(ledger: Ledger, change: dict[str, object]) -> None:
    assert insist(ledger, replace(BEFORE, **change), seconds=60) == []  # type: ignore[arg-type]
    assert not ledger.doubts


def test_a_new_leader_that_catches_up_is_none(ledger: Ledger) -> None:
    assert hear(ledger, replace(BEFORE, last=90, leader="n2"), 2) == []
    assert set(ledger.doubts) == {"S"}
    assert hear(ledger, replace(BEFORE, last=100, leader="n2"), 3) == []
    assert not ledger.doubts
    assert insist(ledger, replace(BEFORE, leader="n2"), start=4) == []


def test_answers_without_a_majority_say_nothing(ledger: Ledger) -> None:
    stale = replace(BEFORE, last=5, first=1, created="2020-01-01T00:00:00Z", quorum=False)
    assert insist(ledger, stale, seconds=100) == []
    assert not ledger.doubts


def test_each_new_leader_is_given_its_time(ledger: Ledger) -> None:
    for turn in range(10):
        back = replace(BEFORE, last=90, leader=f"n{turn % 2}")
        assert hear(ledger, back, 2 + turn * (CONFIRM - 1)) == []


def test_a_few_answers_are_not_enough_however_far_apart(ledger: Ledger) -> None:
    back = replace(BEFORE, last=90)
    for turn in range(ANSWERS - 1):
        assert hear(ledger, back, 2 + turn * 100) == []
    assert len(hear(ledger, back, 1000)) == 1


def test_an_answer_to_an_earlier_request_that_arrives_late_is_ignored(ledger: Ledger) -> None:
    assert ledger.hear(replace(BEFORE, last=50, seen=9), asked=0.5) == []
    assert not ledger.doubts


@pytest.mark.parametrize("field", ["expires"])
def test_where_replicas_remove_messages_on_their_own_the_first_sequence_is_not_judged(field: str) -> None:
    ledger, stream = Ledger(), replace(BEFORE, **{field: True})  # type: ignore[arg-type]
    hear(ledger, stream, 1)
    assert insist(ledger, replace(stream, first=5), seconds=60) == []


# --- another stream of the same name ---------------------------------------------------------------------------------


def test_a_deletion_that_was_seen_excuses_everything(ledger: Ledger) -> None:
    ledger.deleted("S")
    new = Stream("S", LATER, 0.0, leader="n2")
    assert hear(ledger, new, 2) == [Replaced("recreated", "S", f"{THEN} -> {LATER}")]
    assert insist(ledger, new, start=3) == []


def test_an_announced_deletion_of_a_stream_that_is_still_the_same_excuses_nothing(ledger: Ledger) -> None:
    ledger.deleted("S")
    assert hear(ledger, BEFORE, 2) == []
    assert violation(insist(ledger, replace(BEFORE, created="2020-01-01T00:00:00Z"), start=3))


def test_a_stream_that_is_gone_is_forgotten(ledger: Ledger) -> None:
    ledger.forget("S")
    assert insist(ledger, Stream("S", "2020-01-01T00:00:00Z", 0.0, last=1)) == []


def test_a_recreation_nobody_saw_is_none_if_the_content_is_another(ledger: Ledger) -> None:
    (found,) = hear(ledger, replace(BEFORE, created=LATER, last=3), 2)
    assert isinstance(found, Replaced), "it has fewer messages: it is another stream"


@pytest.mark.parametrize("stored", [None, "2026-01-03T00:00:00Z"])
def test_a_recreated_stream_that_overtook_the_old_one_is_asked_about(
    ledger: Ledger, stored: str | None
) -> None:
    assert hear(ledger, replace(BEFORE, created=LATER, last=200), 2) == []
    question = ledger.questions["S"]
    assert (question.about, question.before.last) == ("created", 100)
    (found,) = ledger.answer(question, stored)
    assert isinstance(found, Replaced)
    assert not ledger.questions


def test_a_creation_time_that_changes_while_the_messages_stay_is_a_violation(ledger: Ledger) -> None:
    hear(ledger, replace(BEFORE, created=LATER, last=200), 2)
    found = violation(ledger.answer(ledger.questions["S"], BEFORE.last_time))
    assert found.invariant == "stream created"
    assert f"{THEN} -> {LATER}" in found.detail


def test_a_mirror_that_is_created_again_has_the_old_messages_legally() -> None:
    ledger = Ledger()
    hear(ledger, replace(BEFORE, copied=True), 1)
    (found,) = hear(ledger, replace(BEFORE, copied=True, created=LATER, last=200), 2)
    assert isinstance(found, Replaced)


# --- the same message at the same sequence ---------------------------------------------------------------------------


def asked_about_content(ledger: Ledger, **change: object) -> Question:
    assert hear(ledger, replace(BEFORE, last=150, leader="n2", **change), 2) == []  # type: ignore[arg-type]
    question = ledger.questions["S"]
    assert question.about == "content"
    return question


def test_a_new_leader_that_holds_another_message_at_a_sequence_is_a_violation(ledger: Ledger) -> None:
    found = violation(ledger.answer(asked_about_content(ledger), "2026-01-09T00:00:00Z"))
    assert found.invariant == "stream last_seq"
    assert "another message at sequence 100" in found.detail


@pytest.mark.parametrize("stored", [None, BEFORE.last_time])
def test_a_message_that_is_the_same_or_was_removed_is_none(ledger: Ledger, stored: str | None) -> None:
    assert ledger.answer(asked_about_content(ledger), stored) == []


def test_going_back_and_overtaking_before_it_is_certain_is_asked_about(ledger: Ledger) -> None:
    hear(ledger, replace(BEFORE, last=90), 2)
    assert not ledger.questions
    assert hear(ledger, replace(BEFORE, last=110), 3) == []
    assert violation(ledger.answer(ledger.questions["S"], "2026-01-09T00:00:00Z"))


def test_an_empty_stream_has_no_message_to_ask_about() -> None:
    ledger = Ledger()
    hear(ledger, replace(BEFORE, messages=0, first=101), 1)
    hear(ledger, replace(BEFORE, messages=0, first=101, leader="n2"), 2)
    assert not ledger.questions


def test_questions_that_nobody_answers_end(ledger: Ledger) -> None:
    hear(ledger, replace(BEFORE, created=LATER, last=200), 2)
    assert ledger.expire(2 + EXPIRED) == []
    (found,) = ledger.expire(3 + EXPIRED)
    assert isinstance(found, Replaced)
    assert not ledger.questions


# --- kept in memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_stream_in_memory_may_lose_everything_with_its_servers(replicas: int) -> None:
    """Of three replicas, too: that not all of their servers were down in turn cannot be seen from outside."""
    ledger, stream = Ledger(), replace(BEFORE, memory=True, replicas=replicas, current=replicas)
    hear(ledger, stream, 1)
    (found,) = insist(ledger, replace(stream, messages=0, first=0, last=0))
    assert isinstance(found, Replaced)
    assert found.change == "reset"


def test_a_stream_in_memory_that_was_filled_again_is_reset() -> None:
    ledger, stream = Ledger(), replace(BEFORE, memory=True)
    hear(ledger, stream, 1)
    hear(ledger, replace(stream, last=110, leader="n2"), 2)
    (found,) = ledger.answer(ledger.questions["S"], "2026-01-09T00:00:00Z")
    assert isinstance(found, Replaced)
    assert found.change == "reset"


# --- in general ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T00:00:00.4Z", "2026-01-01T00:00:00.41Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z"),
        ("2026-01-01T00:00:59.999999999Z", "2026-01-01T00:01:00Z"),
        ("2026-01-01T00:00:00.317080977Z", "2026-01-01T02:00:00.317080977+01:00"),
    ],
)
def test_times_of_the_server_compare_as_times_not_as_text(earlier: str, later: str) -> None:
    assert instant(earlier) < instant(later)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["n1", "n2"]), st.floats(0.1, 3)),
        max_size=80,
    )
)
def test_a_history_that_only_grows_is_never_suspected(steps: list[tuple[int, int, str, float]]) -> None:
    ledger, now, first, last = Ledger(), 0.0, 1, 0
    for more, purged, leader, pause in steps:
        last += more
        first = min(first + purged, last + 1)
        now += pause
        stream = Stream("S", THEN, 0.0, last + 1 - first, 0, first, last, f"t{last}", leader=leader)
        assert hear(ledger, stream, now) == []
        assert not ledger.doubts
        for question in list(ledger.questions.values()):
            assert ledger.answer(question, question.before.last_time) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.booleans(), st.sampled_from(["n1", "n2"]), st.floats(0.1, 3)),
        max_size=80,
    )
)
def test_stale_answers_among_true_ones_never_make_a_violation(
    steps: list[tuple[int, bool, str, float]],
) -> None:
    """Whoever is behind is corrected before `CONFIRM`: the truth is heard at least that often."""
    ledger, now, last, heard = Ledger(), 0.0, 0, 0.0
    for more, stale, leader, pause in steps:
        last += more
        now += pause
        if stale and now - heard < CONFIRM:
            shown = max(last - 15, 0)
        else:
            shown, heard = last, now
        stream = Stream("S", THEN, 0.0, shown, 0, 1, shown, f"t{shown}", leader=leader)
        assert hear(ledger, stream, now) == []
