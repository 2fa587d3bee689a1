"""Bad buckets and event stores: see `known_bad`."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
import pytest
from false_jetstream import NO_MESSAGE, WRONG_LAST, FalseJetStream, playing
from known_bad import ENOUGH, FIRST, LONG, RATE, SLOW, broken, flagged, once, soaked, with_latency
from load_bench import PATIENCE
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer, NatsBench
from test_event_store import (
    Now,
    careless,
    create_relayed_stream,
    forgetful,
    honest_store,
    real,
    refusing,
    repeating,
    store,
)
from test_event_store import load as event_store
from test_kv import Refuses, Scrambles, ShowsOld, TellsNotAll
from test_kv import load as kv

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.judge.verdict import Judgement
from supervisor.loads import consumers
from supervisor.loads import event_store as loads_event_store
from supervisor.loads.base import Load

# --- registers ----------------------------------------------------------------------------------------------------------

REGISTERS = (
    *("failed == 0", "indeterminate == 0", "forks == 0", "stale_writes == 0", "stale_reads == 0"),
    *("spurious_conflicts == 0", "lost_updates == 0", "unexpected == 0", "watch_gaps == 0"),
    "watch_reordered == 0",
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


class TellsInDisorder(FalseJetStream):
    """Tells the watch of every twentieth change after the next one."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.kept: list[tuple[int, str, bytes]] = []

    async def _tell(self, sequence: int, subject: str, payload: bytes) -> None:
        if sequence % 20 == 0:
            self.kept.append((sequence, subject, payload))
            return
        await super()._tell(sequence, subject, payload)
        while self.kept:
            await super()._tell(*self.kept.pop())


class Forgets(FalseJetStream):
    """Has only the first write of each register left when its leader is asked, as after a restart from an old copy."""

    async def _get(self, msg: Msg) -> None:
        wanted = json.loads(msg.data).get("last_by_subj")
        first = next(((n, payload) for n, subject, payload in self.log if subject == wanted), None)
        if first is None:
            await super()._get(msg)
        else:
            message = {"seq": first[0], "data": base64.b64encode(first[1]).decode()}
            await self._say(msg, {"message": message})


class Stalls(FalseJetStream):
    """Stands still once."""

    async def _get(self, msg: Msg) -> None:
        if next(self.published) == FIRST:
            await anyio.sleep(LONG)
        await super()._get(msg)


BAD_BUCKETS: dict[str, tuple[type[FalseJetStream], dict[str, Any], str]] = {
    "forks": (Forks, {"registers": 1, "reads": "0%"}, "forks"),
    "accepts stale writes": (AcceptsLate, {"registers": 1, "reads": "0%"}, "stale_writes"),
    "shows what was": (ShowsOld, {}, "stale_reads"),
    "refuses for no reason": (Refuses, {"workers": 1}, "spurious_conflicts"),
    "shows what nobody wrote": (Scrambles, {}, "unexpected"),
    "leaves changes out": (TellsNotAll, {"settle": "1s"}, "watch_gaps"),
    "tells changes in disorder": (TellsInDisorder, {}, "watch_reordered"),
}
PACED = {"workers": None, "rate": RATE}


@pytest.mark.parametrize("bad", BAD_BUCKETS)
async def test_a_bad_bucket_is_flagged_by_its_threshold_alone(bare_bench: NatsBench, bad: str) -> None:
    kind, entry, counter = BAD_BUCKETS[bad]
    async with playing(bare_bench.server, kind):
        judgement = await soaked(bare_bench.bench, kv(**entry), REGISTERS, **{counter: 2})

    assert broken(judgement) == {f"{counter} == 0"}, flagged(judgement)


async def test_a_bucket_that_lost_what_it_acknowledged_is_flagged_by_its_threshold_alone(
    bare_bench: NatsBench,
) -> None:
    """Reads ask its replicas here, which are right: only the last look sees what its leader has."""
    async with playing(bare_bench.server, Forgets):
        judgement = await soaked(bare_bench.bench, kv(read="direct"), REGISTERS, ok=200)

    assert broken(judgement) == {"lost_updates == 0"}, flagged(judgement)


async def test_a_bucket_that_stalls_is_flagged_by_its_latency_alone(bare_bench: NatsBench) -> None:
    async with playing(bare_bench.server, Stalls):
        judgement = await soaked(bare_bench.bench, kv(**PACED), with_latency(REGISTERS, SLOW), ok=ENOUGH)

    assert broken(judgement) == {SLOW}, flagged(judgement)


# --- event stores -------------------------------------------------------------------------------------------------------

