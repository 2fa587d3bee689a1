"""Looks at the broker all along: five loops, none of which overlaps itself, and a watch for each bucket.

Names of all streams come at the interval the soak file asks for. Their numbers and consumers, which cost more, come as often as a
tenth of the time allows: with a few streams as often as the names, with ten thousand every five seconds. JetStream's advisories say
where to look sooner. Every call has a deadline, and what does not answer is unknown, not gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Final

import anyio
import nats.errors
from anyio.abc import TaskGroup

from supervisor.broker.api import STREAM_NOT_FOUND, ApiError, each
from supervisor.broker.client import BrokerError
from supervisor.broker.handle import Handle
from supervisor.broker.monitor import gauges
from supervisor.broker.monitor.advisories import SUBJECTS, SYSTEM, told
from supervisor.broker.monitor.invariants import Question
from supervisor.broker.monitor.meta import meta_leader
from supervisor.broker.monitor.pace import Pace
from supervisor.broker.monitor.picture import Picture
from supervisor.broker.monitor.snapshot import Consumers, Snapshot
from supervisor.broker.monitor.streams import Names, describe, look, stored_at, summarise
from supervisor.broker.monitor.watching import Watch
from supervisor.broker.options import Monitor as Options
from supervisor.journal.base import Emitter
from supervisor.journal.events import ViewChanged

NAMES: Final = 2.0
"""Seconds for one round of names, and the longest pause between two."""
CUT: Final = 0.8
"""Share of its time after which a round is cut short: our own event loop may be late to notice."""
CALL: Final = 5.0
"""Seconds for a list: the meta leader itself waits 4 for silent nodes."""
ASK: Final = 2.0
LOOK: Final = 15.0
"""Seconds for one round of all numbers; what is not reached goes first in the next."""
LONGEST: Final = 5.0
"""Longest pause in seconds between two rounds of numbers or consumers."""
OFTEN: Final = 0.5
"""Share of the time for names and for what is asked because something changed: most of it is waiting."""
PAGES: Final = 2
"""Lists in flight: each makes the meta leader ask 256 other leaders, and what it does meanwhile takes longer."""
WAITING: Final = 8
"""Where nodes are silent each list takes 4 s, and forty of them must not take minutes."""
PAGE: Final = 256
"""Streams on a page of descriptions (nats-server's JSApiListLimit)."""
META: Final = 5.0
"""Seconds between two questions for the leader of the cluster."""
ASKED: Final = 64
"""Streams that are asked about one by one in one round."""
BATCH: Final = 48
"""Streams whose consumers are looked at in one round."""
STALE: Final = 6.0
"""Seconds without a list of names after which the view is not complete."""
APART: Final = 10.0
"""Seconds between two events about the view."""
SETTLE: Final = 3.0
"""Seconds that the first looks may take until the view is called incomplete."""


class Monitor:
    """What is on the broker. `run` is a leaf task; the rest can be called at any time."""

    def __init__(
        self, options: Options, handle: Handle, journal: Emitter, system: Handle | None = None
    ) -> None:
        """`handle` is the monitor's own; `system`, one of the system account, only adds who leads the cluster."""
        self._handle, self._system = handle, system
        self._every, self._journal = options.every, journal
        self._picture = Picture(journal.emit)
        self._names = Names()
        self._watches: list[Watch] = []
        self._group: TaskGroup | None = None
        self.follow(options.buckets)
        self._names_seen: float | None = None
        self._details_seen: float | None = None
        self._trouble: dict[str, str] = {}
        self._unasked: list[int] = []
        self._queue: list[str] = []
        self._round = Pace(self._every, NAMES, OFTEN)

    # --- for others --------------------------------------------------------------------------------------------------

    def follow(self, buckets: Collection[str]) -> None:
        """Follow these buckets from now on, and no others."""
        for watch in self._watches:
            if watch.bucket not in buckets:
                watch.stop()
        self._watches = [watch for watch in self._watches if watch.bucket in buckets]
        for bucket in sorted(set(buckets) - {watch.bucket for watch in self._watches}):
            watch = Watch(bucket, self._every, self._handle, self._picture)
            self._watches.append(watch)
            if self._group is not None:
                self._group.start_soon(watch.run)

    @property
    def streams(self) -> frozenset[str]:
        """The names of all streams, as far as they are known by now."""
        return self._picture.presence.there

    def snapshot(self) -> Snapshot:
        """Return what is known now; some 2 ms for 10,000 streams and 100,000 entries that changed."""
        picture = self._picture
        return Snapshot(
            taken=time.monotonic(),
            rounds=self._round.rounds,
            names_seen=self._names_seen,
            details_seen=self._details_seen,
            why=self.why(),
            streams={name: picture.streams.get(name) for name in picture.presence.there},
            doubted=frozenset(picture.presence.doubted),
            consumers=dict(picture.consumers),
            buckets={watch.bucket: watch.look() for watch in self._watches},
            meta_leader=picture.meta_leader,
        )

    def gauges(self) -> Mapping[str, float]:
        """Return the numbers for metrics, as `Observation` has them; none before the first look."""
        if self._names_seen is None:
            return {}
        picture, live = self._picture, {watch.bucket: watch.live for watch in self._watches}
        values = gauges.gauges(picture.presence.there, picture.streams, picture.consumers, live)
        values["soakd_broker_view_complete"] = float(not self.why())
        values["soakd_broker_look_age_seconds"] = round(time.monotonic() - self._names_seen, 3)
        values["soakd_broker_look_seconds"] = round(self.round_took, 4)
        return values

    @property
    def round_took(self) -> float:
        """Seconds that the last round of names took."""
        return self._round.took

    @property
    def round_slowest(self) -> float:
        """Seconds that the longest of all rounds of names took: less than `NAMES`, whatever the broker does."""
        return self._round.slowest

    def why(self) -> str:
        """Return why the view is not complete, empty if it is."""
        now = time.monotonic()
        if self._names_seen is None or now - self._names_seen > STALE:
            return self._trouble.get("names", "the streams have not been listed yet")
        if silent := self._picture.silent:
            return f"{len(silent)} streams do not answer: {', '.join(silent[:5])}{', ...' if len(silent) > 5 else ''}"
        if self._details_seen is None:
            known, total = len(self._picture.streams), len(self._picture.presence.there)
            return self._trouble.get("numbers", f"{known:,} of {total:,} streams have been read so far")
        for watch in self._watches:
            if watch.why:
                return watch.why
        return next(iter(self._trouble.values()), "")

    # --- its task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look until cancelled."""
        tell = self._picture.announce
        async with AsyncExitStack() as stack:
            stack.callback(self._picture.news.flush, everything=True)
            await stack.enter_async_context(told(self._handle, SUBJECTS, tell))
            if self._system is not None:
                await stack.enter_async_context(told(self._system, SYSTEM, tell))
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(self._loop, "names", self._list, self._round, NAMES)
            group.start_soon(self._loop, "numbers", self._describe, Pace(self._every, LONGEST), LOOK)
            group.start_soon(self._loop, "changes", self._ask, Pace(self._every, NAMES, OFTEN), LOOK)
            group.start_soon(self._loop, "consumers", self._summarise, Pace(self._every, LONGEST), LOOK)
            group.start_soon(self._loop, "leader", self._meet, Pace(META, META), ASK)
            for watch in self._watches:
                group.start_soon(watch.run)
            self._group = group
            stack.callback(setattr, self, "_group", None)
            await self._tell()

    async def _loop(
        self, name: str, action: Callable[[], Awaitable[None]], pace: Pace, deadline: float
    ) -> None:
        while True:
            pace.begin()
            try:
                with anyio.fail_after(CUT * deadline):
                    await self._handle.wait_connected(deadline / 2)
                    await action()
            except (BrokerError, TimeoutError) as error:
                self._trouble[name] = str(error) or f"{name}: no answer within {CUT * deadline:g}s"
            else:
                self._trouble.pop(name, None)
            await pace.rest(answered=name not in self._trouble)

    async def _tell(self) -> None:
        """Pass on what is known by now."""
        complete, at = True, time.monotonic() - APART + SETTLE
        while True:
            await anyio.sleep(self._every)
            now, why = time.monotonic(), self.why()
            self._picture.tick()
            if (not why) != complete and now - at >= APART:
                complete, at = not why, now
                self._journal.emit(ViewChanged(complete=complete, why=why))

    # --- the looks ---------------------------------------------------------------------------------------------------

    async def _meet(self) -> None:
        """Learn who leads the cluster; changes are announced. While no majority says the same, the last one is kept."""
        if self._system is None:
            return
        before = self._picture.meta_leader
        with suppress(BrokerError, nats.errors.Error, OSError):
            leader = await meta_leader(self._system, 1)
            if leader is not None and self._picture.meta_leader == before:  # else it was announced meanwhile
                self._picture.meta_leader = leader

    async def _list(self) -> None:
        asked = time.monotonic()
        whole = await self._names.read(self._handle, NAMES)
        self._picture.see_names(self._names.all, asked, whole=whole)
        self._names_seen = time.monotonic()

    async def _describe(self) -> None:
        """Read the numbers of all streams, a page at a time; a round that is cut short goes on where it was."""
        if self._names_seen is None:
            return  # nobody knows yet how many pages there are
        if not self._unasked:
            pages = math.ceil(len(self._picture.presence.there) / PAGE)
            self._unasked = [page * PAGE for page in range(pages)]
        await each(list(self._unasked), self._page, at_once=WAITING if self._picture.silent else PAGES)
        if not self._picture.silent:
            self._details_seen = time.monotonic()

    async def _page(self, offset: int) -> None:
        asked = time.monotonic()
        page = await describe(self._handle, offset, CALL)
        self._unasked.remove(offset)
        self._picture.silence(page.missing)
        for stream in page.streams:
            self._picture.hear(stream, asked)

    async def _ask(self) -> None:
        """Ask the leaders of streams that changed or are in doubt."""
        ledger = self._picture.ledger
        await each(list(ledger.questions.values())[:ASKED], self._question)
        await each(self._picture.wanted()[:ASKED], self._one)

    async def _one(self, name: str) -> None:
        asked = time.monotonic()
        try:
            self._picture.hear(await look(self._handle, name, ASK), asked)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                self._picture.miss(name, asked)
        except BrokerError:
            return  # unknown; asked again

    async def _question(self, question: Question) -> None:
        ledger, name = self._picture.ledger, question.before.name
        if ledger.questions.get(name) is not question:
            return  # while it waited for its turn, another loop heard of the stream and dropped it
        try:
            stored = await stored_at(self._handle, name, question.before.last, ASK)
            asked = time.monotonic()
            stream = await look(self._handle, name, ASK)
        except BrokerError:
            return
        if stream.quorum and ledger.questions.get(name) is question:
            if question.about == "created" or stream.created == question.before.created:
                for finding in ledger.answer(question, stored):
                    self._picture.find(finding)
            self._picture.hear(stream, asked)

    async def _summarise(self) -> None:
        """Read the consumers of a few streams, all in turn."""
        picture = self._picture
        if not self._queue:
            streams = [stream for stream in picture.streams.values() if stream.quorum]
            self._queue = [stream.name for stream in streams if stream.consumers]
            for stream in streams:
                if not stream.consumers and stream.name in picture.consumers:
                    picture.summarise(stream.name, Consumers(stream.seen))
        batch = [self._queue.pop() for _ in range(min(BATCH, len(self._queue)))]
        await each(batch, self._consumers_of, at_once=WAITING)

    async def _consumers_of(self, stream: str) -> None:
        with suppress(BrokerError):  # unknown; its turn comes again
            self._picture.summarise(stream, await summarise(self._handle, stream, CALL))
