"""Follows the entries of one key-value bucket.

nats-py's watch is blind for up to 17 s after a restart, and its `keys()` leaves consumers behind. Here a silent or incomplete
consumer is replaced within two seconds, and each one begins with the present state of every key, so that nothing is missed. Keys
that are purged from the stream are not told to anybody: the stream's count of subjects gives them away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio

from supervisor.broker.api import STREAM_NOT_FOUND, ApiError
from supervisor.broker.client import BrokerError
from supervisor.broker.handle import Handle
from supervisor.broker.monitor.entries import VANISHED, Book
from supervisor.broker.monitor.pace import SHARE, Pace
from supervisor.broker.monitor.picture import Picture
from supervisor.broker.monitor.revisions import Revisions
from supervisor.broker.monitor.snapshot import Bucket, Entry, Operation, Stream
from supervisor.broker.monitor.streams import look, subjects_held
from supervisor.broker.ordered import Ordered, OrderedConsumers

CALL: Final = 1.0
TICK: Final = 0.25
"""Seconds between two checks whether the consumer is well."""
AGAIN: Final = 0.3
"""Seconds before the next try after one that failed."""
LONGEST: Final = 5.0
"""Longest pause in seconds between two looks at the bucket's stream."""
AGREE: Final = 3
"""Looks that must agree that keys were missed."""
STUCK: Final = 10.0
"""Seconds that a consumer may be behind its stream without coming any further."""

_MARKERS: Final = {"DEL": Operation.DELETE, "PURGE": Operation.PURGE}


class Watch:
    """One bucket."""

    def __init__(self, bucket: str, every: float, handle: Handle, picture: Picture) -> None:
        """`every` is how many seconds lie between two looks at the bucket's stream; entries are told as they change."""
        self.bucket, self.stream = bucket, f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._every, self._handle, self._picture = every, handle, picture
        self._consumers = OrderedConsumers(handle)
        self._book = Book()
        self._revisions = Revisions(handle, self.stream, self._prefix, self._book)
        self._created = ""
        self._why = "it has not been looked at yet"
        self._seen: float | None = None
        self._short = 0
        self._behind: tuple[int, float] | None = None
        self._replaced_at = 0
        self._reconcile_at = 0.0
        self._scope = anyio.CancelScope()
        picture.when_gone[self.stream] = self._forget

    def look(self) -> Bucket:
        """Return what is known."""
        book = self._book
        complete = book.complete and not self._why
        return Bucket(self.bucket, book.entries(), book.live, complete, self._why, self._seen)

    @property
    def live(self) -> int:
        """Keys with a value."""
        return self._book.live

    @property
    def why(self) -> str:
        """Why not everything is known; empty if it is."""
        return self._why

    async def run(self) -> None:
        """Follow the bucket until cancelled or stopped, whether it exists or not."""
        try:
            with self._scope:
                while True:
                    try:
                        await self._follow()
                    except BrokerError as error:
                        self._why = str(error)
                    await anyio.sleep(AGAIN)
        finally:
            self._why = "it is no longer watched"

    def stop(self) -> None:
        """Follow it no longer, for good."""
        self._picture.when_gone.pop(self.stream, None)
        self._scope.cancel()

    async def _follow(self) -> None:
        """Follow it until the consumer breaks, which is a BrokerError."""
        await self._handle.wait_connected(CALL)
        await self._consumers.sweep()
        await self._ask()
        self._short, self._behind = 0, None
        async with self._consumers.open(self.stream, f"{self._prefix}>", self._take) as consumer:
            pace, due, reason = Pace(self._every, LONGEST), 0.0, ""
            while not reason:
                await anyio.sleep(TICK)
                consumer.check()
                self._seen = consumer.heard
                if consumer.caught_up and (self._why or not self._book.complete):
                    self._why, self._book.complete = "", True
                if time.monotonic() >= due:
                    pace.begin()
                    with suppress(BrokerError):  # the stream's leader is away; the consumer need not be
                        reason = await self._check(consumer)
                    due = time.monotonic() + pace.pause()
        raise BrokerError(reason)

    def _take(self, subject: str, revision: int, headers: Mapping[str, str] | None) -> None:
        """Take the last or a new message of a key."""
        operation, mortal = Operation.PUT, False
        if headers is not None:
            mortal = "Nats-TTL" in headers
            if "Nats-Marker-Reason" in headers:
                operation = Operation.PURGE
            else:
                operation = _MARKERS.get(headers.get("KV-Operation", ""), Operation.PUT)
        key = subject.removeprefix(self._prefix)
        if change := self._book.apply(key, Entry(revision, operation, mortal)):
            self._picture.news.entry(self.bucket, change, key)

    # --- the bucket's stream -----------------------------------------------------------------------------------------

    async def _ask(self) -> Stream:
        """Look at the stream; if it is another one than before, what was known of its keys is nothing worth."""
        asked = time.monotonic()
        try:
            stream = await look(self._handle, self.stream, CALL)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND and not self._created:
                raise BrokerError(f"there is no bucket {self.bucket}") from error
            raise
        self._picture.hear(stream, asked)
        if stream.quorum and stream.created != self._created:
            self._forget()
            self._created = stream.created
        return stream

    async def _check(self, consumer: Ordered) -> str:
        """Compare what was told with the stream's own numbers; return why a new consumer is needed, if one is."""
        created, held = self._created, len(self._book)
        stream = await self._ask()
        if not stream.quorum:
            return ""
        if self._created != created:
            return f"bucket {self.bucket} was created again"
        if not consumer.caught_up:
            return ""
        if held > stream.subjects:
            await self._reconcile(stream)
        self._drop(await self._judge(stream))
        if consumer.reached < stream.last:
            return self._is_stuck(consumer.reached, stream)
        self._short = self._short + 1 if len(self._book) < stream.subjects else 0
        return f"bucket {self.bucket} has keys that were never told" if self._short >= AGREE else ""

    async def _judge(self, stream: Stream) -> list[str]:
        if not self._book.older:
            return []
        violation, vanished = await self._revisions.examine(stream)
        if violation is not None:
            self._picture.violate(violation)
        return vanished

    def _is_stuck(self, reached: int, stream: Stream) -> str:
        """Say so if the consumer stays behind: its replica may be cut off. Once for each place, as purged messages look alike."""
        if self._behind is None or self._behind[0] <= reached:
            self._behind = stream.last, stream.seen
        last, since = self._behind
        if stream.seen - since < STUCK or last == self._replaced_at:
            return ""
        self._replaced_at = last
        return f"nothing came after message {reached} for {STUCK:.0f}s, though there is more"

    async def _reconcile(self, stream: Stream) -> None:
        """Find the keys that went without a marker. The list costs the server some 3 ms for a thousand keys."""
        there, last = set[str](), stream.last
        if stream.subjects:
            if (start := time.monotonic()) < self._reconcile_at:
                return
            subjects, last = await subjects_held(self._handle, self.stream, f"{self._prefix}>")
            there = {subject.removeprefix(self._prefix) for subject in subjects}
            end = time.monotonic()
            self._reconcile_at = end + (end - start) * (1 / SHARE - 1)
        self._drop(self._book.absent(there, min(last, stream.last)))

    def _drop(self, keys: list[str]) -> None:
        for key in self._book.drop(keys):
            self._picture.news.entry(self.bucket, VANISHED, key)

    def _forget(self) -> None:
        """The stream is gone, or another one has its name."""
        for key in self._book.clear():
            self._picture.news.entry(self.bucket, VANISHED, key)
        self._created, self._why = "", "it has not been looked at yet"
