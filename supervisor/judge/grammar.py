"""Reads a threshold: `[load NAME:] METRIC [of NAME] [SCOPE] OP VALUE [in every TIME]`.

    SCOPE   during X, outside X, while disturbed [by X], while recovering [from X]; X is a fault, or `episodes`: of any
    VALUE   5, 95%, 250ms, 50/s, as the metric has it; or, in that unit, 2x baseline, baseline - 2%, baseline + 50ms

Every error says what was expected and has its position within the text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supervisor.judge.limits import OPERATORS, Limit, ThresholdError
from supervisor.judge.metrics import COUNTER, METRICS, Metric, Subject, Unit, counted, names, plain
from supervisor.judge.scopes import ANY, Scope, Where
from supervisor.values import format_duration, parse_duration, parse_rate, parse_share

LONGEST: Final = 300
"""Characters: a threshold is one line that a person reads."""
SHORTEST, LONGEST_SPAN = 5.0, 86400.0
"""Seconds of a sliding window."""

_MARKS: Final[Mapping[Unit, str]] = {Unit.SHARE: "%", Unit.DURATION: "s", Unit.RATE: "/s"}
"""What is forgotten most often."""
_MILLIS: Final = 10.0
"""A latency without its unit that is no less than this is meant in milliseconds."""
_SLIPS: Final[Mapping[str, str]] = {"=": "==", "===": "==", "=>": ">=", "=<": "<=", "!=": "> or <"}
_TOKEN: Final = re.compile(r"(?P<op>[<>=!]+)|(?P<colon>:)|(?P<word>[^\s<>=!:]+)")
_EVERY: Final = re.compile(
    r"\s+(?P<how>in\s+every|over|in\s+any|in|per|within|every)\s+(?P<span>\d\S*(?:\s+\d\S*)*)\s*$"
)
_RELATIVE: Final = re.compile(
    r"(?:(?P<factor>\d+(?:\.\d+)?)\s*[x*]\s*)?baseline(?:\s*(?P<sign>[+-])\s*(?P<more>\S.*))?"
)
_SCOPES: Final = ("during", "outside", "while")
_LINKS: Final[Mapping[str, tuple[Where, str]]] = {
    "disturbed": (Where.DISTURBED, "by"),
    "recovering": (Where.RECOVERING, "from"),
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`op`, `colon`, `word`, or `end`."""
    text: str
    position: int


