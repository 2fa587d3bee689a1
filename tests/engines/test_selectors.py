from __future__ import annotations

import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from supervisor.engines.selectors import Pick, Selector

SELECTOR = TypeAdapter(Selector)


def rng(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # draws are meant to be reproduced


@pytest.mark.parametrize(
    ("written", "names", "text"),
    [
        ("nats1", ("nats1",), "nats1"),
        (["nats1", "nats2"], ("nats1", "nats2"), "nats1, nats2"),
        ({"of": "nats1"}, ("nats1",), "nats1"),
        ({"of": ["a", "b", "c"], "pick": "one"}, ("a", "b", "c"), "one of a, b, c"),
        ({"of": ["a", "b", "c"], "pick": 2}, ("a", "b", "c"), "2 of a, b, c"),
        ({"label": "tier=backend"}, (), "label tier=backend"),
        ({"label": "tier=backend", "pick": "30%"}, (), "30% of label tier=backend"),
        ({"of": {"label": "tier=backend"}, "pick": "minority"}, (), "minority of label tier=backend"),
        ({"leader_of": "ORDERS"}, (), "the leader of ORDERS"),
    ],
)
def test_ways_to_point_at_units(written: Any, names: tuple[str, ...], text: str) -> None:
    selector = SELECTOR.validate_python(written)
    assert (selector.names(), str(selector)) == (names, text)
    jsonschema.validate(written, SELECTOR.json_schema())
    assert SELECTOR.validate_python(selector) is selector


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (7, "expected a unit, a list of units"),
        ("", "at least 1 character"),
        ([], "expected one of of, label or leader_of, found none"),
        ({}, "found none"),
        ({"of": ["a"], "label": "x=y"}, "found of and label"),
        (["a", "b", "a"], "a is named twice"),
        ({"of": ["a"], "pik": "one"}, "Extra inputs"),
        ({"of": {"leader_of": "S"}}, "of: expected a unit, a list of units or"),
        ({"label": "no-value"}, "match pattern"),
        ({"leader_of": "S", "pick": "one"}, "a stream has one leader: leave pick out"),
        ({"of": ["a", "b"], "pick": 3}, "cannot pick 3 of 2 units"),
        ({"of": ["a", "b"], "pick": "minority"}, "cannot pick minority of 2 units"),
        ({"of": ["a"], "pick": "some"}, "expected one, a number, a share such as 30%, minority or majority"),
        ({"of": ["a"], "pick": 0}, "expected one, a number"),
        ({"of": ["a"], "pick": True}, "expected one, a number"),
        ({"of": ["a"], "pick": "0%"}, "expected one, a number"),
        ({"of": ["a"], "pick": "²"}, "expected one, a number"),
        ({"of": ["a"], "pick": 0.5}, "expected one, a number"),
    ],
)
def test_what_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SELECTOR.validate_python(written)


@given(st.integers(3, 50))
def test_minority_and_majority_are_strict_and_as_near_to_half_as_can_be(total: int) -> None:
    minority, majority = Pick("minority").size(total), Pick("majority").size(total)
    assert minority < total / 2 <= minority + 1
    assert majority - 1 <= total / 2 < majority


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_share_takes_no_more_than_it_says_and_at_least_one(percent: int, total: int) -> None:
    size = Pick(f"{percent}%").size(total)
    assert size == max(percent * total // 100, 1)


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from(["one", "2", "30%", "majority"]))
def test_draws_are_reproducible_ordered_and_of_the_right_size(seed: int, total: int, pick: str) -> None:
    units = [f"unit-{n}" for n in range(total)]
    if pick == "2" and total == 1:
        return
    selector = Selector.model_validate({"of": units, "pick": pick})
    drawn = selector.draw(units, rng(seed))
    assert drawn == selector.draw(units, rng(seed))
    assert len(drawn) == Pick(pick).size(total)
    assert list(drawn) == sorted(drawn, key=units.index)


def test_every_unit_is_drawn_now_and_then() -> None:
    selector = Selector.model_validate({"of": ["a", "b", "c"], "pick": "one"})
    drawn = {selector.draw(selector.of, rng(f"7/fault/{n}")) for n in range(50)}
    assert drawn == {("a",), ("b",), ("c",)}


def test_the_same_draw_on_every_machine() -> None:
    selector = Selector.model_validate({"of": [f"w{n}" for n in range(10)], "pick": 3})
    assert selector.draw(selector.of, rng("7/restart-nats/1")) == ("w3", "w8", "w9")
