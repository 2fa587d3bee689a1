"""The load event_store on a real server: an honest store passes, and each way of lying is told by its own name."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from load_bench import until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats_bench import Answer, NatsBench

from supervisor.broker import api
from supervisor.journal.events import CUT_OFF
from supervisor.loads import consumers, event_store
from supervisor.loads.event_store import EventStoreLoad
from supervisor.loads.store import EXPECTED

PATIENCE = 10.0
PATIENT = {"timeout": "20s", "attempt": "10s"}
WRONG = {
    *("failed", "indeterminate", "lost", "duplicates", "forks", "gaps", "reordered", "unexpected"),
    *("spurious_conflicts", "stale_ephemerals", "stale_durables", "lost_to_retention", "undecided"),
}


@pytest.fixture
async def js(nats_bench: NatsBench) -> AsyncIterator[JetStreamContext]:
    broker = nats_bench.server.broker
    client = await nats.connect(broker["servers"][0], user=broker["user"], password=broker["password"])
    yield client.jetstream()
    await client.close()


def load(**entry: Any) -> EventStoreLoad:
    return EventStoreLoad.model_validate(
        {"event_store": "EVENTS", "rate": "200/s", "aggregates": 10, "length": 20, **PATIENT, **entry}
    )


def wrong(bench: NatsBench) -> dict[str, float]:
    """Return what went wrong; but not that a burst met the end."""
    counts = bench.counts
    counts["indeterminate"] = counts.get("indeterminate", 0) - counts.get(CUT_OFF, 0)
    return {name: amount for name, amount in counts.items() if amount and name in WRONG}


async def streams(js: JetStreamContext) -> set[str]:
    return {str(info.config.name) for info in await js.streams_info()}


@pytest.mark.parametrize(
    "entry",
    [
        {"client": "default", "rate": None, "workers": 20, "contention": "50%"},
        {"client": "reconnect", "batch": 3, "fetch": 2, "rate": None, "workers": 10},
        {
            "client": "make_before_break",
            "rate": None,
            "burst": {"size": 50, "every": "500ms"},
            "aggregates": 1,
        },
    ],
    ids=["default", "reconnect", "make_before_break"],
)
async def test_an_honest_store_passes_and_leaves_nothing(
    nats_bench: NatsBench, js: JetStreamContext, entry: dict[str, Any]
) -> None:
    async with nats_bench.running(load(**entry)) as context:
        await nats_bench.until_ok(context, 400)
        for name in ("conflicts", "ephemerals", "durables"):
            await nats_bench.bench.until_counted(context, name)
        assert await streams(js) == {"EVENTS"}
    counts = nats_bench.counts
    assert wrong(nats_bench) == {}
    assert counts["ok"] + counts.get(CUT_OFF, 0) == counts["started"], "a burst may meet the end"
    for name in WRONG - {"failed", "indeterminate", "lost_to_retention"}:
        assert any(name in window.counters for window in nats_bench.windows), f"{name} is said to be 0"
    assert await streams(js) == set()
    assert not nats_bench.violations


async def test_a_stream_that_was_there_stays_as_it_was(nats_bench: NatsBench, js: JetStreamContext) -> None:
    await js.add_stream(name="EVENTS", subjects=["soak.EVENTS.>"])
    await js.publish("soak.EVENTS.theirs", b"1")
    async with nats_bench.running(load(abandon="100%")) as context:
        await nats_bench.until_ok(context, 100)
    assert await streams(js) == {"EVENTS"}
    assert await js.consumers_info("EVENTS") == []
    assert (await js.stream_info("EVENTS")).state.messages == 1
    assert wrong(nats_bench) == {}


async def create_relayed_stream(bench: NatsBench) -> None:
    """Make a stream on which what is stored as `real.>` is read back as `in.>`."""
    transform = {"src": "real.>", "dest": "in.>"}
    config = {"name": "EVENTS", "subjects": ["real.>"], "subject_transform": transform}
    assert bench.bench.connections
    await api.call(await bench.bench.connections.handle(), "STREAM.CREATE.EVENTS", config)


async def relayed(bench: NatsBench, relay: Answer, **entry: Any) -> dict[str, float]:
    """Return what is wrong with a system that takes appends to `in.>` and stores them as it likes."""
    await create_relayed_stream(bench)
    asked = load(subject="in", **{"rate": None, "workers": 5, **entry})
    async with bench.responder("in.>", relay), bench.running(asked) as context:
        await bench.until_ok(context, 200)
    return wrong(bench)


def real(msg: Msg) -> str:
    return f"real{msg.subject.removeprefix('in')}"


async def store(client: Client, msg: Msg, *, without: str = "") -> dict[str, Any]:
    headers = {name: value for name, value in (msg.headers or {}).items() if name != without}
    answer = await client.request(real(msg), msg.data, timeout=PATIENCE, headers=headers)
    await msg.respond(answer.data)
    return dict(json.loads(answer.data))


class Now:
    """True at every 40th question, three times: what becomes of the last operations of a run may not be seen any more."""

    def __init__(self) -> None:
        self.times = 0
        self._numbers = itertools.count(1)

    def __call__(self) -> bool:
        now = self.times < 3 and not next(self._numbers) % 40
        self.times += now
        return now


async def honest_store(client: Client, msg: Msg) -> None:
    await store(client, msg)


def forgetful(now: Now) -> Answer:
    """Acknowledge now and then what is deleted at once."""

    async def forget(client: Client, msg: Msg) -> None:
        ack = await store(client, msg)
        if ack["seq"] and now():  # a refusal has 0
            await client.request(
                "$JS.API.STREAM.MSG.DELETE.EVENTS", b'{"seq": %d}' % ack["seq"], timeout=PATIENCE
            )

    return forget


def careless(_: Now) -> Answer:
    """Do not look at the condition."""

    async def take(client: Client, msg: Msg) -> None:
        await store(client, msg, without=EXPECTED)

    return take


def repeating(now: Now) -> Answer:
    """Keep an event twice now and then."""

    async def twice(client: Client, msg: Msg) -> None:
        ack = await store(client, msg)
        if ack["seq"] and now():  # a refusal has 0
            await client.request(real(msg), msg.data, timeout=PATIENCE)

    return twice


def refusing(now: Now) -> Answer:
    """Refuse now and then for no reason."""

    async def refuse(client: Client, msg: Msg) -> None:
        if now():
            error = {"code": 400, "err_code": 10071, "description": "wrong last sequence: 7"}
            await msg.respond(json.dumps({"error": error}).encode())
        else:
            await store(client, msg)

    return refuse


async def test_an_honest_system_in_between_passes(nats_bench: NatsBench) -> None:
    assert await relayed(nats_bench, honest_store) == {}
    assert nats_bench.counts["conflicts"]


async def test_a_store_that_forgets_what_it_acknowledged(nats_bench: NatsBench) -> None:
    now = Now()
    assert await relayed(nats_bench, forgetful(now)) == {"lost": now.times}
    violation = nats_bench.violations[0]
    assert violation.invariant == "an acknowledged event is read back"
    assert "the stream does not have it" in violation.detail
    assert violation.data["server"].startswith("127.0.0.1:")


async def test_a_store_that_does_not_look_at_the_condition(nats_bench: NatsBench) -> None:
    said = await relayed(nats_bench, careless(Now()), contention="20%")
    assert said.keys() == {"forks"}
    assert "conflicts" not in nats_bench.counts
    assert nats_bench.violations[0].invariant == (
        "an event is appended only behind the one that its writer knew as the last"
    )


async def test_a_store_that_keeps_an_event_twice(nats_bench: NatsBench) -> None:
    now = Now()
    said = await relayed(nats_bench, repeating(now), contention="0%")
    assert said == {"duplicates": now.times}


async def test_a_store_that_refuses_without_reason(nats_bench: NatsBench) -> None:
    """One by one: an append beside another one of ours to the same aggregate would be a reason."""
    now = Now()
    said = await relayed(nats_bench, refusing(now), workers=1, contention="0%")
    assert said == {"spurious_conflicts": now.times, "failed": now.times}
    assert nats_bench.counts["spurious conflict"] == now.times


async def test_a_store_that_refuses_what_it_stores(nats_bench: NatsBench) -> None:
    """As it would be where a leader and its successor both take a message, and the second answer comes first."""
    now = Now()

    async def contradict(client: Client, msg: Msg) -> None:
        if now():
            error = {"code": 400, "err_code": 10071, "description": "wrong last sequence: 7"}
            await client.request(real(msg), msg.data, timeout=PATIENCE, headers=msg.headers)
            await msg.respond(json.dumps({"error": error}).encode())
        else:
            await store(client, msg)

    assert await relayed(nats_bench, contradict, workers=1, contention="0%") == {}
    assert nats_bench.counts["self_conflicts"] == now.times


async def test_appends_by_somebody_else_are_unexpected(nats_bench: NatsBench) -> None:
    now = Now()

    async def meddle(client: Client, msg: Msg) -> None:
        ack = await store(client, msg)
        if ack["seq"] and now():  # a refusal has 0
            await client.request(real(msg), b"not of ours", timeout=PATIENCE)

    said = await relayed(nats_bench, meddle, contention="0%")
    assert said["unexpected"] == now.times


async def test_ephemeral_consumers_that_stay_are_counted(
    nats_bench: NatsBench, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "SLACK", -consumers.EPHEMERAL)  # what is left alone should be gone at once
    monkeypatch.setattr(event_store, "LOOK", 0.2)
    async with nats_bench.running(load(abandon="50%", durable="0%")) as context:
        await nats_bench.until_ok(context, 50)
        await until(lambda: context.recorder.flush() or nats_bench.counts.get("stale_ephemerals"))
    assert wrong(nats_bench).keys() == {"stale_ephemerals"}


async def test_a_broker_that_freezes_and_restarts_loses_nothing(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(timeout="20s", attempt="500ms", contention="30%")) as context:
        await nats_bench.until_ok(context, 100)
        async with nats_bench.frozen():
            await until(lambda: context.recorder.flush() or nats_bench.counts["attempts"] > 400)
        nats_bench.server.stop()
        before = nats_bench.counts["ok"]
        await nats_bench.server.start()
        await nats_bench.until_ok(context, int(before) + 300)
    assert wrong(nats_bench).keys() <= {"indeterminate"}


def test_what_a_soak_file_may_say() -> None:
    with pytest.raises(ValueError, match="batch: expected at most length, 5, or no append fits"):
        load(batch=6, length=5)
    assert load(subject="shop.events").prefix == "shop.events"
