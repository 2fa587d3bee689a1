"""Faults of the broker, on real servers: single ones where one is enough, a cluster of three where it takes one."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NoStreamResponseError
from pydantic import ValidationError
from real_units import kind
from scripted_fault import PATIENCE, Open, Stage, free_and_up, incarnations, until

from supervisor.broker.api import call
from supervisor.broker.connection import Handle, open_connections
from supervisor.broker.control import Leaders, leader, meta_leader, system
from supervisor.broker.embedded import expand
from supervisor.broker.options import Broker
from supervisor.broker.ports import free_ports
from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.engines.selectors import Selector
from supervisor.faults.draws import Draw
from supervisor.journal.events import (
    Cause,
    DrawSkipped,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Target,
    UnitExited,
    UnitReady,
    UnitRestarted,
)
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter
from supervisor.watch.watchdog import WatchContext, Watchdog

Cluster = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def cluster(stage: Stage, journal: JournalWriter, tmp_path: Path) -> Cluster:
    """An embedded cluster as units, and the connections of its soak."""

    @asynccontextmanager
    async def open_cluster(nodes: int = 1, *, without_system: bool = False) -> AsyncIterator[Broker]:
        spec = {"nodes": nodes, "lame_duck_grace_period": "500ms"}
        engine_, broker_ = expand(spec, free_ports())
        broker = Broker.model_validate(
            {k: v for k, v in broker_.items() if k != "system" or not without_system}
        )
        engine, leaders = ProcessEngine.model_validate(engine_), Leaders()
        context = EngineContext("embedded", f"test-{uuid.uuid4().hex}", journal.run_dir, tmp_path, journal)
        async with engine.open(context) as local, anyio.create_task_group() as group:
            names = {name: ("embedded", name) for name in engine.unit_names()}
            stage.fleet = Fleet(journal, {"embedded": local}, names, leaders=leaders.unit)
            group.start_soon(stage.fleet.run)
            await stage.fleet.start_all()
            async with open_connections(broker, journal) as connections:
                stage.connections = leaders.connections = connections
                yield broker
            group.cancel_scope.cancel()

    return open_cluster


@asynccontextmanager
async def client(broker: Broker, name: str = "worker", **callbacks: Any) -> AsyncIterator[Client]:
    nc = await nats.connect(
        list(broker.servers),
        user="soakd",
        password="soakd",
        name=name,
        reconnect_time_wait=0.1,
        max_reconnect_attempts=-1,
        **callbacks,
    )
    try:
        yield nc
    finally:
        await nc.close()


class Seen:
    """What a client was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, what: str) -> Any:
        async def note(*_: object) -> None:
            self.told.append(what)

        return note


# --- clients -----------------------------------------------------------------------------------------------------------


async def test_only_the_clients_that_are_meant_are_kicked(stage: Stage, cluster: Cluster) -> None:
    worker, other = Seen(), Seen()
    async with (
        cluster() as broker,
        client(broker, "worker-1", disconnected_cb=worker("gone"), reconnected_cb=worker("back")),
        client(broker, "other", disconnected_cb=other("gone")),
    ):
        await stage.connections.handle()  # type: ignore[union-attr]
        async with stage.running(a=kind(kick="worker-.*")):
            intent = await stage.watch.until(FaultIntent)
            await stage.watch.until(EpisodeClosed)
            await until(lambda: worker.told == ["gone", "back"])
        assert not other.told
    assert [one["name"] for one in intent.undo["clients"]] == ["worker-1"]
    assert stage.watch.all(FaultInjected)


async def test_a_share_is_drawn_and_never_soakds_own(stage: Stage, cluster: Cluster) -> None:
    async with (
        cluster() as broker,
        client(broker, "a"),
        client(broker, "b"),
        client(broker, "c"),
        client(broker, "d"),
    ):
        await stage.connections.handle()  # type: ignore[union-attr]
        aims = [await kind(kick={"pick": "50%"}).aim(stage.world, rng(seed)) for seed in range(4)]
        everyone = await kind(kick={}).aim(stage.world, rng(1))
    assert all(len(aim.undo["clients"]) == 2 for aim in aims)
    assert {one["name"] for one in everyone.undo["clients"]} == {"a", "b", "c", "d"}


