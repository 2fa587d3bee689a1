"""The grammar of thresholds: `[load NAME:] METRIC [of NAME] OP VALUE`.

    load rpc: ok >= 95%          crashes of dispatcher <= 5       unexplained failures == 0
    load rpc: p99 < 250ms        recovery of rollout < 30s        load events: lost == 0

A threshold is parsed from one line of text that it keeps, so the journal repeats what the soak file said. What its metric is
compared with must have the metric's unit. Errors carry their position within the text.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from supervisor.values import parse_duration, parse_share

LONGEST: Final = 300
"""Characters: a threshold is one line that a person reads."""


class ThresholdError(ValueError):
    """A text that is no threshold: what stands where, what was expected, did you mean."""

    def __init__(self, text: str, position: int, what: str) -> None:
        self.text, self.position = text, position
        super().__init__(f"column {position + 1}: {what}")


class Unit(StrEnum):
    """What a value is, with an example for messages."""

    COUNT = "a number such as 5"
    SHARE = "a share such as 95%"
    DURATION = "a duration such as 250ms"


class Subject(StrEnum):
    """What a metric is taken of, and so which name may narrow it."""

    LOAD = "load"
    UNIT = "unit"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that can be compared."""

    name: str
    subject: Subject
    units: tuple[Unit, ...]
    quantile: float | None = None
    """Of a latency: the share of ok operations that took at most so long."""
    counter: str | None = None
    """What the load itself counts under this name."""


def _metrics() -> Iterator[Metric]:
    """Yield every metric that has a name of its own, in the order in which messages list them."""
    yield Metric("ok", Subject.LOAD, (Unit.SHARE,))
    for name in ("failures", "unexplained failures", "failed", "indeterminate", "dropped", "late"):
        yield Metric(name, Subject.LOAD, (Unit.COUNT, Unit.SHARE))
    quantiles = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
    for clock in ("", "service "):
        for name, quantile in quantiles.items():
            yield Metric(clock + name, Subject.LOAD, (Unit.DURATION,), quantile=quantile)
    for name in ("crashes", "unexplained crashes", "restarts", "given_up"):
        yield Metric(name, Subject.UNIT, (Unit.COUNT,))
    yield Metric("recovery", Subject.FAULT, (Unit.DURATION,))
    yield Metric("episodes", Subject.FAULT, (Unit.COUNT,))
    for name in ("lost", "duplicates", "reordered", "unexpected", "double_claims"):
        yield Metric(name, Subject.LOAD, (Unit.COUNT,), counter=name)
    yield Metric("tests skipped", Subject.LOAD, (Unit.COUNT,), counter="skipped")


def plain(name: str) -> str:
    """Return a name as names are compared: `given_up` and `given up` are one."""
    return name.replace("_", " ")


