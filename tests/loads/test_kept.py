from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.loads import kept as module
from supervisor.loads.acked import Acked
from supervisor.loads.kept import Block, Holes, Kept, spread
from supervisor.loads.ledger import Ledger
from supervisor.loads.terms import Terms


def acked(n: int, place: int = 0, *, server: str = "a", began: float = 0.0) -> Acked:
    return Acked(n, place or n, began + 0.5, server, began, "S", n % 7 == 0)


@given(
    st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 40), st.integers(0, 10**6)), min_size=1)
)
def test_what_is_packed_is_unpacked_as_it_was(rows: list[tuple[int, int, int]]) -> None:
    messages = [acked(n, place, began=float(began)) for n, place, began in rows]
    block = Block.of(messages)
    assert block.read() == messages
    assert block.first() == messages[0]
    assert (block.low, block.high) == (min(row[1] for row in rows), max(row[1] for row in rows))


@given(
    st.integers(1, 60),
    st.integers(0, 60),
    st.sets(st.integers(1, 60)),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_where_the_holes_of_a_stream_are(
    first: int, last: int, deleted: set[int], low: int, high: int
) -> None:
    holes = Holes(first, last, sorted(deleted))
    gone = {place for place in range(1, 61) if place < first or place > last or place in deleted}
    assert {place for place in range(1, 61) if holes.where(place)} == gone
    if low <= high:
        assert holes.touch(low, high) == any(place in gone for place in range(low, high + 1))
    other = Holes(high, low, [low])
    both = holes & other
    assert {place for place in range(1, 61) if both.where(place)} <= {
        place for place in gone if other.where(place)
    }


def test_messages_are_taken_out_forgotten_and_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    kept = Kept()
    for n in range(1, 101):
        kept.add(acked(n, server="a" if n < 46 else "b", began=float(n)))
    assert [one.n for one in kept.drop([acked(3), acked(77), acked(1000)])] == [3, 77]
    assert kept.drop([acked(3)]) == []
    assert len(kept) == 98
    kept.forget(place=30, published=0)
    assert len(kept) == 69
    kept.forget(place=0, published=51)
    assert {one.n for block in kept.blocks() for one in block.read()} == {*range(46, 101)} - {77}
    assert len([one for some in kept.sample(20) for one in some]) <= 20
    assert {block.server for block in kept.blocks()} == {"b"}
    kept.disturbed()
    assert [one.n for one in kept.edges] == [96, 97, 98, 99, 100]


def test_above_its_room_a_sample_of_the_whole_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "ROOM", 100 * module.OVERHEAD)
    kept = Kept()
    for n in range(1, 20_001):
        kept.add(acked(n))
    assert 200 < len(kept) < 1100
    first, last = kept.blocks()[0], kept.blocks()[-1]
    assert first.low == 1
    assert last.high == 20_000


def test_two_million_messages_in_a_row_take_little_room() -> None:
    block = Block.of([acked(n, 2 * n, began=n / 500) for n in range(1, module.BLOCK + 1)])
    assert module.ROOM / (len(block.packed) + module.OVERHEAD) * block.count > 2_000_000


@given(st.lists(st.integers()), st.integers(1, 20))
def test_what_is_spread_over_a_list_has_its_end(items: list[int], amount: int) -> None:
    chosen = spread(items, amount)
    assert len(chosen) <= amount
    assert chosen[-1:] == items[-1:]


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        ({}, Terms()),
        ({"retention": "limits", "max_msgs": -1, "max_bytes": -1, "max_age": 0}, Terms()),
        ({"max_age": 60 * 10**9}, Terms(age=60)),
        ({"max_msgs": 100, "max_msgs_per_subject": 10, "discard": "old"}, Terms(newest=10)),
        ({"max_msgs": 100, "max_bytes": 100, "discard": "new"}, Terms()),
        ({"max_msgs": 100, "max_msgs_per_subject": 10, "discard": "new"}, Terms(newest=10)),
        ({"max_msgs_per_subject": 10, "discard": "new", "discard_new_per_subject": True}, Terms()),
        ({"max_bytes": 100}, Terms(bytes=True)),
        ({"retention": "workqueue"}, Terms(delivered=False)),
        ({"retention": "interest"}, Terms(delivered=False)),
    ],
)
def test_what_a_stream_promises_by_its_configuration(config: dict[str, Any], terms: Terms) -> None:
    assert Terms.of(config) == terms


def test_for_how_long_a_message_has_to_be_kept() -> None:
    assert Terms().keep(1, 0, now=1e9, last=10**9)
    terms = Terms(age=60, newest=10)
    assert terms.keep(91, 0, now=50, last=100)
    assert not terms.keep(90, 0, now=50, last=100)
    assert not terms.keep(91, 0, now=60, last=100)
    assert math.isinf(Terms.of({}).age)


def test_an_acknowledgement_with_a_place_that_was_taken_goes_backward() -> None:
    ledger = Ledger()
    for n in (1, 2, 3):
        ledger.begin(n)
    assert ledger.end(1, acked(1, 10))
    ledger.delivered(1, 10, 3, again=False)
    assert ledger.end(2, acked(2, 9)), "it was under way at that time"
    ledger.delivered(3, 11, 3, again=False)
    assert ledger.end(3, acked(3, 11)), "delivered before it was acknowledged"
    ledger.begin(4)
    assert not ledger.end(4, acked(4, 11))
    assert [one.n for block in ledger.kept.blocks() for one in block.read()] == [1, 3]
