"""corrupt on a real server: what is damaged, what is put back, and what is left to those who wrote meanwhile."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from dead_run import started
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StreamConfig
from nats.js.errors import KeyDeletedError, KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError
from real_units import kind
from scripted_fault import PATIENCE, Stage, until

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.engines.program import run_program
from supervisor.faults.base import CannotAim, Fault, UndoError
from supervisor.faults.corrupt import MARK
from supervisor.faults.corruption import damaged
from supervisor.faults.draws import Draw
from supervisor.faults.recovery import undo_open
from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    UndoFailed,
)
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.recover import recover
from supervisor.soakfile.load import load
from supervisor.soakfile.plan import warnings

pytestmark = pytest.mark.usefixtures("short_pauses")

SERVER = Path(sys.executable).with_name("nats-server")
Server = Callable[[], AbstractAsyncContextManager[Client]]


def rng(n: int = 1) -> Any:
    return Draw(7, "a", n, 0, from_start=True).rng()


@pytest.fixture
def server(stage: Stage, journal: JournalWriter, tmp_path: Path, free_tcp_port: int) -> Server:
    """A server with JetStream, connections of a soak to it, and a client of our own."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Client]:
        stop = anyio.Event()
        command = [
            str(SERVER),
            "-a",
            "127.0.0.1",
            "-p",
            str(free_tcp_port),
            "-js",
            "-sd",
            str(tmp_path / "js"),
        ]
        async with anyio.create_task_group() as group:

            async def serve() -> None:
                await run_program(
                    command, cwd=tmp_path, env={}, output=lambda _: None, timeout=100, stop=stop
                )

            group.start_soon(serve)
            broker = Broker.model_validate({"servers": [f"127.0.0.1:{free_tcp_port}"]})
            async with open_connections(broker, journal) as connections:
                await (await connections.handle()).wait_connected(PATIENCE)
                stage.connections = connections
                nc = await nats.connect(f"127.0.0.1:{free_tcp_port}")
                try:
                    yield nc
                finally:
                    await nc.close()
            stop.set()

    return opened


async def bucket(nc: Client, **entries: bytes) -> KeyValue:
    kv: KeyValue = await nc.jetstream().create_key_value(KeyValueConfig(bucket="CONFIG", history=5))
    for key, value in entries.items():
        await kv.put(key, value)
    return kv


async def values(kv: KeyValue, *keys: str) -> list[bytes | None]:
    found: list[bytes | None] = []
    for key in keys:
        try:
            found.append((await kv.get(key)).value)
        except (KeyNotFoundError, KeyDeletedError):
            found.append(None)
    return found


