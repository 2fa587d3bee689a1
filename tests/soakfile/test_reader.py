"""The YAML reader: values by YAML 1.2, a place for everything, every flaw of the text found."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.soakfile.document import Document
from supervisor.soakfile.environment import plain_data
from supervisor.soakfile.errors import Path
from supervisor.soakfile.reader import MAX_DEPTH, Unreadable, plain_value, read


def data(text: str) -> Any:
    document = read(text)
    assert not document.flaws
    return plain_data(document.root, {})[0]


def place(document: Document, *path: str | int) -> tuple[str, str, str | None]:
    """Return the value's mark, its key's and its origin as `line:column`."""
    *_, (_, at) = document.walk(path)
    return str(at.mark), str(at.key), str(at.origin) if at.origin else None


def flaws(text: str) -> list[tuple[str, Path, str]]:
    try:
        found = read(text).flaws
    except Unreadable as error:
        found = error.flaws
    return [(str(flaw.mark), flaw.path, flaw.message) for flaw in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        # text in YAML 1.2, traps in 1.1
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("40s", "40s"),
        ("20 / 10m", "20 / 10m"),
        ("٣", "٣"),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert plain_value(text) == value
    assert type(plain_value(text)) is type(value)


def test_nan_is_a_number() -> None:
    value = plain_value(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


@given(st.text())
def test_any_plain_scalar_is_read(text: str) -> None:
    plain_value(text)


def test_quoted_and_tagged_scalars_stay_text() -> None:
    assert data("a: '7'\nb: \"true\"\nc: !!str 7\nd: |\n  8\n") == {
        "a": "7",
        "b": "true",
        "c": "7",
        "d": "8\n",
    }


def test_every_value_and_key_has_its_place() -> None:
    document = read("soak: x\nloads:\n  rpc: {rate: 10/s, tags: [a,\n    b]}\n")
    assert place(document, "soak") == ("1:7", "1:1", None)
    assert place(document, "loads", "rpc", "rate") == ("3:15", "3:9", None)
    assert place(document, "loads", "rpc", "tags", 1) == ("4:5", "4:5", None)


def test_a_merged_key_is_at_its_merge_and_says_where_it_was_written() -> None:
    document = read("one: &one {x: 1, deep: {y: 2}}\ntwo:\n  <<: *one\n  x: 3\nthree: *one\n")
    assert plain_data(document.root, {})[0]["two"] == {"x": 3, "deep": {"y": 2}}
    assert place(document, "two", "x") == ("4:6", "4:3", None)
    assert place(document, "two", "deep") == ("3:3", "3:3", "1:24")
    assert place(document, "two", "deep", "y") == ("3:3", "3:3", "1:28")
    assert place(document, "three", "deep", "y") == ("5:8", "5:8", "1:28")


def test_of_several_merges_the_first_wins() -> None:
    merged = data("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}\n")["c"]
    assert merged == {"x": 1, "y": 2, "z": 3}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert data("a: {'<<': 1}") == {"a": {"<<": 1}}


def test_line_ends_and_a_byte_order_mark_of_other_systems() -> None:
    document = read("a: 1\r\nb: 2\r\n")
    assert place(document, "b") == ("2:4", "2:1", None)


def test_all_duplicate_keys_are_found_at_any_depth() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 3\na: {d: 1, d: 2}\n"
    assert flaws(text) == [
        ("2:11", ("b", "c"), "this key is here twice, first at 2:5"),
        ("3:1", ("a",), "this key is here twice, first at 1:1"),
        ("4:1", ("a",), "this key is here twice, first at 1:1"),
        ("4:11", ("a", "d"), "this key is here twice, first at 4:5"),
    ]


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("a: {1: x}", ("1:5", ("a", "1"), "a key is text, found the number 1: write it in quotes")),
        ("true: x", ("1:1", ("true",), "a key is text, found true: write it in quotes")),
        ("? [a]\n: b\n", ("1:3", ("",), "a key is a word, found a list or a mapping")),
        ("a: *b", ("1:4", ("a",), "*b has no &b before it")),
        ("a: &a [*a]", ("1:8", ("a", 0), "*a is used inside the value it stands for")),
        ("a: !secret x", ("1:4", ("a",), "the tag !secret means nothing in a soak file, remove it")),
        (
            "a: {<<: 1}",
            ("1:5", ("a", "<<"), "<< takes a mapping or a list of mappings, such as <<: *name"),
        ),
        (
            "x: &x {}\na: {<<: *x, <<: *x}",
            ("2:13", ("a", "<<"), "there is a << here already: write <<: [*one, *two]"),
        ),
        (
            "a: 1\n---\nb: 2\n",
            ("2:1", (), "a second document begins here: a soak file is one document, split it"),
        ),
        (
            "a: {x: ${X}}",
            (
                "1:9",
                (),
                'cannot read the YAML: quote ${NAME} as "${NAME}" inside the brackets that open at 1:4',
            ),
        ),
        (
            "a:\n\t- b",
            ("2:1", (), "cannot read the YAML: a tab stands where spaces are expected, indent with spaces"),
        ),
        ("a: b: c", ("1:5", (), "cannot read the YAML: mapping values are not allowed here")),
        ("a: \x01", ("1:4", (), "cannot read the YAML: the character U+0001 is not allowed")),
    ],
)
def test_a_flaw_has_its_place_and_says_what_to_do(text: str, flaw: tuple[str, Path, str]) -> None:
    assert flaws(text) == [flaw]


def test_an_escape_that_is_no_character_is_a_flaw() -> None:
    [(mark, _, message)] = flaws('a: "\\UFFFFFFFF"')
    assert mark == "1:1"
    assert message == "cannot read the YAML: an escape in the text after this is no character"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_endless_nesting_is_refused(opening: str) -> None:
    [(_, _, message)] = flaws(opening * 10_000)
    assert message == f"more than {MAX_DEPTH} levels inside each other, a soak file needs fewer than ten"


def bomb(item: str, levels: int) -> str:
    lines = [f"k0: &k0 {item}"]
    lines += [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused() -> None:
    [(mark, _, message)] = flaws(bomb("x", 12))
    assert mark == "6:5"
    assert message == "the aliases in this unfold to far more than a soak file can need"


def test_an_alias_chain_does_not_pass_the_depth_limit() -> None:
    text = "k0: &k0 [x]\n" + "".join(f"k{n}: &k{n} [*k{n - 1}]\n" for n in range(1, 100))
    [(_, _, message)] = flaws(text)
    assert message == "the aliases in this unfold to far more than a soak file can need"


def test_a_merge_bomb_is_refused() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(2000))
    text = f"a: &a {{{keys}}}\nb:\n" + "".join(f"- <<: *a\n  k0: {n}\n" for n in range(200))
    [(_, _, message)] = flaws(text)
    assert message == "the merges unfold to far more than a soak file can need"


def test_an_empty_document_has_no_root() -> None:
    assert read("").root is None
    assert read("# only a comment\n").root is None