def rng(seed: int) -> Any:
    return Draw(seed, "a", 1, 0, from_start=True).rng()


async def test_nobody_to_kick_skips_the_draw(stage: Stage, cluster: Cluster) -> None:
    async with cluster(), stage.running(a=kind(kick={"name": "nobody", "user": "x"})):
        skipped = await stage.watch.until(DrawSkipped)
    assert (
        skipped.reason
        == "there is no client just now that would be one of all of the clients with name nobody, user x"
    )


async def test_a_client_that_is_gone_by_now_is_no_error(stage: Stage, cluster: Cluster) -> None:
    async with cluster() as broker:
        async with client(broker):
            aim = await kind(kick="worker").aim(stage.world, rng(1))
        intent = FaultIntent(episode="a#1", fault="a", type="kick", n=1, undo=aim.undo)
        await kind(kick="worker").inject(stage.world, intent)


async def test_a_single_client_is_told_that_its_server_leaves(stage: Stage, cluster: Cluster) -> None:
    seen = Seen()
    callbacks = {"lame_duck_mode_cb": seen("lame duck"), "disconnected_cb": seen("gone")}
    async with cluster() as broker, client(broker, "worker", **callbacks), client(broker, "other") as other:
        async with stage.running(a=kind(lame_duck="worker")):
            await stage.watch.until(EpisodeClosed)
            await until(lambda: seen.told == ["lame duck"])
        assert other.is_connected


@pytest.mark.parametrize("keys", [{"kick": "x"}, {"lame_duck": "x"}, {"stepdown": "meta"}])
async def test_without_a_system_account_it_says_so(
    stage: Stage, cluster: Cluster, keys: dict[str, Any]
) -> None:
    async with cluster(without_system=True), stage.running(a=kind(**keys)):
        assert "system account" in (await stage.watch.until(DrawSkipped)).reason


# --- streams and consumers -------------------------------------------------------------------------------------------


async def publish(js: JetStreamContext, subject: str, msg_id: str) -> None:
    """Publish once; the leader of a new stream comes a moment after the stream."""
    with anyio.fail_after(PATIENCE):
        while True:
            with suppress(NoStreamResponseError):
                await js.publish(subject, b"x", headers={"Nats-Msg-Id": msg_id})
                return
            await anyio.sleep(0.05)


async def fill(broker: Broker, nc: Client, *consumers: str, replicas: int = 1) -> None:
    js = nc.jetstream(timeout=15)
    await js.add_stream(StreamConfig(name="ORDERS", subjects=["orders.*"], num_replicas=replicas))
    for number in range(10):
        await publish(js, f"orders.{number % 2}", str(number))
    for name in consumers:
        await js.add_consumer("ORDERS", ConsumerConfig(durable_name=name, num_replicas=replicas))


@pytest.mark.parametrize(
    ("purge", "left"),
    [("ORDERS", 0), ({"stream": "ORDERS", "keep": 3}, 3), ({"stream": "ORDERS", "filter": "orders.0"}, 5)],
)
async def test_messages_are_purged(stage: Stage, cluster: Cluster, purge: object, left: int) -> None:
    async with cluster() as broker, client(broker) as nc:
        await fill(broker, nc)
        async with stage.running(a=kind(purge=purge, undo="none")):
            await stage.watch.until(FaultInjected)
        assert (await nc.jetstream().stream_info("ORDERS")).state.messages == left


async def test_consumers_are_deleted_by_pattern(stage: Stage, cluster: Cluster) -> None:
    async with cluster() as broker, client(broker) as nc:
        await fill(broker, nc, "worker-1", "worker-2", "audit")
        async with stage.running(
            a=kind(delete_consumer={"stream": "ORDERS", "consumer": "worker-.*", "pick": "one"}, undo="none")
        ):
            intent = await stage.watch.until(FaultIntent)
            await stage.watch.until(FaultInjected)
        left = {info.name for info in await nc.jetstream().consumers_info("ORDERS")}
    assert len(intent.undo["consumers"]) == 1
    assert left == {"worker-1", "worker-2", "audit"} - set(intent.undo["consumers"])


