"""Who leads a stream: which answers come from a leader that a majority follows, and who led it at a moment in the past. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

CONTACT: Final = 3e9
"""Nanoseconds: a leader that has not heard of a replica for so long is out of touch with it. They speak every second."""
SPANS: Final = 200
"""Times of leadership that are remembered."""


def is_authoritative(leader: str, replicas: Collection[Mapping[str, Any]]) -> bool:
    """Say whether an answer comes from a leader that a majority follows.

    A server lists all replicas but itself, so one that lists the leader is not the leader. A leader that was paused, or lost its
    majority, believes in itself for up to 20 s; that it has not heard of its replicas gives it away.
    """
    if not leader or any(peer.get("name") == leader for peer in replicas):
        return False
    in_touch = [peer for peer in replicas if not peer.get("offline") and 0 < peer.get("active", 0) < CONTACT]
    return 2 * (1 + len(in_touch)) > 1 + len(replicas)


class Leader(NamedTuple):
    """Who led a stream at a moment, and how that is known."""

    server: str
    """Its name; two of them with `or` if it may have been either, empty if nobody knows."""
    why: str


class _Span(NamedTuple):
    server: str
    first: float
    last: float


class Leadership:
    """The leaders of one stream, as they were seen from time to time. Moments are given in ascending order, in monotonic seconds."""

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque(maxlen=SPANS)

    def seen(self, server: str, moment: float) -> None:
        """Note that a server led the stream at a moment, by its own word and a majority's."""
        last = self._spans[-1] if self._spans else None
        if last and last.server == server:
            self._spans[-1] = last._replace(last=moment)
        else:
            self._spans.append(_Span(server, moment, moment))

    def at(self, moment: float) -> Leader:
        """Say who led the stream at a moment. Between two sightings of the same leader another may have led, but who could tell."""
        before = next((span for span in reversed(self._spans) if span.first <= moment), None)
        after = next((span for span in self._spans if span.last >= moment), None)
        if before is None and after is None:
            return Leader("", "nobody has seen who led the stream")
        if before is None or after is None:
            span = before or after
            assert span is not None  # noqa: S101  # one of them is there
            seen = (
                f"seen {moment - span.last:.1f}s before, and nobody since"
                if before
                else f"seen {span.first - moment:.1f}s after, and nobody before"
            )
            return Leader(span.server, seen)
        if before == after:
            return Leader(before.server, "seen before and after")
        gap = f"the leader changed at that time: {before.server} was seen {moment - before.last:.1f}s before"
        return Leader(
            f"{before.server} or {after.server}", f"{gap}, {after.server} {after.first - moment:.1f}s after"
        )