@pytest.mark.parametrize(
    ("what", "meanwhile"),
    [
        ({"change": {"bucket": "CONFIG", "key": "a", "value": "bad"}}, b"bad"),
        ({"change": {"bucket": "CONFIG", "key": "a"}}, ...),
        ({"delete": {"bucket": "CONFIG", "key": "a"}}, None),
    ],
    ids=["to a value", "drawn", "delete"],
)
async def test_an_entry_is_damaged_and_put_back(
    stage: Stage, server: Server, what: dict[str, Any], meanwhile: bytes | None
) -> None:
    async with server() as nc:
        kv = await bucket(nc, a=b'{"n": 1}', b=b"2")
        async with stage.running(a=kind(corrupt=what, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            seen, other = await values(kv, "a", "b")
            assert other == b"2"
            assert seen != b'{"n": 1}' if meanwhile is ... else seen == meanwhile
            assert await scheduler.finish(5) == ()
        assert await values(kv, "a", "b") == [b'{"n": 1}', b"2"]
    assert not stage.watch.all(UndoFailed)


async def test_an_entry_is_added_and_gone_again(stage: Stage, server: Server) -> None:
    async with server() as nc:
        kv = await bucket(nc, a=b"1")
        what = {"put": {"bucket": "CONFIG", "key": "new", "value": "?"}}
        async with stage.running(a=kind(corrupt=what, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert await values(kv, "new") == [b"?"]
            assert await scheduler.finish(5) == ()
        assert await values(kv, "new", "a") == [None, b"1"]
        async with stage.running(b=kind(corrupt={"put": {"bucket": "CONFIG", "key": "a"}}, hold="1s")):
            skipped = await stage.watch.until(DrawSkipped)
    assert skipped.reason == "entry a of CONFIG is there already: use change for it"


async def test_what_somebody_else_writes_meanwhile_stays(stage: Stage, server: Server) -> None:
    """Before inject, after it, and after a death: only what is ours is touched."""
    async with server() as nc:
        kv = await bucket(nc, a=b"1", b=b"2", c=b"3")
        fault = kind(corrupt={"change": {"bucket": "CONFIG", "key": "[abc]", "value": "bad"}}, hold="1h")
        aim = await fault.aim(stage.world, rng())
        intent = FaultIntent(episode="a#1", fault="a", type="corrupt", n=1, undo=aim.undo)
        await fault.undo(stage.world, intent)  # nothing was injected yet: harmless
        await kv.put("a", b"newer")
        await fault.inject(stage.world, intent)
        assert await values(kv, "a", "b", "c") == [b"newer", b"bad", b"bad"]
        await kv.put("b", b"mended")
        for _ in range(2):
            assert await undo_open({"a#1": intent}, {"a": fault}, stage.world, stage.journal) == [
                "a#1: undone (corrupt of the system)"
            ]
        assert await values(kv, "a", "b", "c") == [b"newer", b"mended", b"3"]
        await kv.put("a", b"newest")
        await kv.put("b", b"newest")
        await kv.put("c", b"newest")
        with pytest.raises(Exception, match="somebody else has just changed all of these entries of CONFIG"):
            await fault.inject(stage.world, intent)
        await nc.jetstream().delete_key_value("CONFIG")
        await fault.undo(stage.world, intent)  # nothing to put back, nowhere to put it


async def test_what_another_episode_will_put_back_is_left_to_it(stage: Stage, server: Server) -> None:
    async with server() as nc:
        kv = await bucket(nc, a=b"1", b=b"2")
        gone = kind(corrupt={"delete": {"bucket": "CONFIG", "key": "a"}}, hold="1h")
        every = kind(corrupt={"change": {"bucket": "CONFIG", "key": "[ab]", "value": "bad"}}, hold="1h")
        new = kind(corrupt={"put": {"bucket": "CONFIG", "key": "a"}}, hold="1h")
        stays = {"bucket": "CONFIG", "key": "b", "value": "ours"}
        lasting = kind(corrupt={"change": stays}, undo="none")

        async def strike(name: str, fault: Fault) -> FaultIntent:
            undo = (await fault.aim(stage.world, rng())).undo
            intent = FaultIntent(episode=f"{name}#1", fault=name, type="corrupt", n=1, undo=undo)
            await fault.inject(stage.world, intent)
            return intent

        first = await strike("gone", gone)
        with pytest.raises(CannotAim, match="entry a of CONFIG is damaged by gone#1"):
            await new.aim(stage.world, rng())
        second = await strike("every", every)
        assert await values(kv, "a", "b") == [None, b"bad"]
        with pytest.raises(CannotAim, match="but 2 that other episodes have damaged"):
            await every.aim(stage.world, rng())
        await gone.undo(stage.world, first)
        await every.undo(stage.world, second)
        assert await values(kv, "a", "b") == [b"1", b"2"]
        for _ in range(2):
            await strike("lasting", lasting)
        assert await values(kv, "a", "b") == [b"1", b"ours"]


async def test_what_was_damaged_by_hand_is_put_back_after_a_death(
    stage: Stage, server: Server, tmp_path: Path, free_tcp_port: int
) -> None:
    what = {"corrupt": {"change": {"bucket": "CONFIG", "key": "a", "value": "bad"}}, "hold": "1h"}
    fault, run, directory = kind(**what), f"test-{uuid.uuid4().hex}", tmp_path / "dead"
    await anyio.Path(directory).mkdir()
    broker = {"servers": [f"127.0.0.1:{free_tcp_port}"]}
    soak = {"soak": "small", "broker": broker, "faults": {"bad": what | {"every": "1h"}}}
    await anyio.Path(directory / "soak.yaml").write_text(json.dumps(soak))
    async with server() as nc:
        kv = await bucket(nc, a=b"1")
        aim = await fault.aim(stage.world, rng())
        intent = FaultIntent(
            episode="bad@operator#1", fault="bad@operator", type="corrupt", n=1, undo=aim.undo
        )
        async with open_journal(directory) as past:
            await past.commit(started(run, file=str(directory / "soak.yaml")))
            await past.commit(intent)
        await fault.inject(stage.world, intent)
        assert await values(kv, "a") == [b"bad"]
        assert "bad@operator#1: undone (corrupt of the system)" in await recover(directory)
        assert await values(kv, "a") == [b"1"]
        alone = replace(stage.world, recovering=True, connections=None)
        with pytest.raises(UndoError, match="may still be damaged"):
            await fault.undo(alone, intent)
        await fault.undo(replace(alone, servers_ended=True), intent)


async def test_what_was_there_before_the_run_is_left_alone(stage: Stage, server: Server) -> None:
    async with server() as nc:
        await bucket(nc, a=b"1")
        await nc.jetstream().add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        await nc.jetstream().publish("orders.1", b"1")
        stage.born = time.monotonic()
        cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            ({"delete": {"bucket": "CONFIG", "key": "a"}}, {"hold": "1s"}, "bucket CONFIG"),
            ({"put": {"bucket": "CONFIG", "key": "x"}}, {"hold": "1s"}, "bucket CONFIG"),
            ({"publish": {"subject": "orders.2"}}, {"undo": "none"}, "stream ORDERS"),
            ({"duplicate": {"stream": "ORDERS"}}, {"undo": "none"}, "stream ORDERS"),
        ]
        for what, keys, name in cases:
            with pytest.raises(Exception, match=f"{name} existed before the run: add existing: true"):
                await kind(corrupt=what, **keys).aim(stage.world, rng())
            assert (await kind(corrupt=what, existing=True, **keys).aim(stage.world, rng())).undo["mark"]


async def test_messages_come_that_nobody_expects_and_others_come_twice(stage: Stage, server: Server) -> None:
    async with server() as nc:
        js, heard = nc.jetstream(), list[Any]()
        await js.add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        for n in range(3):
            headers = {"Nats-Msg-Id": str(n), "Kind": "order"}
            await js.publish(f"orders.{n % 2}", b"%d" % n, headers=headers)

        async def hear(msg: Any) -> None:
            heard.append(msg)

        await nc.subscribe("plain", cb=hear)
        await nc.flush()
        faults = {
            "noise": kind(corrupt={"publish": {"subject": "plain", "count": 3}}, undo="none"),
            "odd": kind(corrupt={"publish": {"subject": "orders.9", "value": "odd"}}, undo="none"),
            "twice": kind(corrupt={"duplicate": {"stream": "ORDERS", "filter": "orders.1"}}, undo="none"),
        }
        async with stage.running(**faults):
            await stage.watch.until(EpisodeClosed, 3)
        await until(lambda: len(heard) == 3)
        stored = [await js.get_msg("ORDERS", seq) for seq in range(1, 6)]
    assert all(msg.data.startswith(b"\xff") for msg in heard)
    again = [msg for msg in stored if msg.subject == "orders.1"]
    assert [msg.data for msg in again] == [b"1", b"1"]
    assert (again[1].headers or {})["Kind"] == "order"
    assert (again[1].headers or {})[MARK].startswith("twice#1 ")
    assert [msg.data for msg in stored if msg.subject == "orders.9"] == [b"odd"]
    assert not stage.watch.all(FaultFailed)


async def test_a_draw_is_of_the_seed_alone_and_of_so_many_as_are_asked_for(
    stage: Stage, server: Server
) -> None:
    async with server() as nc:
        kv = await bucket(nc, **{f"k{n}": b"v%d" % n for n in range(9)})
        await kv.delete("k8")
        fault = kind(corrupt={"change": {"bucket": "CONFIG", "key": "k.", "pick": 2}}, hold="1s")
        first, same, other = [(await fault.aim(stage.world, rng(n))).undo["entries"] for n in (1, 1, 2)]
        assert first == same
        assert first != other
        assert len(first) == 2
        everything = kind(corrupt={"delete": {"bucket": "CONFIG", "key": ".*"}}, hold="1s")
        keys = [one["key"] for one in (await everything.aim(stage.world, rng())).undo["entries"]]
        assert keys == [f"k{n}" for n in range(8)]
        for n in range(100):
            await kv.put(f"more{n}", b"x")
        for what, why in (
            ({"delete": {"bucket": "CONFIG", "key": ".*"}}, "109 entries of CONFIG are more than 100"),
            ({"delete": {"bucket": "CONFIG", "key": "nobody"}}, "has no entry just now that matches nobody"),
            ({"delete": {"bucket": "GONE", "key": "a"}}, "stream not found"),
        ):
            with pytest.raises(Exception, match=why):
                await kind(corrupt=what, hold="1s").aim(stage.world, rng())


def test_damage_is_never_none() -> None:
    for n in range(200):
        for value in (b"", b"\0", b"true", b'{"a": [1, 2, 3]}'):
            assert damaged(value, rng(n)) != value


async def test_a_command_of_the_users_damages_and_mends(stage: Stage, tmp_path: Path) -> None:
    stage.base = tmp_path
    fault = kind(
        corrupt={"command": ["sh", "-c", "echo $SOAKD_EPISODE > broken"]}, undo="rm -f broken", hold="1h"
    )
    async with stage.running(a=fault) as scheduler:
        await stage.watch.until(FaultInjected)
        assert (tmp_path / "broken").read_text() == "a#1\n"
        assert await scheduler.finish(5) == ()
    assert not (tmp_path / "broken").exists()
    assert stage.watch.all(FaultUndone)


async def test_a_broker_that_is_away_fails_the_undo_with_what_to_do(stage: Stage, server: Server) -> None:
    async with server() as nc:
        await bucket(nc, a=b"1")
        fault = kind(corrupt={"delete": {"bucket": "CONFIG", "key": "a"}}, hold="1h")
        aim = await fault.aim(stage.world, rng())
    intent = FaultIntent(episode="a#1", fault="a", type="corrupt", n=1, undo=aim.undo)
    with pytest.raises(
        Exception, match=r"entries of bucket CONFIG may still be damaged \(a\): .*run `soakd recover`"
    ):
        await fault.undo(stage.world, intent)


def test_a_program_that_is_not_there_is_said_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "soak.yaml"
    file.write_text(
        "soak: x\nfaults:\n"
        "  a: {corrupt: {command: [./no.sh]}, undo: [no-such-program], hold: 1s, every: 1m}\n"
        "  b: {command: 'true', undo: 'false', cwd: nowhere, every: 1m}\n"
    )
    hint = "there is no such program on PATH or it is not executable; install it, or write its path"
    gone = f"in {tmp_path}/nowhere: there is no such directory; it is seen from the soak file"
    assert warnings(load(file, {})) == [
        f"{file}:3:3: faults.a: cannot run ./no.sh: {hint}",
        f"{file}:3:3: faults.a: cannot run no-such-program: {hint}",
        f"{file}:4:3: faults.b: cannot run true {gone}",
        f"{file}:4:3: faults.b: cannot run false {gone}",
    ]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"corrupt": {}}, "expected one of change, delete, put, publish, duplicate, command, found none"),
        (
            {"corrupt": {"publish": {"subject": "a"}, "command": "x"}, "undo": "none"},
            "found publish and command",
        ),
        ({"corrupt": {"publish": {"subject": "a"}}}, "messages that were published cannot be taken back"),
        ({"corrupt": {"command": "x"}, "hold": "1s"}, "expected the command that takes it back, or none"),
        ({"corrupt": {"delete": {"bucket": "B", "key": "a"}}}, "hold: is missing"),
        (
            {"corrupt": {"delete": {"bucket": "B", "key": "a"}}, "hold": "1s", "undo": ["rm", "x"]},
            "expected restore or none",
        ),
        (
            {"corrupt": {"delete": {"bucket": "B", "key": "a"}}, "hold": "1s", "undo": "none"},
            "leave hold out",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        kind(**keys)