EVENT_STORE = (
    *("lost == 0", "duplicates == 0", "forks == 0", "gaps == 0", "reordered == 0", "unexpected == 0"),
    *("spurious_conflicts == 0", "self_conflicts == 0", "indeterminate == 0"),
)
ENOUGH_READ = {"ok": 150}
ONE_BY_ONE = {"workers": 1, "contention": "0%"}


def hollow(_: Now) -> Answer:
    """Store an event, never say so, and lose it once another one was appended behind it."""
    stored: dict[str, tuple[str, int]] = {}
    last: dict[str, int] = {}
    taken = Counter[str]()

    async def hollow(client: Client, msg: Msg) -> None:
        assert msg.headers
        name = msg.headers["Nats-Msg-Id"]
        if name in stored:  # it is asked again, since nobody has answered
            subject, place = stored[name]
            if place and last[subject] > place:
                stored[name] = subject, 0
                gone = b'{"seq": %d}' % place
                await client.request("$JS.API.STREAM.MSG.DELETE.EVENTS", gone, timeout=PATIENCE)
            if stored[name] == (subject, 0):
                await msg.respond(json.dumps(WRONG_LAST).encode())
            return
        answer = await client.request(real(msg), msg.data, timeout=PATIENCE, headers=msg.headers)
        place = json.loads(answer.data).get("seq") or 0
        # Neither the first one, before which a stream may end, nor one behind which nothing will be appended any more; and one alone: the
        # soak may be over once its gap is seen, and whoever waited for another one then would be cut off.
        if place and 0 < taken[msg.subject] < 10 and not stored:
            stored[name] = msg.subject, place
        else:
            await msg.respond(answer.data)
        last[msg.subject] = max(place, last.get(msg.subject, 0))
        taken[msg.subject] += bool(place)

    return hollow


def meddling(now: Now) -> Answer:
    """Append something that nobody wrote now and then."""

    async def meddle(client: Client, msg: Msg) -> None:
        ack = await store(client, msg)
        if ack["seq"] and now():  # a refusal has 0
            await client.request(real(msg), b"not of ours", timeout=PATIENCE)

    return meddle


def contradicting(now: Now) -> Answer:
    """Refuse now and then what is stored all the same."""

    async def contradict(client: Client, msg: Msg) -> None:
        if now():
            await client.request(real(msg), msg.data, timeout=PATIENCE, headers=msg.headers)
            await msg.respond(json.dumps(WRONG_LAST).encode())
        else:
            await store(client, msg)

    return contradict


def fading(_: Now) -> Answer:
    """Lose an event of the first aggregate once ten others were begun: by then nobody appends to it, and nobody reads it, any more.

    Not the stream's first message, which its limits might have removed.
    """
    places: dict[str, list[int]] = {}

    async def fade(client: Client, msg: Msg) -> None:
        ack = await store(client, msg)
        if not ack["seq"]:  # a refusal
            return
        begun = len(places)
        places.setdefault(msg.subject, []).append(ack["seq"])
        if len(places) > begun == 10:
            gone = json.dumps({"seq": next(iter(places.values()))[1]}).encode()
            await client.request("$JS.API.STREAM.MSG.DELETE.EVENTS", gone, timeout=PATIENCE)

    return fade


BAD_STORES: dict[str, tuple[Callable[[Now], Answer], dict[str, Any], str]] = {
    "loses what it acknowledged": (forgetful, {}, "lost == 0"),
    "stores twice": (repeating, {"contention": "0%"}, "duplicates == 0"),
    "ignores the expected sequence": (careless, {"contention": "20%"}, "forks == 0"),
    "refuses for no reason": (refusing, ONE_BY_ONE, "spurious_conflicts == 0"),
    "refuses what it stores": (contradicting, ONE_BY_ONE, "self_conflicts == 0"),
    "stores what nobody wrote": (meddling, {"contention": "0%"}, "unexpected == 0"),
    "loses what it never acknowledged": (hollow, {"aggregates": 1, "attempt": "300ms"}, "gaps == 0"),
}


async def appended(
    bench: NatsBench, relay: Answer, expected: str = "", counts: Mapping[str, int] = ENOUGH_READ, **entry: Any
) -> Judgement:
    load = event_store(subject="in", **({"rate": None, "workers": 5} | entry))
    await create_relayed_stream(bench)
    system, thresholds = bench.responder("in.>", relay), with_latency(EVENT_STORE, expected)
    return await soaked(bench.bench, load, thresholds, system, **counts)


@pytest.mark.parametrize("bad", BAD_STORES)
async def test_a_bad_event_store_is_flagged_by_its_threshold_alone(nats_bench: NatsBench, bad: str) -> None:
    make, entry, threshold = BAD_STORES[bad]

    counts = ENOUGH_READ | {threshold.split()[0]: 1}
    judgement = await appended(nats_bench, make(Now()), counts=counts, **entry)

    assert broken(judgement) == {threshold}, flagged(judgement)


