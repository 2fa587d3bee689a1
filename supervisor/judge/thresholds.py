"""A threshold: what a run must keep to. `grammar.py` reads it from one line of text, which it keeps, so that the journal repeats it.

load rpc: ok >= 95%          crashes of dispatcher <= 5         unexplained failures == 0
load rpc: p99 < 250ms        failures during rollout == 0       load rpc: ok >= 90% in every 1m
load events: lost == 0       recovery of rollout < 30s          load rpc: p99 < 2x baseline
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from supervisor.judge.grammar import LONGEST, Parser
from supervisor.judge.limits import OPERATORS, Limit, ThresholdError
from supervisor.judge.metrics import Metric, Subject, Unit
from supervisor.judge.scopes import Scope
from supervisor.loads.clients import Mode

STEPS: Final = (10.0, 5.0, 1.0)
"""Seconds by which sliding windows may move: the journal's own windows are so long."""
SHARE_OF_WINDOW: Final = 6
"""A sliding window moves by at most this part of its length, where that can be."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a run must keep to. Without `load` or `of` it is meant for all loads, units or faults together."""

    text: str = field(compare=False)
    """As written."""
    metric: Metric
    op: str
    limit: Limit
    unit: Unit
    load: str | None = None
    of: str | None = None
    """The one unit or fault meant, as `metric.subject` says."""
    scope: Scope | None = None
    """The part of the run; None: all of it."""
    span: float | None = None
    """Seconds: it is to hold in every window so long; None: over the run as a whole."""
    abort: bool = False
    """End the run as soon as it can no longer be kept."""
    client: Mode | None = None
    """Asked of its load only if that has this client; None: in any case."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read one threshold; ThresholdError says where it is wrong and what was expected."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise ThresholdError("", 0, 'expected a threshold such as "failures == 0"')
        if len(text) > LONGEST:
            raise ThresholdError(text, LONGEST, f"a threshold has at most {LONGEST} characters")
        return cls(text, **Parser(text).threshold())

    @property
    def relative(self) -> bool:
        """Whether its limit comes from the baseline."""
        return self.limit.factor is not None

    @property
    def step(self) -> float:
        """Seconds by which its window moves, and the longest window of the journal that it can be judged from."""
        span = self.span or STEPS[0]
        whole = [step for step in STEPS if span % step == 0]
        return next((step for step in whole if span >= SHARE_OF_WINDOW * step), whole[-1])

    @property
    def upper(self) -> bool:
        """Whether it says how much there may be at most."""
        return self.op in ("<", "<=", "==")

    @property
    def can_be_lost(self) -> bool:
        """Whether it can be broken for good before the run is over, so that `abort` has a meaning."""
        return self.span is not None or (self.metric.grows and self.upper and self.unit is not Unit.SHARE)

    def holds(self, seen: float, baseline: float = 0.0) -> bool:
        """Say whether what was seen, in this threshold's unit, keeps to it."""
        return OPERATORS[self.op](seen, self.limit.at(baseline))

    def worse(self, one: float, other: float) -> bool:
        """Say whether one value is further on the wrong side than another."""
        if self.op == "==":
            return abs(one - self.limit.value) > abs(other - self.limit.value)
        return one > other if self.upper else one < other

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.no_info_plain_validator_function(cls.parse)
        fields = {
            "that": core_schema.typed_dict_field(text, required=True),
            "abort": core_schema.typed_dict_field(core_schema.bool_schema(strict=True), required=False),
            "client": core_schema.typed_dict_field(
                core_schema.literal_schema(list(get_args(Mode))), required=False
            ),
        }
        mapping = core_schema.no_info_after_validator_function(
            lambda entry: replace(entry["that"], abort=entry.get("abort", False), client=entry.get("client")),
            core_schema.typed_dict_schema(fields, extra_behavior="forbid"),
        )
        return core_schema.tagged_union_schema(
            {"a text": text, "a mapping": mapping},
            lambda entry: "a mapping" if isinstance(entry, dict) else "a text",
            serialization=core_schema.to_string_ser_schema(),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        text = {
            "type": "string",
            "description": "[load NAME:] METRIC [of NAME] [PART OF THE RUN] OP VALUE [in every TIME]",
            "examples": [
                "load rpc: ok >= 95%",
                "load rpc: p99 < 250ms in every 1m",
                "failures during rollout == 0",
            ],
        }
        abort = {
            "type": "boolean",
            "default": False,
            "description": "End the run as soon as it can no longer be kept.",
        }
        client = {
            "enum": list(get_args(Mode)),
            "description": "Ask it of the load only if that has this client.",
        }
        mapping = {
            "type": "object",
            "properties": {"that": text, "abort": abort, "client": client},
            "required": ["that"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, mapping]}


__all__ = ["OPERATORS", "Limit", "Metric", "Subject", "Threshold", "ThresholdError", "Unit"]
