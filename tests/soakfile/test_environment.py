"""Variables in texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.soakfile.document import Mark
from supervisor.soakfile.environment import plain_data, substitute
from supervisor.soakfile.reader import read

ENV = {"USER": "admin", "EMPTY": "", "ODD": "a: {b} ${USER} $$ \n#"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${USER}", "admin"),
        ("nats://${USER}@host", "nats://admin@host"),
        ("${USER}${USER}", "adminadmin"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-x y: z}", "x y: z"),
        ("${NONE:-}", ""),
        ("${USER:-x}", "admin"),
        ("$$", "$"),
        ("$${USER}", "${USER}"),
        ("$$$$", "$$"),
        ("$USER stream.*[0-9]$", "$USER stream.*[0-9]$"),
        ("${ODD}", ENV["ODD"]),
    ],
)
def test_variables_are_put_in(text: str, value: str) -> None:
    assert substitute(text, ENV) == (value, [])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("${NONE}", "the environment variable NONE is not set: set it, or write ${NONE:-default} here"),
        ("${}", "cannot read ${}: expected ${NAME} or ${NAME:-default}, or $${ for a plain ${"),
        ("${A", "cannot read ${: expected ${NAME} or ${NAME:-default}, or $${ for a plain ${"),
        ("${1A}", "cannot read ${1A}: expected ${NAME} or ${NAME:-default}, or $${ for a plain ${"),
        ("${A:?}", "cannot read ${A:?}: expected ${NAME} or ${NAME:-default}, or $${ for a plain ${"),
    ],
)
def test_what_cannot_be_put_in_is_said(text: str, wrong: str) -> None:
    assert substitute(text, ENV) == (text, [wrong])


def test_all_that_is_missing_is_said_once_each() -> None:
    _, wrong = substitute("${A} ${B} ${A}", {})
    assert [what.split(" is not")[0] for what in wrong] == [
        "the environment variable A",
        "the environment variable B",
    ]


@given(st.text(), st.dictionaries(st.sampled_from("ABC"), st.text()))
def test_any_text_is_answered(text: str, env: dict[str, str]) -> None:
    value, wrong = substitute(text, env)
    assert wrong or "$" in text or value == text


@given(st.text())
def test_a_doubled_dollar_keeps_any_text(text: str) -> None:
    assert substitute(text.replace("$", "$$"), {}) == (text, [])


def test_a_missing_variable_is_a_flaw_at_its_place_and_keys_are_left_alone() -> None:
    data, flaws = plain_data(read("a: [1, '${NONE}']\n${USER}: ${USER}\n").root, ENV)
    assert data == {"a": [1, "${NONE}"], "${USER}": "admin"}
    [flaw] = flaws
    assert (flaw.mark, flaw.path) == (Mark(1, 8), ("a", 1))


def test_a_variable_never_becomes_structure() -> None:
    data, flaws = plain_data(read("a: ${ODD}\nb: ${SEVEN}\n").root, {**ENV, "SEVEN": "7"})
    assert data == {"a": ENV["ODD"], "b": "7"}
    assert not flaws
