"""Looks into keys whose revision seems to have gone back.

A consumer that reads from a replica which is behind tells old revisions; they come right by themselves. What does not is asked of the
stream's leader, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supervisor.broker.api import MESSAGE_NOT_FOUND, ApiError, call
from supervisor.broker.handle import Handle
from supervisor.broker.monitor.entries import Book
from supervisor.broker.monitor.invariants import CONFIRM, Violation
from supervisor.broker.monitor.snapshot import Stream
from supervisor.broker.monitor.streams import look, stored_at

CALL: Final = 2.0
EXAMINED: Final = 16
"""Keys that are asked about at a time."""


class Revisions:
    """The keys of one bucket that are in doubt."""

    def __init__(self, handle: Handle, stream: str, prefix: str, book: Book) -> None:
        self._handle, self._stream, self._prefix, self._book = handle, stream, prefix, book
        self._since: dict[str, float] = {}
        self._back: dict[str, dict[str, int]] = {}
        """What the last examination found."""

    async def examine(self, stream: Stream) -> tuple[Violation | None, list[str]]:
        """Ask about keys that have been in doubt for long enough, `stream` being what its leader just said of it.

        Return what was violated, and the keys that have no message any more. BrokerError if the leader does not answer. Two
        examinations must agree: questions about keys may be answered by a leader that was paused and does not know that it is none.
        """
        older, now = self._book.older, stream.seen
        self._since = {key: self._since.get(key, now) for key in older}
        due = [key for key, since in self._since.items() if now - since >= CONFIRM][:EXAMINED]
        vanished: list[str] = []
        back: dict[str, dict[str, int]] = {}
        for key in due:
            if key not in older:
                continue  # while others were asked about, it was told anew, or the bucket went
            known, _, mortal = self._book[key]
            last = await self._last(key)
            if last is None:
                vanished.append(key)
            elif last >= known:
                older.discard(key)  # it was told of an old one; the new one is on its way or here
            elif await stored_at(self._handle, self._stream, known, CALL) is None:
                back[key] = {"known": known, "now": last, "mortal": mortal}
        agreed = {key: each for key, each in back.items() if self._back.get(key) == each}
        self._back = back
        if not agreed:
            return None, vanished
        again = await look(self._handle, self._stream, CALL)
        if not again.quorum or again.created != stream.created:
            return None, vanished
        self._book.accept((key, each["now"]) for key, each in agreed.items())
        lost = {key: each for key, each in agreed.items() if not _may_go(each, again)}
        return _violation(self._stream, lost, again) if lost else None, vanished

    async def _last(self, key: str) -> int | None:
        """Return the revision of a key as the stream's leader has it, None if there is no message of it."""
        body: dict[str, Any] = {"last_by_subj": f"{self._prefix}{key}"}
        try:
            answer = await call(self._handle, f"STREAM.MSG.GET.{self._stream}", body, deadline=CALL)
        except ApiError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        return int(answer["message"]["seq"])


def _may_go(each: Mapping[str, int], stream: Stream) -> bool:
    """Say whether the newest message of a key may have been removed, so that an older one is the last."""
    return each["known"] <= stream.last and (bool(each["mortal"]) or stream.erasable)


def _violation(stream: str, back: dict[str, dict[str, int]], now: Stream) -> Violation:
    examples = ", ".join(f"{key} {each['known']} -> {each['now']}" for key, each in back.items())
    detail = f"the revision of {len(back)} keys went back: {examples[:500]}; leader {now.leader or '-'}"
    data = {"keys": back, "created": now.created, "last_seq": now.last, "leader": now.leader}
    return Violation("kv revision", stream, detail, data)
