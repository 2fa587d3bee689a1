"""What a stream promises by its configuration: which of the messages that it has taken it has to keep. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

SLACK: Final = 5.0
"""Seconds by which a server's clock may have gone ahead of ours while a message grew old."""


class Terms(NamedTuple):
    """For how long a stream keeps a message."""

    delivered: bool = True
    """Also after it was delivered: not so a work queue, and a stream that keeps what somebody is interested in."""
    age: float = math.inf
    """Seconds since it was published."""
    newest: float = math.inf
    """It belongs to so many that have the highest places."""
    bytes: bool = False
    """Its oldest ones may go for want of room at any time."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Terms:
        """Return those of a stream's configuration."""
        full = config.get("discard") == "new"
        """It takes no more instead of dropping what is old."""
        limits = [
            *(() if full else (config.get("max_msgs", -1),)),
            *(
                ()
                if full and config.get("discard_new_per_subject")
                else (config.get("max_msgs_per_subject", -1),)
            ),
        ]
        return cls(
            config.get("retention", "limits") == "limits",
            config.get("max_age", 0) / 1e9 or math.inf,
            min((limit for limit in limits if limit > 0), default=math.inf),
            not full and config.get("max_bytes", -1) > 0,
        )

    def keep(self, place: int, published: float, now: float, last: int) -> bool:
        """Say whether a message at a place, the first publish of which began then, has still to be there.

        `last` is the highest place that the stream has given out. What is dropped for its size has a place before all that is there.
        """
        return place > last - self.newest and now - published < self.age - SLACK
