"""A message that a stream has acknowledged, and one that is gone all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Fate = Literal["stream", "delivery", "retention"]


@dataclass(frozen=True, slots=True)
class Acked:
    """A message that the stream has acknowledged."""

    n: int
    sequence: int
    """Its place in the stream, as the acknowledgement says."""
    at: float
    """Monotonic seconds of the acknowledgement."""
    server: str
    """host:port that we were connected to."""
    began: float = 0.0
    """Monotonic seconds of the first attempt to publish it."""
    stream: str = ""
    """The stream that the acknowledgement names."""
    duplicate: bool = False
    """The stream said that it had it already, from an attempt before."""


class Lost(NamedTuple):
    """A message that was acknowledged and is gone."""

    acked: Acked
    fate: Fate
    state: dict[str, Any]
    """The stream's, as STREAM.INFO has it, with `cluster`, `created` and `config`; empty if there is no such stream any more."""
    delivered: bool = False
    """The stream had it, and delivered it, before it was gone."""
    amount: int = 1
    """How many it stands for: itself, and others beside it that nobody would read about."""

    @property
    def where(self) -> str:
        """Before all that the stream has (prefix), after it (postfix), or in between (middle)."""
        if not self.state or self.acked.sequence > self.state["last_seq"]:
            return "postfix"
        return "prefix" if self.acked.sequence < self.state["first_seq"] else "middle"
