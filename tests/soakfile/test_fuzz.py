"""No input gives a traceback: whatever stands in a file, loading it returns or raises SoakFileError, in bounded time."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from supervisor.soakfile.errors import Problem, SoakFileError
from supervisor.soakfile.load import MAX_BYTES, MAX_PROBLEMS, load, parse
from supervisor.soakfile.schema import json_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = [ROOT / "config" / "example.yaml", *sorted((Path(__file__).parent / "bad").glob("[ms]*/*.yaml"))]
TEXTS = [file.read_text() for file in EXAMPLES]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SNIPPETS = ["${", "${X}", "$$", "*a", "&a ", "<<: ", "!", "---\n", "\t", "\n", "  ", "- ", "? ", ": ", "{", "}", "[", "]",
            "'", '"', "|\n", ">-\n", "#", "%", "\\", "\u2028", "\ufeff", "\x85", "0", "-1", "1e999", ".nan", "~", "null"]  # fmt: skip


def outcome(text: str) -> list[Problem]:
    """Load a text; return what is wrong with it."""
    try:
        parse(text, Path("x.yaml"), {"X": "1"}, overrides={}, base=Path("/nowhere"), ports=count(20000))
    except SoakFileError as error:
        return error.problems or pytest.fail("a SoakFileError without a problem")
    return []


def check(text: str) -> None:
    """Whatever is wrong with a text has a place in it, and is said in our own words."""
    lines = len(text.splitlines()) + 1
    for problem in outcome(text):
        assert 1 <= problem.line <= lines, problem
        assert problem.column >= 1
        assert "nput should" not in problem.message, problem
        assert "alid error" not in problem.message, problem


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Take a soak file and cut, repeat, swap or put in something, a few times."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.integers(0, 40)), len(text))
        put = draw(
            st.one_of(st.sampled_from(SNIPPETS), st.sampled_from(WORDS), st.text(max_size=5), st.just(""))
        )
        match draw(st.integers(0, 2)):
            case 0:
                text = text[:start] + put + text[end:]
            case 1:
                text = text[:start] + put + text[start:]
            case _:
                text = text[:end] + text[start:end] + text[end:]
    return text


KEYS = sorted(
    {
        key
        for schema in [json_schema(), *json_schema()["$defs"].values()]
        for key in schema.get("properties", ())
    }
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
    st.sampled_from(["40s", "95%", "20 / 10m", "${X}", "${Y}", "api", "nats1", "127.0.0.1:80", "http://a/", "permanent"]),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=20,
)


@st.composite
def disturbed(draw: st.DrawFn) -> str:
    """Take a soak file's data and put something else in some places."""
    data = YAML(typ="safe", pure=True).load(draw(st.sampled_from(TEXTS[:1])))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = None, None
        node = data
        while isinstance(node, dict | list) and node and (parent is None or draw(st.booleans())):
            parent = node
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            node = node[key]
        if parent is not None:
            parent[key] = draw(VALUES)
    return written(data)


def written(data: Any) -> str:
    """Write plain data as YAML flow style, which is close to JSON."""
    match data:
        case dict():
            return (
                "{" + ", ".join(f"{quoted(str(key))}: {written(value)}" for key, value in data.items()) + "}"
            )
        case list():
            return "[" + ", ".join(map(written, data)) + "]"
        case str():
            return quoted(data)
        case None:
            return "null"
        case bool():
            return str(data).lower()
        case _:
            return str(data)


def quoted(text: str) -> str:
    return (
        '"'
        + "".join(
            c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text
        )
        + '"'
    )


@settings(max_examples=150, deadline=None)
@given(mutated())
def test_mutated_files(text: str) -> None:
    check(text)


@settings(max_examples=100, deadline=None)
@given(disturbed())
def test_files_with_other_data_in_them(text: str) -> None:
    check(text)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*json_schema()["properties"]]), VALUES, max_size=6).map(written))
def test_random_data(text: str) -> None:
    check(text)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="{}[]&*!|>'\"%@`,:?-#<~ \n\tab01$", max_size=60)))
def test_random_text(text: str) -> None:
    check(text)


@settings(max_examples=50, deadline=None)
@given(data=st.binary())
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "soak.yaml"
    file.write_bytes(data)
    with pytest.raises(SoakFileError):
        load(file, {})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("".join(f"k{n}: v\n" for n in range(20_000)), id="unknown keys"),
        pytest.param("soak: x\nloads:\n" + "".join(f"  k{n}:\n" for n in range(20_000)), id="empty keys"),
        pytest.param("a: 1\n" * 40_000, id="duplicate keys"),
        pytest.param(
            "soak: x\nengines:\n  l:\n    process:\n      units:\n"
            + "".join(
                f"        u{n}: {{command: x, after: [u{(n + 1) % 3000}, w{n}]}}\n" for n in range(3000)
            ),
            id="a circle of units",
        ),
    ],
)
def test_many_mistakes_take_bounded_time_and_room(text: str) -> None:
    problems = outcome(text[:MAX_BYTES])
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].message == "there is more wrong: only 100 problems are shown"