async def test_an_event_store_that_loses_what_was_read_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench,
) -> None:
    """Only the last look sees it."""
    entry = ONE_BY_ONE | {"aggregates": 1, "length": 3, "batch": 1, "reads": "20%"}
    judgement = await appended(nats_bench, fading(Now()), counts={"ok": 200}, **entry)

    assert broken(judgement) == {"lost == 0"}, flagged(judgement)


async def test_an_event_store_that_stalls_is_flagged_by_its_latency_alone(nats_bench: NatsBench) -> None:
    stalls, pace = once(LONG, honest_store), {"workers": None, "rate": RATE, "contention": "0%"}
    judgement = await appended(nats_bench, stalls, SLOW, {"ok": ENOUGH}, **pace)

    assert broken(judgement) == {SLOW}, flagged(judgement)


API, RELAYED = "$JS.API.", "$JS.RELAYED.API."
ONE = b'{"batch": 1, "no_wait": true}'


def disordering() -> Answer:
    """Answer as the real JetStream does, but deliver the last two events of every fifth fetch the wrong way round."""
    numbers = itertools.count(1)

    async def fetch(client: Client, msg: Msg, subject: str) -> None:
        count = json.loads(msg.data)["batch"]
        # Each on an inbox of its own: a delivered message bears its own subject.
        ask = partial(client.request, subject, ONE, timeout=PATIENCE, old_style=True)
        messages = [await ask() for _ in range(count)]
        places = [message.reply.split(".")[2:] for message in messages]
        order = list(range(count))
        if count > 1 and not next(numbers) % 5:
            order[-2:] = reversed(order[-2:])
        for number, index in enumerate(order):
            place = [
                *places[index][:4],
                places[number][4],
                *places[index][5:],
            ]  # consumers number what they deliver
            await client.publish(msg.reply, messages[index].data, ".".join(["ACK", "RELAYED", *place]))

    async def relay(client: Client, msg: Msg) -> None:
        subject = API + msg.subject.removeprefix(RELAYED)
        if subject.startswith(f"{API}CONSUMER.MSG.NEXT."):
            await fetch(client, msg, subject)
        else:
            await msg.respond((await client.request(subject, msg.data, timeout=PATIENCE)).data)

    return relay


async def test_an_event_store_that_delivers_in_disorder_is_flagged_by_its_threshold_alone(
    nats_bench: NatsBench,
) -> None:
    """Its JetStream seems to be that of a domain, where a relay answers: a nats-server never delivers in another order than it stores."""
    bench, broker = nats_bench.bench, {**nats_bench.server.broker, "domain": "RELAYED"}
    load = event_store(rate=None, workers=5, durable="0%", reads="50%")
    async with (
        nats_bench.responder(f"{RELAYED}>", disordering()),
        open_connections(Broker.model_validate(broker), bench.journal) as bench.connections,
    ):
        judgement = await soaked(bench, load, EVENT_STORE, ok=100, reordered=1)

    assert broken(judgement) == {"reordered == 0"}, flagged(judgement)


async def test_consumers_that_stay_are_flagged_by_their_threshold_alone(
    nats_bench: NatsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes 5 s to remove what nobody reads by any more: here that is too long."""
    monkeypatch.setattr(consumers, "SLACK", -consumers.EPHEMERAL)
    monkeypatch.setattr(loads_event_store, "LOOK", 0.2)
    load = event_store(rate=None, workers=5, abandon="50%", durable="0%")
    thresholds = (*EVENT_STORE, "counter stale_ephemerals == 0", "counter stale_durables == 0")
    judgement = await soaked(nats_bench.bench, load, thresholds, stale_ephemerals=1)

    assert broken(judgement) == {"counter stale_ephemerals == 0"}, flagged(judgement)


@pytest.mark.parametrize(
    ("entry", "thresholds"),
    [(kv(reads="100%"), REGISTERS), (event_store(reads="100%"), EVENT_STORE)],
    ids=["kv", "event_store"],
)
async def test_where_nothing_was_written_nobody_says_that_nothing_is_wrong(
    nats_bench: NatsBench, entry: Load, thresholds: tuple[str, ...]
) -> None:
    judgement = await soaked(nats_bench.bench, entry, thresholds, ok=20)

    told = {one.text: one.verdict for one in judgement.thresholds}
    assert {text for text, verdict in told.items() if verdict == "pass"} <= {
        "failed == 0",
        "indeterminate == 0",
    }
    assert judgement.verdict == "inconclusive", flagged(judgement)
