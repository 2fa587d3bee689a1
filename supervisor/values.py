"""Values with a unit: durations, rates, shares, sizes and intensities.

All of them are written in the soak file as a person would say them (`40s`, `50/s`, `95%`, `20 / 10m`) and are plain numbers
inside: durations are seconds, rates are per second, shares lie between 0 and 1.
"""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_UNITS: Final[Mapping[str, float]] = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_COMPARISON: Final = re.compile(r"\s*(<=|>=|==|!=|<|>)?\s*([^<>=!\s](?:.*\S)?)\s*")
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")


def parse_duration(text: object) -> float:
    """Return the seconds of `500ms`, `40s`, `5m`, `1h30m` or `2d`; ValueError says what was expected.

    A bare number is refused: nobody should have to guess its unit. Only 0 needs none.
    """
    if isinstance(text, str) and _DURATION.fullmatch(compact := text.replace(" ", "")):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(compact))
        if math.isfinite(seconds):
            return seconds
    if not isinstance(text, bool) and text in (0, "0"):
        return 0.0
    raise ValueError("expected a duration such as 500ms, 40s, 5m or 1h30m")


def format_duration(seconds: float) -> str:
    """Write seconds the way `parse_duration` reads them, with at most three significant parts lost to rounding (1 ms)."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    seconds = round(seconds, 3)  # first: 0.9996 is 1s, not 1000ms
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    rest, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        amount, rest = divmod(rest, int(_UNITS[unit]))
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts)


def parse_share(text: object) -> float:
    """Return 0..1 for `95%`; ValueError for anything else, bare numbers included."""
    if isinstance(text, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)):
        share = float(Decimal(match[1]) / 100)  # 99.9 / 100 in floats is above 999 / 1000
        if share <= 1:
            return share
    raise ValueError("expected a share between 0% and 100%, such as 95%")


def parse_rate(text: object) -> float:
    """Return events per second for `50/s`, `10/m` or `3 / 10s`; ValueError says what was expected."""
    if isinstance(text, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\S+)\s*", text)):
        per = match[2] if match[2][0].isdigit() else f"1{match[2]}"
        try:
            seconds = parse_duration(per)
        except ValueError:
            seconds = 0
        if seconds > 0 and float(match[1]) > 0:
            return float(match[1]) / seconds
    raise ValueError("expected a rate such as 50/s, 10/m or 3/10s")


_BYTES: Final[Mapping[str, int]] = {
    "B": 1,
    **{f"{prefix}B": 1000**n for n, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", 1)},
}


def parse_size(text: object) -> int:
    """Return the bytes of `64MB` (1000 x 1000) or `1GiB` (1024 x 1024 x 1024); ValueError for anything else, bare numbers included."""
    if isinstance(text, str) and (match := re.fullmatch(SIZE, text)):
        return int(Decimal(match[1]) * _BYTES[match[3]])
    raise ValueError("expected a size such as 64MB or 1GiB")


def format_size(size: int) -> str:
    """Write bytes the way `parse_size` reads them, exactly: in the largest unit of which they are a whole number."""
    unit = max((unit for unit in _BYTES if size % _BYTES[unit] == 0), key=lambda unit: _BYTES[unit])
    return f"{size // _BYTES[unit]}{unit}" if size else "0B"


def parse_throughput(text: object) -> float:
    """Return the bytes a second of `100kB/s`; ValueError for anything else."""
    if isinstance(text, str) and re.fullmatch(THROUGHPUT, text):
        return float(parse_size(text.rpartition("/")[0]))
    raise ValueError("expected bytes a second, such as 100kB/s or 1MiB/s")


DURATION: Final = r"^ *(\d+(\.\d+)? *(ms|s|m|h|d) *)+$|^0$"
RATE: Final = r"^\s*\d+(\.\d+)?\s*/\s*(\d\S*|ms|s|m|h|d)\s*$"
SHARE: Final = r"^\s*\d+(\.\d+)?\s*%\s*$"
SIZE: Final = r"^\s*(\d+(\.\d+)?)\s*(B|[kMGT]B|[KMGT]iB)\s*$"
THROUGHPUT: Final = SIZE.removesuffix("$") + r"/\s*s\s*$"
"""How they are written, for the JSON schema; each pattern stands for its type there."""


def _schema(pattern: str, description: str, *examples: str, **more: object) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern, "description": description, "examples": list(examples)}
    return WithJsonSchema(text | more)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    _schema(
        DURATION,
        "A duration with its unit.",
        "500ms",
        "40s",
        "5m",
        "1h30m",
        type=["string", "integer"],  # the number 0 needs no unit
        minimum=0,
        maximum=0,
    ),
]
"""Seconds, zero or more."""

Rate = Annotated[
    float, BeforeValidator(parse_rate), _schema(RATE, "Events in a time.", "50/s", "10/m", "3/10s")
]
"""Events per second, more than zero."""

Share = Annotated[float, BeforeValidator(parse_share), _schema(SHARE, "A share in percent.", "95%", "0.5%")]
"""A fraction from 0 to 1."""

Size = Annotated[int, BeforeValidator(parse_size), _schema(SIZE, "A number of bytes.", "64MB", "1GiB")]
"""Bytes."""

Throughput = Annotated[
    float, BeforeValidator(parse_throughput), _schema(THROUGHPUT, "Bytes in a second.", "100kB/s", "1MiB/s")
]
"""Bytes per second."""


class Written(ABC):
    """A value that is one text in the soak file: how it is read, and what an editor is told of it."""

    __slots__ = ()
    SCHEMA: ClassVar[Mapping[str, Any]]
    """Its JSON schema."""

    @classmethod
    @abstractmethod
    def parse(cls, text: object) -> Self:
        """Read it; ValueError says what was expected."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(cls.SCHEMA)


