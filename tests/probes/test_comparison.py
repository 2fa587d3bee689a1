from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from supervisor.values import Comparison

numbers = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9).map(lambda x: round(x, 3))


@given(numbers, numbers)
def test_numbers_compare_as_python_says(value: float, wanted: float) -> None:
    assert Comparison.parse(f"< {wanted}").holds(value) == (value < wanted)
    assert Comparison.parse(f"<={wanted}").holds(value) == (value <= wanted)
    assert Comparison.parse(f"> {wanted}").holds(value) == (value > wanted)
    assert Comparison.parse(f" >= {wanted} ").holds(value) == (value >= wanted)
    assert Comparison.parse(f"== {wanted}").holds(value) == (value == wanted)
    assert Comparison.parse(f"!= {wanted}").holds(value) == (value != wanted)
    assert Comparison.parse(wanted).holds(value) == (value == wanted)


@given(st.sampled_from(["<", "<=", "==", "!=", ">=", ">"]), numbers)
def test_what_is_written_is_read_again(operator: str, number: float) -> None:
    comparison = Comparison(operator, float(number))
    assert Comparison.parse(str(comparison)) == comparison


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("== running", "running", True),
        ("running", "running", True),
        ("!= running", "paused", True),
        ("== running", "paused", False),
        ("< 5", "4.9", True),  # a number in a log line is text
        ("< 5", "soon", False),
        ("!= 5", "soon", True),
        ("== 5", None, False),
        ("> -1", [], False),
    ],
)
def test_texts(text: str, value: object, holds: bool) -> None:
    assert Comparison.parse(text).holds(value) is holds


@pytest.mark.parametrize("text", ["", "<", "< ", "< soon", "=> 5", "<> 5", "= 5", True, None, [1], "< 5 <"])
def test_what_is_no_comparison_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match="expected a comparison"):
        TypeAdapter(Comparison).validate_python(text)