class Parser:
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
        scope = self._scope(metric)
        op = self._operator(metric)
        value, span = self._span(metric)
        limit, unit = self._limit(metric, op, value)
        return {"metric": metric, "op": op, "limit": limit, "unit": unit, "load": load, "of": of} | {
            "scope": scope,
            "span": span,
        }

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
            return counted(f"{COUNTER} {name}", name), first
        words = []
        while self._peek().kind == "word" and self._peek().text not in ("of", *_SCOPES):
            words.append(self._take().text)
        if not words:
            raise self._wrong(first, f"expected a metric ({names()}), found {first.text}")
        name = plain(" ".join(words))
        if name in METRICS:
            return METRICS[name], first
        near = difflib.get_close_matches(name.lower(), METRICS, 1, 0.6)
        hint = f"did you mean {METRICS[near[0]].name}?" if near else f"expected one of {names()}"
        raise self._wrong(first, f"there is no metric '{' '.join(words)}', {hint}")

    def _of(self, metric: Metric) -> str | None:
        token = self._peek()
        if token.text != "of":
            return None
        if metric.subject is Subject.LOAD:
            raise self._wrong(token, f"{metric.name} is taken of loads: write 'load NAME: {metric.name}'")
        self._take()
        return self._expect("word", f"the name of a {metric.subject} after 'of'")

    def _scope(self, metric: Metric) -> Scope | None:
        token = self._peek()
        if token.text not in _SCOPES:
            return None
        if not metric.scoped:
            why = (
                "is counted when a load finds it out" if metric.counter else "is taken of the run as a whole"
            )
            raise self._wrong(token, f"{metric.name} {why}: leave out '{token.text} …'")
        self._take()
        if token.text != "while":
            name = self._expect("word", f"the name of a fault, or {ANY}, after '{token.text}'")
            return Scope(Where(token.text), None if name == ANY else name)
        state = self._peek()
        if state.text not in _LINKS:
            what = f"expected recovering or disturbed after 'while', found {state.text}"
            raise self._wrong(state, what + "; or write 'during NAME'")
        self._take()
        where, link = _LINKS[state.text]
        if self._peek().text != link:
            return Scope(where)
        self._take()
        name = self._expect("word", f"the name of a fault, or {ANY}, after '{link}'")
        return Scope(where, None if name == ANY else name)

    def _operator(self, metric: Metric) -> str:
        token = self._peek()
        if token.text not in OPERATORS:
            hint = f", did you mean {_SLIPS[token.text]}?" if token.text in _SLIPS else ""
            expected = f"one of {' '.join(OPERATORS)} after {metric.name}"
            raise self._wrong(token, f"expected {expected}, found {token.text}{hint}")
        return self._take().text

    def _span(self, metric: Metric) -> tuple[str, float | None]:
        """Return what stands before `in every TIME`, and the seconds of that."""
        first = self._peek()
        rest = self._text[first.position :]
        match = _EVERY.search(rest)
        if match is None:
            return rest.strip(), None
        at, written = first.position + match.start("how"), " ".join(match["span"].split())
        if (how := " ".join(match["how"].split())) != "in every":
            raise ThresholdError(self._text, at, f"found '{how} {written}', did you mean in every {written}?")
        if not metric.slides:
            what = f"{metric.name} is taken of the run as a whole: leave out 'in every {written}'"
            raise ThresholdError(self._text, at, what)
        at = first.position + match.start("span")
        span = _read(written, Unit.DURATION)
        if span is None:
            raise ThresholdError(
                self._text, at, f"expected {Unit.DURATION} after 'in every', found {written}"
            )
        if span % 1 or not SHORTEST <= span <= LONGEST_SPAN:
            longest = format_duration(LONGEST_SPAN)
            what = f"expected whole seconds from {format_duration(SHORTEST)} to {longest}, found {written}"
            raise ThresholdError(self._text, at, what)
        return rest[: match.start()].strip(), span

    def _limit(self, metric: Metric, op: str, rest: str) -> tuple[Limit, Unit]:
        first = self._peek()
        expected = f"{metric.name} is compared with {' or '.join(metric.units)}"
        if first.kind == "end" or not rest:
            raise self._wrong(first, f"expected a value after {op}: {expected}")
        if relative := _RELATIVE.fullmatch(rest):
            return self._relative(metric, op, relative)
        for unit in metric.units:
            value = _read(rest, unit)
            if value is not None:
                return Limit(value), unit
        slip = _slip(metric, rest)
        hint = f", did you mean {slip}?" if slip else ""
        if not hint and difflib.get_close_matches("baseline", rest.split(), 1, 0.7):
            hint = ", did you mean 2x baseline or baseline - 2%?"
        raise self._wrong(first, f"{expected}, found {rest}{hint}")

    def _relative(self, metric: Metric, op: str, found: re.Match[str]) -> tuple[Limit, Unit]:
        first = self._peek()
        unit = metric.units[-1]
        if unit is Unit.COUNT or metric.subject is not Subject.LOAD:
            what = f"{metric.name} is a number, and the baseline is shorter than the run: compare a share, a latency or a rate with it"
            raise self._wrong(first, what)
        if op == "==":
            raise self._wrong(first, "nothing is ever exactly as in the baseline: expected >=, >, <= or <")
        more = 0.0
        if found["more"]:
            read = _read(found["more"], unit)
            if read is None:
                at = first.position + found.start("more")
                what = f"expected {unit} after 'baseline {found['sign']}', found {found['more']}"
                raise ThresholdError(self._text, at, what)
            more = -read if found["sign"] == "-" else read
        return Limit(more, float(found["factor"] or 1)), unit

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


def _slip(metric: Metric, text: str) -> str:
    """Return what a number without its unit is most likely meant to be; empty if it is no such thing."""
    unit, number = metric.units[-1], _read(text, Unit.COUNT)
    if number is None or unit not in _MARKS:
        return ""
    if unit is Unit.SHARE and number <= 1:
        return f"{number * 100:.10g}%"
    if unit is Unit.DURATION and metric.quantile is not None and number >= _MILLIS:
        return f"{text}ms"
    slip = text + _MARKS[unit]
    return slip if _read(slip, unit) is not None else ""


def _read(text: str, unit: Unit) -> float | None:
    """Return the value of a text in this unit, None if it is not in this unit."""
    try:
        if unit is Unit.SHARE:
            return parse_share(text)
        if unit is Unit.DURATION:
            return parse_duration(text)
        if unit is Unit.RATE:
            return parse_rate(text)
    except ValueError:
        return None
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None  # finite, as long as LONGEST is