@dataclass(frozen=True, slots=True)
class Intensity(Written):
    """At most `count` events within `period` seconds (OTP: intensity and period); one more is too many."""

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "pattern": r"^\s*\d+\s*/\s*\d\S*\s*$",
        "description": "At most so many in a time.",
        "examples": ["20 / 10m"],
    }

    count: int
    period: float

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `20 / 10m`; ValueError says what was expected."""
        if isinstance(text, cls):
            return text
        if isinstance(text, str) and (match := re.fullmatch(r"\s*(\d+)\s*/\s*(\S+)\s*", text)):
            try:
                period = parse_duration(match[2])
            except ValueError:
                period = 0.0
            if period > 0:
                return cls(int(match[1]), period)
        raise ValueError("expected an intensity such as 20 / 10m: at most 20 in 10 minutes")

    def __str__(self) -> str:
        return f"{self.count} / {format_duration(self.period)}"

    def exceeded(self, times: Iterable[float], now: float) -> bool:
        """Say whether more than `count` of `times` lie within the period that ends now (seconds, one clock)."""
        return sum(1 for time in times if now - time < self.period) > self.count


@dataclass(frozen=True, slots=True)
class Comparison(Written):
    """What a value is held against: `< 5`, `>= 1`, `== ready`. A number or a word alone means `==`."""

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": ["string", "number"],
        "description": "What the value is held against.",
        "examples": ["< 5", ">= 1", "== 0"],
    }

    operator: str
    wanted: float | str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a comparison; ValueError says what was expected."""
        if isinstance(text, cls):
            return text
        if isinstance(text, int | float) and not isinstance(text, bool):
            return cls("==", text)
        if isinstance(text, str) and (match := _COMPARISON.fullmatch(text)):
            name, word = match[1] or "==", match[2]
            number = float(word) if _NUMBER.fullmatch(word) else None
            if number is not None or name in ("==", "!="):
                return cls(name, word if number is None else number)
        raise ValueError('expected a comparison with a number such as "< 5", ">= 1" or "== 0"')

    def holds(self, value: object) -> bool:
        """Say whether a value passes; a text that is a number counts as one, any other never passes an order."""
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, int | float) and isinstance(self.wanted, int | float):
            return _COMPARE[self.operator](value, self.wanted)
        return {"==": value == self.wanted, "!=": value != self.wanted}.get(self.operator, False)

    def __str__(self) -> str:
        wanted = self.wanted
        return f"{self.operator} {wanted if isinstance(wanted, str) else format(wanted, '.12g')}"
