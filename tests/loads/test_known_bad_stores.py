"""Bad buckets and event stores: see `known_bad`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from false_jetstream import NO_MESSAGE, FalseJetStream, playing
from known_bad import broken, flagged, soaked
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench
from test_event_store import Now, careless, create_relayed_stream, forgetful, refusing, repeating
from test_event_store import load as event_store
from test_kv import Refuses, Scrambles, ShowsOld, TellsNotAll
from test_kv import load as kv

from supervisor.judge.verdict import Judgement

# --- registers ----------------------------------------------------------------------------------------------------------

REGISTERS = (
    *("failed == 0", "indeterminate == 0", "forks == 0", "stale_writes == 0", "stale_reads == 0"),
    *("spurious_conflicts == 0", "lost_updates == 0", "unexpected == 0", "watch_gaps == 0"),
)


class Forks(FalseJetStream):
    """Accepts two writes on one revision, the second one before anybody can have heard of the first."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.replaced, self.answers, self.at = 0, 0, -1

    async def _say(self, msg: Msg, answer: dict[str, Any]) -> None:
        self.answers += 1
        await super()._say(msg, answer)

    def accepts(self, subject: str, expected: int, found: int) -> bool:
        unheard = self.at == self.answers - 1 and self.client.pending_data_size > 0
        fork = expected == self.replaced and unheard and next(self.published) % 5 == 0
        if expected == found:
            self.replaced, self.at = found, self.answers
        return super().accepts(subject, expected, found) or fork


LATE = 50
"""Writes after which all who write have heard of the first of them: one answer goes to each at a time."""


class AcceptsLate(FalseJetStream):
    """Answers a read late, as it may, and accepts the write on what it showed although that was replaced long ago."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.late: set[asyncio.Task[None]] = set()
        self.owed: set[int] = set()

    async def _get(self, msg: Msg) -> None:
        if self.owed or self.late or next(self.published) % 50:
            await super()._get(msg)
            return
        found = self.last.get(json.loads(msg.data).get("last_by_subj", ""))
        task = asyncio.create_task(self._answer_late(msg, found))
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def _answer_late(self, msg: Msg, found: tuple[int, bytes] | None) -> None:
        since = self.sequence
        with anyio.move_on_after(0.3):  # towards the end nobody writes any more
            while self.sequence < since + LATE:  # noqa: ASYNC110  # writes come one by one
                await anyio.sleep(0.005)
        if found is None:
            await self._say(msg, NO_MESSAGE)
            return
        if self.sequence >= since + LATE:
            self.owed.add(found[0])
        message = {"seq": found[0], "data": base64.b64encode(found[1]).decode()}
        await self._say(msg, {"message": message})

    def accepts(self, subject: str, expected: int, found: int) -> bool:
        late = expected in self.owed
        self.owed.discard(expected)
        return late or super().accepts(subject, expected, found)


BAD_BUCKETS: dict[str, tuple[type[FalseJetStream], dict[str, Any], str]] = {
    "forks": (Forks, {"registers": 1, "reads": "0%"}, "forks"),
    "accepts stale writes": (AcceptsLate, {"registers": 1, "reads": "0%"}, "stale_writes"),
    "shows what was": (ShowsOld, {}, "stale_reads"),
    "refuses for no reason": (Refuses, {"workers": 1}, "spurious_conflicts"),
    "shows what nobody wrote": (Scrambles, {}, "unexpected"),
    "leaves changes out": (TellsNotAll, {"settle": "1s"}, "watch_gaps"),
}


@pytest.mark.parametrize("bad", BAD_BUCKETS)
async def test_a_bad_bucket_is_flagged_by_its_threshold_alone(bare_bench: NatsBench, bad: str) -> None:
    kind, entry, counter = BAD_BUCKETS[bad]
    async with playing(bare_bench.server, kind):
        judgement = await soaked(bare_bench.bench, kv(**entry), REGISTERS, **{counter: 2})

    assert broken(judgement) == {f"{counter} == 0"}, flagged(judgement)


# --- event stores -------------------------------------------------------------------------------------------------------

EVENT_STORE = (
    *("lost == 0", "duplicates == 0", "forks == 0", "gaps == 0", "reordered == 0", "unexpected == 0"),
    *("spurious_conflicts == 0", "self_conflicts == 0", "indeterminate == 0"),
)
ONE_BY_ONE = {"workers": 1, "contention": "0%"}
BAD_STORES: dict[str, tuple[Callable[[Now], Answer], dict[str, Any], str]] = {
    "loses what it acknowledged": (forgetful, {}, "lost == 0"),
    "stores twice": (repeating, {"contention": "0%"}, "duplicates == 0"),
    "ignores the expected sequence": (careless, {"contention": "20%"}, "forks == 0"),
    "refuses for no reason": (refusing, ONE_BY_ONE, "spurious_conflicts == 0"),
}


async def appended(bench: NatsBench, relay: Answer, count: int, **entry: Any) -> Judgement:
    load = event_store(subject="in", **({"rate": None, "workers": 5} | entry))
    await create_relayed_stream(bench)
    return await soaked(bench.bench, load, EVENT_STORE, bench.responder("in.>", relay), ok=count)


@pytest.mark.parametrize("bad", BAD_STORES)
async def test_a_bad_event_store_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    make, entry, threshold = BAD_STORES[bad]

    judgement = await appended(nats_bench, make(Now()), 150, **entry)

    assert broken(judgement) == {threshold}, flagged(judgement)