METRICS: Final[Mapping[str, Metric]] = {plain(metric.name): metric for metric in _metrics()}
COUNTER: Final = "counter"
"""`counter NAME` is whatever else a load counts: a kind of somebody's own is not in the list above."""

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}
_MARKS: Final[Mapping[Unit, str]] = {Unit.SHARE: "%", Unit.DURATION: "s"}
"""What is forgotten most often."""
_SLIPS: Final[Mapping[str, str]] = {"=": "==", "===": "==", "=>": ">=", "=<": "<=", "!=": "> or <"}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a run must keep to. Without `load` or `of` it is meant for all loads, units or faults together."""

    text: str = field(compare=False)
    """As written."""
    metric: Metric
    op: str
    value: float
    """Seconds, a share from 0 to 1, or a number, as `unit` says."""
    unit: Unit
    load: str | None = None
    of: str | None = None
    """The one unit or fault meant, as `metric.subject` says."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read one threshold; ThresholdError says where it is wrong and what was expected."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise ThresholdError("", 0, 'expected a threshold such as "load rpc: ok >= 95%"')
        if len(text) > LONGEST:
            raise ThresholdError(text, LONGEST, f"a threshold has at most {LONGEST} characters")
        return cls(text, **_Parser(text).threshold())

    def holds(self, seen: float) -> bool:
        """Say whether what was seen, in this threshold's unit, keeps to it."""
        return OPERATORS[self.op](seen, self.value)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "type": "string",
            "description": "[load NAME:] METRIC [of NAME] OP VALUE",
            "examples": ["load rpc: ok >= 95%", "load rpc: p99 < 250ms", "crashes <= 5", "recovery < 30s"],
        }


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`op`, `colon`, `word`, or `end`."""
    text: str
    position: int


_TOKEN: Final = re.compile(r"(?P<op>[<>=!]+)|(?P<colon>:)|(?P<word>[^\s<>=!:]+)")


class _Parser:
    """One left-to-right pass; every method takes what it reads and raises at the first token that does not fit."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [_Token(m.lastgroup or "", m[0], m.start()) for m in _TOKEN.finditer(text)]
        self._tokens.append(_Token("end", "the end of the text", len(text)))
        self._next = 0

    def threshold(self) -> dict[str, Any]:
        """Read the whole text and return the fields of a Threshold."""
        load = self._load()
        metric, at = self._metric()
        if load is not None and metric.subject is not Subject.LOAD:
            what = f"{metric.name} is counted for {metric.subject}s: leave out 'load {load}:'"
            raise self._wrong(at, what + f" or write '{metric.name} of NAME'")
        of = self._of(metric)
        op = self._operator(metric)
        value, unit = self._value(metric, op)
        return {"metric": metric, "op": op, "value": value, "unit": unit, "load": load, "of": of}

    def _load(self) -> str | None:
        if self._peek().text != "load":
            return None
        self._take()
        name = self._expect("word", "the name of a load after 'load'")
        self._expect("colon", f"':' after the name of the load, as in 'load {name}: ok >= 95%'")
        return name

    def _metric(self) -> tuple[Metric, _Token]:
        first = self._peek()
        if first.text == COUNTER:
            self._take()
            name = self._expect("word", "the name of a counter after 'counter'")
            return Metric(f"{COUNTER} {name}", Subject.LOAD, (Unit.COUNT,), counter=name), first
        words = []
        while self._peek().kind == "word" and self._peek().text != "of":
            words.append(self._take().text)
        if not words:
            raise self._wrong(first, f"expected a metric ({_names()}), found {first.text}")
        name = plain(" ".join(words))
        if name in METRICS:
            return METRICS[name], first
        near = difflib.get_close_matches(name, METRICS, 1, 0.6)
        hint = f"did you mean {METRICS[near[0]].name}?" if near else f"expected one of {_names()}"
        raise self._wrong(first, f"there is no metric '{' '.join(words)}', {hint}")

    def _of(self, metric: Metric) -> str | None:
        token = self._peek()
        if token.text != "of":
            return None
        if metric.subject is Subject.LOAD:
            raise self._wrong(token, f"{metric.name} is taken of loads: write 'load NAME: {metric.name}'")
        self._take()
        return self._expect("word", f"the name of a {metric.subject} after 'of'")

    def _operator(self, metric: Metric) -> str:
        token = self._peek()
        if token.text not in OPERATORS:
            hint = f", did you mean {_SLIPS[token.text]}?" if token.text in _SLIPS else ""
            expected = f"one of {' '.join(OPERATORS)} after {metric.name}"
            raise self._wrong(token, f"expected {expected}, found {token.text}{hint}")
        return self._take().text

    def _value(self, metric: Metric, op: str) -> tuple[float, Unit]:
        first = self._peek()
        expected = f"{metric.name} is compared with {' or '.join(metric.units)}"
        if first.kind == "end":
            raise self._wrong(first, f"expected a value after {op}: {expected}")
        rest = self._text[first.position :].strip()
        for unit in metric.units:
            value = _read(rest, unit)
            if value is not None:
                return value, unit
        slips = [rest + mark for unit, mark in _MARKS.items() if unit in metric.units]
        slip = next((slip for slip in slips if _read(slip, metric.units[0]) is not None), "")
        hint = f", did you mean {slip}?" if slip else ""
        raise self._wrong(first, f"{expected}, found {rest}{hint}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _expect(self, kind: str, what: str) -> str:
        token = self._peek()
        if token.kind != kind:
            raise self._wrong(token, f"expected {what}, found {token.text}")
        return self._take().text

    def _wrong(self, token: _Token, what: str) -> ThresholdError:
        return ThresholdError(self._text, token.position, what)


def _names() -> str:
    alone = [metric.name for metric in METRICS.values() if not metric.name.startswith("service ")]
    return ", ".join([*alone, "service p50 to max", f"{COUNTER} NAME"])


def _read(text: str, unit: Unit) -> float | None:
    """Return the value of a text in this unit, None if it is not in this unit."""
    try:
        if unit is Unit.SHARE:
            return parse_share(text)
        if unit is Unit.DURATION:
            return parse_duration(text)
    except ValueError:
        return None
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None  # finite, as long as LONGEST is
