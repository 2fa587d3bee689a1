"""Faults of links: each kind on real links, and what they leave, which is nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from link_harness import Bench, linked, threaded

from supervisor.engines.fleet import Fleet
from supervisor.faults.base import CannotAim, Fault, UndoError, World
from supervisor.faults.limits import Bounds, Limits
from supervisor.faults.registry import FAULTS
from supervisor.journal.events import FaultIntent
from supervisor.journal.writer import JournalWriter
from supervisor.links.base import LinkError


def kind(**keys: Any) -> Fault:
    return FAULTS.find(keys, Path())[0].model_validate({"every": "0s", **keys})


@pytest.fixture
async def bench(journal: JournalWriter) -> AsyncIterator[Bench]:
    async with linked(journal, ("db", "cache")) as one:
        yield one


@pytest.fixture
def world(bench: Bench, journal: JournalWriter) -> World:
    return World(Fleet(journal, {}, {}), links=bench.links)


async def intent(fault: Fault, world: World, n: int = 1) -> FaultIntent:
    aim = await fault.aim(world, random.Random(n))  # noqa: S311
    return FaultIntent(episode=f"f#{n}", fault="f", type=fault.key, n=n, targets=aim.targets, undo=aim.undo)


def answers(client: socket.socket, end: socket.socket, patience: float = 20.0) -> bool:
    end.settimeout(patience)
    try:
        client.sendall(b"x")
        return end.recv(1) == b"x"
    except (TimeoutError, ConnectionError):
        return False


BLOCKING = [
    {"latency": "db", "delay": "1h", "jitter": "1m"},
    {"bandwidth": "db", "rate": "1B/s", "direction": "up"},
    {"blackhole": "db", "direction": "up"},
    {"slice": "db", "size": "1B", "gap": "1h"},
]


@pytest.mark.parametrize("keys", BLOCKING, ids=lambda keys: next(iter(keys)))
async def test_what_is_put_on_a_link_is_on_that_link_until_it_is_undone(
    keys: dict[str, Any], bench: Bench, world: World
) -> None:
    client, end = await bench.connect("db")
    other = await bench.connect("cache")
    fault = kind(**keys, hold="1h")
    what = await intent(fault, world)
    assert [target.unit for target in what.targets] == ["link:db"]
    await fault.inject(world, what)
    client.sendall(b"ab")  # of which a slice lets the first through, and bandwidth one a second
    assert not await threaded(answers, client, end, 0.2) or keys.get("slice") or keys.get("bandwidth")
    assert await threaded(answers, *other)
    await fault.undo(world, what)
    await fault.undo(world, what)
    await threaded(lambda: end.recv(100))
    fresh = await bench.connect("db")
    assert await threaded(answers, *fresh)


async def test_reset_refuse_and_connection_kill(bench: Bench, world: World) -> None:
    kill = kind(connection_kill=["db", "cache"], share="50%")
    with pytest.raises(CannotAim, match="no connection through db, cache"):
        await intent(kill, world)
    both = [await bench.connect("db") for _ in range(4)]
    what = await intent(kill, world)
    assert what.undo["links"] == ["db"]
    assert what == await intent(kill, world), "the same draw, the same connections"
    await kill.inject(world, what)
    assert sum([await threaded(answers, *pair) for pair in both]) == 2  # the others are told at once
    await kill.undo(world, what)
    refuse, reset = kind(refuse="db", hold="1h"), kind(reset="db", hold="1h")
    refused, resets = await intent(refuse, world, 1), await intent(reset, world, 2)
    await refuse.inject(world, refused)
    await reset.inject(world, resets)
    assert (await bench.links.connections())["db"] == 0
    with pytest.raises(ConnectionRefusedError):
        await threaded(bench.dial, "db")
    await reset.undo(world, resets)
    await refuse.undo(world, refused)
    assert await threaded(answers, *await bench.connect("db"))


async def test_links_are_drawn_and_may_meet_more_than_one_fault(world: World) -> None:
    fault = kind(blackhole={"of": ["db", "cache"], "pick": "one"}, hold="1s")
    drawn = {(await intent(fault, world, n)).targets[0].unit for n in range(20)}
    assert drawn == {"link:db", "link:cache"}
    for n in range(5):
        aim = await fault.aim(world, random.Random(n))  # noqa: S311
        assert fault.preview(random.Random(n), []) == aim.targets[0].unit  # noqa: S311
        demand = Bounds(Limits(), frozenset({"db"})).demand(fault, aim)
        assert (demand.units, demand.down, demand.nodes) == (frozenset(), 0, 0)


async def test_an_undo_that_fails_says_what_is_broken(world: World) -> None:
    class Broken:
        async def take(self, episode: str) -> None:  # noqa: ARG002
            raise LinkError("the machine has no room")

    fault = kind(blackhole="db", hold="1s")
    what = await intent(fault, world)
    with pytest.raises(
        UndoError, match=r"blackhole may still be on the link db: the machine has no room; run"
    ):
        await fault.undo(World(world.fleet, links=Broken()), what)  # type: ignore[arg-type]  # the part that matters