async def late_call(handle: Handle, question: str) -> dict[str, Any]:
    """Take an answer long after it came, as a busy machine does."""
    answer = await call(handle, question)
    await anyio.sleep(0.3)
    return answer


async def test_what_existed_before_the_run_is_spared(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumers = {"stream": "ORDERS", "consumer": ".*"}
    async with cluster() as broker, client(broker) as nc:
        await fill(broker, nc, "worker")
        stage.born = time.monotonic()
        with monkeypatch.context() as late:  # answers that are taken late make nothing younger
            late.setattr("supervisor.faults.nats.call", late_call)
            async with stage.running(
                a=kind(purge="ORDERS", undo="none"), b=kind(delete_consumer=consumers, undo="none")
            ):
                spared = [await stage.watch.until(DrawSkipped, fault=fault) for fault in "ab"]
        async with stage.running(a=kind(purge="ORDERS", undo="none", existing=True)):
            await stage.watch.until(FaultInjected)
        assert (await nc.jetstream().stream_info("ORDERS")).state.messages == 0
    assert (
        spared[0].reason
        == "stream ORDERS existed before the run: add existing: true if it is meant all the same"
    )
    assert spared[1].reason.startswith("consumer worker existed before the run")


async def test_what_is_not_there_skips_the_draw(stage: Stage, cluster: Cluster) -> None:
    async with (
        cluster(),
        stage.running(
            a=kind(purge="NOWHERE", undo="none"),
            b=kind(delete_consumer={"stream": "NOWHERE", "consumer": "x"}, undo="none"),
            c=kind(stepdown={"stream": "NOWHERE"}),
        ),
    ):
        for fault in "abc":
            assert "stream not found" in (await stage.watch.until(DrawSkipped, fault=fault)).reason


@pytest.mark.parametrize("keys", [{"purge": "S"}, {"delete_consumer": {"stream": "S", "consumer": "c"}}])
def test_what_cannot_be_undone_says_so(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="undo\n"):
        kind(**keys)
    with pytest.raises(ValidationError, match="none"):
        kind(**keys, undo="some")


# --- the cluster -------------------------------------------------------------------------------------------------------


async def test_leaders_step_down_and_are_found(stage: Stage, cluster: Cluster) -> None:
    async with cluster(3) as broker, client(broker) as nc:
        await fill(broker, nc, "worker", replicas=3)
        assert stage.connections
        assert stage.fleet
        handle, sys = await stage.connections.handle(), await system(stage.connections)
        before = [
            await meta_leader(sys),
            await leader(handle, "ORDERS"),
            await leader(handle, "ORDERS", "worker"),
        ]
        for of, name in (("_meta_", before[0]), ("ORDERS", before[1])):
            selector = Selector.model_validate({"leader_of": of})
            assert await stage.fleet.resolve(selector, rng(1)) == (name,)
        async with stage.running(
            a=kind(stepdown="meta"),
            b=kind(stepdown={"stream": "ORDERS"}, after="a", every=None),
            c=kind(stepdown={"stream": "ORDERS", "consumer": "worker"}, after="b", every=None),
        ):
            for fault, leading in zip("abc", before, strict=True):
                await stage.watch.until(EpisodeClosed, episode=f"{fault}#1")
                intent = stage.watch.all(FaultIntent, fault=fault)[0]
                if fault != "c":  # the consumer may have moved with its stream
                    assert [target.unit for target in intent.targets] == [leading] == [intent.undo["leader"]]
        after = [await meta_leader(sys), await leader(handle, "ORDERS")]
        # Faults in the life of units find them as well, each at its own moment.
        for name, fault, leads in (
            ("frozen", kind(pause={"leader_of": "_meta_"}, hold="100ms"), lambda: meta_leader(sys)),
            ("killed", kind(kill={"leader_of": "ORDERS"}), lambda: leader(handle, "ORDERS")),
        ):
            leading = await leads()
            async with stage.running(**{name: fault}):
                await stage.watch.until(EpisodeClosed, episode=f"{name}#1")
            (intent,) = stage.watch.all(FaultIntent, fault=name)
            assert [target.unit for target in intent.targets] == [leading]
        assert free_and_up(stage.fleet)
    assert not stage.watch.all(FaultFailed)
    assert all(after)
    assert after[0] != before[0]


async def test_a_rolling_lame_duck_takes_node_after_node(stage: Stage, cluster: Cluster) -> None:
    seen = Seen()
    nodes = ["nats1", "nats2", "nats3"]
    async with cluster(3) as broker, client(broker, "worker", lame_duck_mode_cb=seen("lame duck")) as nc:
        await fill(broker, nc, replicas=3)
        fleet, timeline = stage.fleet, Timeline()
        assert fleet
        assert stage.connections
        before = incarnations(fleet)
        dog = Watchdog.model_validate({"units": nodes, "restart": "permanent"})
        for node in nodes:
            dog.enlist(node, fleet)
        async with anyio.create_task_group() as group:
            for node in nodes:
                group.start_soon(dog.watch, node, WatchContext(fleet, stage.journal, timeline))
            async with stage.running(a=kind(rolling_lame_duck=nodes, pause_between="100ms")):
                with anyio.fail_after(50):
                    await until(lambda: stage.watch.all(FaultInjected) or stage.watch.all(FaultFailed), 50)
                await stage.watch.until(EpisodeClosed)
            group.cancel_scope.cancel()
        assert free_and_up(fleet)
        assert not set(before.values()) & set(incarnations(fleet).values())
        assert (await nc.jetstream(timeout=15).stream_info("ORDERS")).state.messages == 10
    assert not stage.watch.all(FaultFailed)
    assert "lame duck" in seen.told
    assert not stage.watch.all(UnitRestarted), "the watchdog keeps its hands off"
    begun = next(i for i, event in enumerate(stage.watch.events) if isinstance(event, FaultIntent))
    steps = [e for e in stage.watch.events[begun:] if isinstance(e, UnitExited | UnitReady)][:6]
    assert [(event.kind, event.unit) for event in steps] == [
        (what, node) for node in nodes for what in ("unit.exited", "unit.ready")
    ]
    exits = stage.watch.all(UnitExited, cause=Cause.EPISODE, by="a#1")
    assert [(event.code, event.signal) for event in exits] == [(0, None)] * 3


async def test_a_lame_duck_that_is_cut_short_is_stopped_and_comes_back(
    stage: Stage, cluster: Cluster
) -> None:
    async with cluster() as broker, client(broker):
        assert stage.fleet
        before = incarnations(stage.fleet)
        async with stage.running(a=kind(rolling_lame_duck="nats1")) as scheduler:
            await until(lambda: stage.fleet and stage.fleet.status("nats1").holder)
            assert await scheduler.finish(PATIENCE) == ()
        assert free_and_up(stage.fleet)
        assert incarnations(stage.fleet) != before
    assert stage.watch.all(FaultUndone, attempts=1)


async def test_after_a_death_the_node_whose_turn_it_was_is_started_again(stage: Stage, opened: Open) -> None:
    """Also one without a check, which counts as ready while it sees its clients off; not those that were not told to go."""
    async with opened(nats1="exec sleep 1000", nats2="exec sleep 1000") as fleet:
        before = incarnations(fleet)
        targets = tuple(Target(unit=unit, incarnation=before[unit]) for unit in before)
        intent = FaultIntent(episode="a#1", fault="a", type="rolling_lame_duck", n=1, targets=targets)
        fault = kind(rolling_lame_duck=["nats1", "nats2"])
        await fault.undo(replace(stage.world, recovering=True), intent)
        after = incarnations(fleet)
        assert (after["nats1"] != before["nats1"], after["nats2"]) == (True, before["nats2"])
        assert free_and_up(fleet)


async def test_a_cluster_that_is_not_well_is_not_rolled(stage: Stage, cluster: Cluster) -> None:
    async with cluster() as broker:
        assert stage.connections
        assert stage.fleet
        before = incarnations(stage.fleet)
        absent = broker.model_copy(update={"nodes": {**broker.nodes, "nats9": broker.nodes["nats1"]}})
        stage.connections.broker = absent
        async with stage.running(a=kind(rolling_lame_duck="nats1", catch_up="2s")):
            failed = await stage.watch.until(FaultFailed)
        assert incarnations(stage.fleet) == before
    assert "nats9: it does not answer" in failed.error
    assert json.dumps(failed.error)
