"""Pydantic's errors in our words: what is wrong, what was expected, what was found, did you mean.

What was found is shown as it stands in the file, so a value that came from the environment never shows; of a secret field only
its type is said.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from supervisor.soakfile.document import Document, Scalar, describe
from supervisor.soakfile.errors import Path
from supervisor.soakfile.shape import Shape, child, has, member

SHOWN: Final = 12
"""Names in one message."""
NEAR: Final = 1000
"""Names that are looked at for one that may be meant: each costs some microseconds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a path of the file's data."""

    path: Path
    message: str
    key: bool = False
    """It is the key that is wrong, not its value."""
    offset: int | None = None
    """It is wrong from this character of the text on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean x?` if something known is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f", did you mean {near[0]}?" if near else ""


def unknown(noun: str, name: str, known: Sequence[str]) -> str:
    """Say that nothing of this name is known, and what may be meant."""
    names = f": expected {either(known[:SHOWN])}" if known else f": there are no {noun}s"
    return f'there is no {noun} "{name}"{did_you_mean(name, known[:NEAR]) or names}'


def either(words: Sequence[str]) -> str:
    """Join words as alternatives: `a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


_TYPES: Final[Mapping[str, str]] = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
    "model_attributes": "a mapping",
    "path": "a path",
    "decimal": "a number",
    "url": "a URL",
    "pattern": "a regular expression",
}

_LIMITS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than": lambda c: f"expected more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"expected {c['ge']:g} or more",
    "less_than": lambda c: f"expected less than {c['lt']:g}",
    "less_than_equal": lambda c: f"expected {c['le']:g} or less",
    "multiple_of": lambda c: f"expected a multiple of {c['multiple_of']:g}",
    "pattern_regex": lambda _: "expected a regular expression",
    "finite_number": lambda _: "expected a finite number",
    "int_from_float": lambda _: "expected a whole number",
    "none_required": lambda _: "expected nothing",
    "too_short": lambda c: (
        f"expected at least {_count(c['min_length'])}, found {c['actual_length'] or 'none'}"
    ),
    "too_long": lambda c: f"expected at most {_count(c['max_length'])}, found {c['actual_length']}",
    "string_too_short": lambda c: f"expected at least {_count(c['min_length'], 'character')}",
    "string_too_long": lambda c: f"expected at most {_count(c['max_length'], 'character')}",
    "string_pattern_mismatch": lambda c: f"expected text that matches {c['pattern']}",
}


def _count(number: int, noun: str = "entry") -> str:
    plural = "entries" if noun == "entry" else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


class Wording:
    """Says what is wrong with one file's data."""

    def __init__(
        self, document: Document, data: Any, shape: Shape, given: frozenset[str] = frozenset()
    ) -> None:
        """`given` are the top-level keys whose values are not the document's."""
        self._document, self._data, self._shape, self._given = document, data, shape, given

    def findings(self, error: ValidationError, at: Path = ()) -> Iterator[Finding]:
        """Yield one finding for each place that is wrong, the alternatives of a union taken together.

        The error is one of the value at `at`.
        """
        places: dict[Path, list[ErrorDetails]] = {}
        for detail in error.errors(include_url=False):
            places.setdefault(self._path(detail, at), []).append(detail)
        above = {path[:end] for path in places for end in range(len(path))}
        for path, details in places.items():
            # A list with a wrong item is also no text: what a union's other members say of it is beside the point.
            if path not in above or not all(map(_expected_type, details)):
                yield self._finding(path, details)

    def found(self, path: Path) -> str:
        """Say what stands at a path, as written."""
        value = member(self._data, path)
        if self._shape.secret(path):
            return (
                "a text" if isinstance(value, str) else re.sub(r"^the (number) .*", r"a \1", describe(value))
            )
        if self._document.has(path) and path[:1] != () and path[0] not in self._given:
            *_, (node, _) = self._document.walk(path)
            value = node.value if isinstance(node, Scalar) else value
        return describe(value)

    def _path(self, detail: ErrorDetails, at: Path) -> Path:
        """Return the way through the data that an error's location means; what is no step of it names a union's member."""
        path, data = at, member(self._data, at)
        for step in detail["loc"]:
            if has(data, step):
                path, data = (*path, step), child(data, step)
        if detail["type"] == "missing" and isinstance(detail["loc"][-1], str):
            path = (*path, detail["loc"][-1])
        return path

    def _finding(self, path: Path, details: list[ErrorDetails]) -> Finding:
        first = details[0]
        if first["loc"] and first["loc"][-1] == "[key]":
            return Finding(path, self._message(path, details), key=True)
        if first["type"] == "extra_forbidden":
            return Finding(path, self._unknown_key(path), key=True)
        if first["type"] == "missing" and isinstance(number := first["loc"][-1], int):
            return Finding(path, f"expected at least {_count(number + 1)}, found {number}")
        if first["type"] == "missing":
            description = self._shape.description(path)
            return Finding(path, f"this key is missing{': ' if description else ''}{description}", key=True)
        offset = getattr(first.get("ctx", {}).get("error"), "position", None)
        return Finding(path, self._message(path, details), offset=offset)

    def _unknown_key(self, path: Path) -> str:
        known = [
            key for key in self._shape.keys(path[:-1]) if key not in (member(self._data, path[:-1]) or {})
        ]
        hint = did_you_mean(str(path[-1]), known)
        return f"there is no such key here{hint or (f': expected {either(known)}' if known else '')}"

    def _message(self, path: Path, details: list[ErrorDetails]) -> str:
        messages = list(dict.fromkeys(filter(None, map(_message, details))))
        expected = [message.removeprefix("expected ") for message in messages]
        message = "; ".join(messages)
        if len(messages) > 1 and all(text.startswith("expected ") for text in messages):
            message = f"expected {either(expected)}"
        if not message.startswith("expected ") or "found" in message:
            return message
        value = member(self._data, path)
        hint = ""
        choices = next(
            (_choices(detail) for detail in details if detail["type"] in ("literal_error", "enum")), []
        )
        if isinstance(value, str) and choices:
            hint = did_you_mean(value, choices)
        elif isinstance(value, int | float) and any(detail["type"] == "string_type" for detail in details):
            hint = ": write it in quotes"
        what, colon, why = message.partition(": ")
        return f"{what}, found {self.found(path)}{colon}{why}{hint}"


def _message(detail: ErrorDetails) -> str:
    """Return what one error says, without what was found."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        text = str(context["error"])
        if getattr(context["error"], "position", None) is not None:
            text = re.sub(r"^column \d+: ", "", text)
        return text
    if (expected := _expected_type(detail)) or kind in _LIMITS:
        return f"expected {expected}" if expected else _LIMITS[kind](context)
    if kind in ("literal_error", "enum"):
        return f"expected {either(_choices(detail))}"
    return re.sub(r"^\w+ should (be|have) ", "expected ", detail["msg"])  # of a type that no kind of ours has


def _expected_type(detail: ErrorDetails) -> str:
    """Return the type that was expected in words, empty if the error is not about the type."""
    name, _, why = detail["type"].rpartition("_")
    return _TYPES.get(name, "") if why in ("type", "parsing") else ""


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
