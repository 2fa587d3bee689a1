"""What a threshold compares with, and how it says that it cannot be read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}


class ThresholdError(ValueError):
    """A text that is no threshold: what stands where, what was expected, did you mean."""

    def __init__(self, text: str, position: int, what: str) -> None:
        self.text, self.position = text, position
        super().__init__(f"column {position + 1}: {what}")


@dataclass(frozen=True, slots=True)
class Limit:
    """What is not to be passed: a value, or one that the baseline gives."""

    value: float
    """Seconds, a share from 0 to 1, a number, or a rate per second, as the threshold's unit says."""
    factor: float | None = None
    """Of the baseline's value, to which `value` is added; None: the baseline has nothing to do with it."""

    def at(self, baseline: float) -> float:
        """Return the limit that follows from a baseline."""
        return self.value if self.factor is None else self.factor * baseline + self.value
