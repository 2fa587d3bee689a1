"""Watches a bucket beside its writers: every change must be told, in order, none left out."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import anyio

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.broker.ordered import OrderedConsumers

TICK: Final = 0.1
AGAIN: Final = 0.3
"""Seconds before the next try after one that failed."""
OWED: Final = 100_000
"""Changes that are still to be told; beyond them the oldest goes unchecked."""
RUNS: Final = 10_000
"""Runs of changes that were told, none left out within each; beyond them the oldest is forgotten."""
AT_ONCE: Final = 50
"""Changes that are looked at in one go."""
DEADLINE: Final = 2.0


class Told:
    """Which revisions a watch has told. Nearly all come in order and without a gap, so that runs of them take no room."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        """Of each run, both rising."""

    def __contains__(self, revision: int) -> bool:
        run = bisect_right(self._firsts, revision) - 1
        return run >= 0 and revision <= self._lasts[run]

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._firsts)

    def add(self, revision: int) -> None:
        """Take one that was told now."""
        if self._lasts and revision == self._lasts[-1] + 1:
            self._lasts[-1] = revision
        elif revision not in self:
            run = bisect_right(self._firsts, revision)
            self._firsts.insert(run, revision)
            self._lasts.insert(run, revision)
            if len(self) > RUNS:
                del self._firsts[0], self._lasts[0]


class Watched:
    """What a watch owes, and what it told. Counts `watch_gaps`, `watch_reordered` and `superseded`."""

    def __init__(
        self, handle: Handle, stream: str, subject: str, settle: float, count: Callable[[str, float], None]
    ) -> None:
        """`settle`: seconds after which a change must have been told."""
        self._handle, self._stream, self._subject, self._settle, self._count = (
            handle,
            stream,
            subject,
            settle,
            count,
        )
        self._consumers = OrderedConsumers(handle)
        self._owed: OrderedDict[int, float] = OrderedDict()
        self._told = Told()
        self._last = 0
        self.ready = anyio.Event()
        """It follows the bucket."""

    @property
    def owed(self) -> int:
        """How many changes it has not told yet."""
        return len(self._owed)

    def changed(self, revision: int) -> None:
        """A write has made a revision, which is to be told."""
        if revision not in self._told:
            self._owed[revision] = time.monotonic()
            if len(self._owed) > OWED:
                self._owed.popitem(last=False)
                self._count("unchecked", 1)

    async def run(self) -> None:
        """Follow the bucket, for ever: a consumer that went silent or lost something is replaced where it stopped."""
        while True:
            try:
                await self._consumers.sweep()
                state = await api.call(self._handle, f"STREAM.INFO.{self._stream}", deadline=DEADLINE)
                since = self._last + 1 if self.ready.is_set() else state["state"]["last_seq"] + 1
                async with self._consumers.open(self._stream, self._subject, self._take, since) as consumer:
                    self._last = since - 1
                    self.ready.set()
                    while True:
                        consumer.check()
                        await anyio.sleep(TICK)
            except BrokerError:
                await anyio.sleep(AGAIN)

    def _take(self, _: str, revision: int, __: Mapping[str, str] | None) -> None:
        if revision <= self._last:
            self._count("watch_reordered", 1)
        self._last = max(self._last, revision)
        self._owed.pop(revision, None)
        self._told.add(revision)

    async def look(self) -> None:
        """Decide on what should have been told by now; BrokerError if the broker does not say what became of it."""
        due = time.monotonic() - self._settle
        for revision in [n for n, at in list(self._owed.items())[:AT_ONCE] if at <= due]:
            held = await self._holds(revision)
            if self._owed.pop(revision, None) is not None:
                self._count("watch_gaps" if held else "superseded", 1)

    async def _holds(self, revision: int) -> bool:
        """Say whether the bucket still has a change: one that was superseded while the watch was away is told to nobody."""
        try:
            await api.call(
                self._handle, f"STREAM.MSG.GET.{self._stream}", {"seq": revision}, deadline=DEADLINE
            )
        except api.ApiError as error:
            if error.err_code == api.MESSAGE_NOT_FOUND:
                return False
            raise
        return True
