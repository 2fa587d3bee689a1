"""What is wrong with a reading of an aggregate, by hand."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads.aggregates import Aggregate, Appended, Findings, Stored

WRITTEN = 100


def aggregate(*sequences: int) -> Aggregate:
    """Events 1, 2, 3 ... at these places, each behind the one before, all acknowledged."""
    one, last = Aggregate("a.1"), 0
    for n, sequence in enumerate(sequences, 1):
        one.begin()
        one.end(Appended(sequence, n, last, 0.0, "n1:4222"), 0.0)
        last = sequence
    return one


def read(one: Aggregate, *events: tuple[int, int, int]) -> Findings:
    """Read events, each as place, n and the place before."""
    return one.check([Stored(*event) for event in events], dict(one.events), WRITTEN)


def test_what_was_appended_is_read() -> None:
    one = aggregate(3, 7, 9)
    assert one.dirty
    assert read(one, (3, 1, 0), (7, 2, 3), (9, 3, 7)) == Findings()


def test_an_event_that_is_missing_is_no_gap_besides() -> None:
    one = aggregate(3, 7, 9)
    found = read(one, (3, 1, 0), (9, 3, 7))
    assert [event.n for event in found.missing] == [2]
    assert (found.gaps, found.forks) == ([], [])
    one.forget(found.missing[0])
    assert read(one, (3, 1, 0), (9, 3, 7)) == Findings(), "told once"


def test_an_event_that_its_successor_was_appended_behind_and_nobody_has() -> None:
    one = Aggregate("a.1")
    assert read(one, (1, 1, 0), (3, 3, 2)).gaps == [2]
    assert read(one, (1, 1, 0), (3, 3, 2)).gaps == []


def test_the_oldest_may_have_gone_by_age() -> None:
    assert read(Aggregate("a.1"), (5, 2, 3), (6, 3, 5)) == Findings()


def test_what_a_lost_one_leaves_to_its_successors_is_no_fork() -> None:
    one = aggregate(3, 7)
    found = read(one, (3, 1, 0), (9, 3, 3))
    assert [event.sequence for event in found.missing] == [7]
    assert found.forks == []


def test_an_event_behind_another_than_its_writer_knew_and_one_at_two_places() -> None:
    one = aggregate(3, 5)
    found = read(one, (3, 1, 0), (5, 2, 3), (6, 3, 3), (8, 1, 0), (9, 4, 8))
    assert [event.sequence for event in found.forks] == [6]
    assert [event.sequence for event in found.duplicates] == [8]
    assert read(one, (3, 1, 0), (5, 2, 3), (6, 3, 3), (8, 1, 0), (9, 4, 8)) == Findings(), "told once"


def test_another_event_in_the_place_of_one_that_was_acknowledged() -> None:
    assert [event.n for event in read(aggregate(3), (3, 2, 0)).missing] == [1]


def test_the_wrong_order_and_what_nobody_wrote() -> None:
    one = Aggregate("a.1")
    found = read(one, (7, 2, 3), (3, 1, 0), (8, -1, 0), (9, WRITTEN + 1, 8))
    assert [event.sequence for event in found.reordered] == [3]
    assert [event.sequence for event in found.unexpected] == [8, 9]
    assert (found.gaps, found.forks) == ([], [])


def test_a_refusal_is_explained_by_others_by_the_past_and_by_what_went_unanswered() -> None:
    one = aggregate(3)
    one.begin()
    assert not one.explains(3, since=1.0)
    assert one.explains(2, since=1.0), "another event was acknowledged since"
    one.begin()
    assert one.explains(3, since=1.0), "somebody else is at it"
    one.end(None, 2.0)
    assert not one.explains(3, since=1.0), "who was refused, too, has changed nothing"
    one.end(Appended(4, 2, 3, 2.0, "n1:4222"), 2.0)
    one.begin()
    assert one.explains(4, since=1.0), "somebody has changed it meanwhile"
    assert not one.explains(4, since=3.0)
    one.end(None, 4.0, unsure=True)
    one.begin()
    assert one.explains(4, since=5.0), "what went unanswered may come at any time"


@given(st.lists(st.integers(1, 10), min_size=1, max_size=20), st.data())
def test_whatever_a_store_drops_is_missing_and_nothing_else_is(
    steps: Sequence[int], data: st.DataObject
) -> None:
    places = [sum(steps[: n + 1]) for n in range(len(steps))]
    one = aggregate(*places)
    kept = data.draw(st.sets(st.sampled_from(range(len(places)))))
    events = [(places[n], n + 1, places[n - 1] if n else 0) for n in sorted(kept)]
    found = read(one, *events)
    assert {event.n - 1 for event in found.missing} == set(range(len(places))) - kept
    assert not (found.gaps)
    assert not (found.forks)
    assert not (found.duplicates)
    assert not (found.reordered)
    assert not (found.unexpected)
