"""Reads the test cases of a JUnit XML report, as pytest writes it. Pure but for the reading of one file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from xml.parsers import expat

LIMIT: Final = 16_000_000
"""Bytes of the largest report that is read: some 100,000 test cases."""
CLASS_LENGTH: Final = 100
"""Characters of an error class."""

_NO_NAME: Final = "error without a message"
_PHASE: Final = re.compile(r'failed on (setup|teardown) with "(.*)"', re.DOTALL)
_QUALIFIED: Final = re.compile(r"^(?:\w+\.)+(\w+)(?=:|$)")
_ID: Final = re.compile(
    r"(?<![0-9A-Za-z])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])(?:[0-9a-f]{6,}|[0-9A-Za-z]{16,})(?![0-9A-Za-z])"
)
"""Words that look drawn at random: hexadecimal or long, with digits and letters."""
_VARYING: Final = (
    (re.compile(r"\b0x[0-9a-fA-F]+"), "<address>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (_ID, "<id>"),
    (re.compile(r"\d+(?:\.\d+)*"), "N"),
    (re.compile(r"N(?:, N)+"), "N, .."),
    (re.compile(r"\s+"), " "),
)


class JUnitError(Exception):
    """A report cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test case."""

    name: str
    """`classname::name`."""
    outcome: Literal["ok", "failed", "skipped"] = "ok"
    took: float = 0.0
    """Seconds, setup and teardown included."""
    error: str = ""
    """Error class: the exception's type and the first line of its message, without what varies from run to run."""
    detail: str = ""
    """The message as reported."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says."""

    cases: tuple[Case, ...]
    ended: float | None
    """Seconds since the epoch at which the last suite ended, None if the report does not say."""

    def lay_out(self, start: float, end: float, wall_offset: float) -> Iterator[tuple[Case, float, float]]:
        """Yield each case with the start and end (monotonic seconds) it must have had within an iteration.

        A report names durations, not times. Cases follow one another, and what comes before them (the interpreter's start,
        collection) takes longer than what comes after, so they are laid out backwards from the end of the suite where the report
        tells it (`wall_offset` is wall minus monotonic clock), else from the end of the iteration. Where they took longer than
        there was time, they ran side by side: their ends are then spread evenly over the iteration in proportion.
        """
        total = sum(case.took for case in self.cases)
        last = end if self.ended is None else self.ended - wall_offset
        last = last if start + min(total, end - start) <= last <= end else end
        scale = min(1.0, (last - start) / total) if total else 1.0
        rest = total
        for case in self.cases:
            rest -= case.took
            ended = min(max(last - rest * scale, start), end)
            yield case, max(ended - case.took, start), ended


def read_report(path: Path) -> Report:
    """Return the cases of a report; JUnitError if there is none, it is broken, or larger than `LIMIT`. Blocks.

    Declarations of document types and entities are refused, so that nothing expands and nothing else is read.
    """
    reader = _Reader()
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise JUnitError(f"the JUnit report is larger than {LIMIT // 1_000_000} MB")
        reader.parse(data)
    except FileNotFoundError:
        raise JUnitError("no JUnit report was written") from None
    except (OSError, expat.ExpatError, ValueError) as error:
        raise JUnitError(f"the JUnit report cannot be read: {error}") from error
    return Report(tuple(_merged(reader.cases)), reader.ended)


def error_class(message: str, type_: str = "") -> str:
    """Return what to group a failure by: short, one line, and the same each time it fails in this way."""
    phase = ""
    if match := _PHASE.match(message):
        phase, message = f"{match[1]}: ", match[2]
    line = _QUALIFIED.sub(r"\1", message.strip().partition("\n")[0][:500], count=1)
    kind = type_.rpartition(".")[2]
    if line.startswith("assert "):
        line = f"AssertionError: {line}"
    elif kind and not line.startswith(kind):
        line = f"{kind}: {line}" if line else kind
    for pattern, stand_in in _VARYING:
        line = pattern.sub(stand_in, line)
    return (phase + line.strip())[:CLASS_LENGTH] or _NO_NAME


class _Reader:
    """Collects the cases of one report as its elements come by."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.ended: float | None = None
        self._case: Case | None = None

    def parse(self, data: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.Parse(data, True)

    def _refuse(self, *_: object) -> None:
        raise ValueError("it declares a document type")

    def _begin(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "testsuite":
            self._suite(attributes)
        elif tag == "testcase":
            name = "::".join(part for key in ("classname", "name") if (part := attributes.get(key)))
            self._case = Case(name, took=_seconds(attributes.get("time")))
        elif self._case and tag in ("failure", "error") and self._case.outcome != "failed":
            message = attributes.get("message", "")
            error = error_class(message, attributes.get("type", ""))
            self._case = replace(self._case, outcome="failed", error=error, detail=message)
        elif self._case and tag == "skipped" and self._case.outcome == "ok":
            self._case = replace(self._case, outcome="skipped")

    def _end(self, tag: str) -> None:
        if tag == "testcase" and self._case:
            self.cases.append(self._case)
            self._case = None

    def _suite(self, attributes: Mapping[str, str]) -> None:
        try:
            began = datetime.fromisoformat(attributes["timestamp"]).timestamp()
        except (KeyError, ValueError, OverflowError, OSError):
            return
        self.ended = max(self.ended or 0.0, began + _seconds(attributes.get("time")))


def _seconds(text: str | None) -> float:
    """Read a duration as reports write it; anything else counts as no time."""
    try:
        seconds = float((text or "").replace(",", ""))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 1e9 else 0.0


def _merged(cases: list[Case]) -> Iterator[Case]:
    """Join neighbours of one name: a test that fails and whose teardown then fails as well is reported twice."""
    previous: Case | None = None
    for case in cases:
        if previous and case.name == previous.name and case.outcome == previous.outcome == "failed":
            previous = replace(previous, took=max(previous.took, case.took))
            continue
        if previous:
            yield previous
        previous = case
    if previous:
        yield previous
