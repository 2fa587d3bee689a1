"""The line protocol of load programs, pure: bytes to lines, lines to what they say. docs/soak-file.md is its specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, get_args

from pydantic_core import from_json

LONGEST: Final = 65_536
"""Bytes of a line; what is longer is malformed, and not kept in memory."""
NAME_LENGTH: Final = 100
"""Characters of the name of an operation or a counter, and of an id."""
MOST_MS: Final = 86_400_000.0
"""Milliseconds of an operation: one that took longer than a day was not measured."""
MOST: Final = 1e12
"""What one line adds to a counter at most."""

BOM: Final = b"\xef\xbb\xbf"
"""What some systems write before a text in UTF-8; it says nothing."""

Said = Literal["ok", "failed", "indeterminate", "started", "dropped"]
OUTCOMES: Final[tuple[Said, ...]] = get_args(Said)


class MalformedError(ValueError):
    """A line that says nothing; the text says why."""


class Operation(NamedTuple):
    """What a line says of one operation."""

    op: str
    outcome: Said
    took: float | None
    """Seconds from when it should have begun to its end; None: not told."""
    service: float | None
    """Seconds from when it did begin; None: the same."""
    id: str
    """Empty: it has none."""
    error: str
    detail: str


class Counts(NamedTuple):
    """What a line adds to counters of the program's own."""

    counts: dict[str, float]


class Splitter:
    """Cuts a stream of bytes into lines, whatever it holds, in bounded memory."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        """What comes now belongs to a line that was too long."""

    def lines(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that end in `data`, without their ends; of one that is too long its beginning, longer than `LONGEST`."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if not self._skipping:
                yield line[: LONGEST + 1]
            self._skipping = False
        if not self._skipping and len(rest) > LONGEST:
            self._skipping = True
            yield rest[: LONGEST + 1]
        self._rest = b"" if self._skipping else rest

    def end(self) -> Iterator[bytes]:
        """Yield the last line, if the program did not end it, and begin anew."""
        if self._rest and not self._skipping:
            yield self._rest
        self._rest, self._skipping = b"", False


def read(line: bytes) -> Operation | Counts:
    """Return what a line says; MalformedError if it says nothing that could be counted."""
    if len(line) > LONGEST:
        raise MalformedError(f"a line of more than {LONGEST:,} bytes")
    try:
        said = from_json(line)
    except ValueError as error:
        raise MalformedError(f"no JSON: {error}") from None
    if not isinstance(said, dict):
        raise MalformedError("expected a JSON object")
    if "op" in said or "outcome" in said:
        return _operation(said)
    if isinstance(counts := said.get("count"), dict):
        return Counts({_text("the name of a counter", name): _amount(name, n) for name, n in counts.items()})
    raise MalformedError("expected op and outcome, or count")


def _operation(said: dict[str, Any]) -> Operation:
    outcome = said.get("outcome")
    if outcome not in OUTCOMES:
        raise MalformedError(f"outcome: expected one of {', '.join(OUTCOMES)}")
    return Operation(
        op=_text("op", said.get("op")),
        outcome=outcome,
        took=_seconds("ms", said.get("ms")),
        service=_seconds("service_ms", said.get("service_ms")),
        id="" if said.get("id") is None else _text("id", said["id"]),
        error=str(said.get("error") or ""),
        detail=str(said.get("detail") or ""),
    )


def _text(key: str, value: object) -> str:
    """Return a short text; a whole number is one too."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH:
        raise MalformedError(f"{key}: expected a text of 1 to {NAME_LENGTH} characters")
    return value


def _seconds(key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_MS:
        raise MalformedError(f"{key}: expected milliseconds, from 0 to {MOST_MS:,.0f}")
    return value / 1000


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        raise MalformedError(f"count {name}: expected a number from 0 to {MOST:,.0f}")
    return float(value)
