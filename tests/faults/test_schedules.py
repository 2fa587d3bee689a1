"""When faults come: after one another, when all is well, by the nemesis, and never too many at once."""

from __future__ import annotations

import random
import time
from itertools import islice
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted_fault import PATIENCE, Open, Script, Scripted, Stage, fault, until

from supervisor.engines.fleet import Desired
from supervisor.faults.base import Aim, Fault
from supervisor.faults.claims import Claims
from supervisor.faults.draws import choices, chosen
from supervisor.faults.limits import Bounds, Demand, Limits
from supervisor.faults.nemesis import Nemesis
from supervisor.journal.events import DrawSkipped, EpisodeClosed, FaultIntent, FaultUndone, Target, UnitExited

pytestmark = pytest.mark.usefixtures("short_pauses")


def drawn(script: Script | None = None, **keys: object) -> Scripted:
    return fault(script or Script(), drawn=True, **keys)


def bounds(nodes: str = "", **limits: Any) -> Bounds:
    return Bounds(Limits.model_validate(limits), frozenset(nodes))


def intents(stage: Stage) -> list[str]:
    return [event.episode for event in stage.watch.all(FaultIntent)]


# --- after -------------------------------------------------------------------------------------------------------------


async def test_one_fault_comes_after_each_close_of_another(stage: Stage) -> None:
    async with stage.running(
        first=fault(Script(), every="20ms", times=3), then=fault(Script(), after="first", every="1ms")
    ):
        await stage.watch.until(EpisodeClosed, episode="first#3")
        await until(lambda: stage.watch.all(EpisodeClosed, episode="then#1"))
    order = [r.event for r in stage.watch.records if isinstance(r.event, FaultIntent | EpisodeClosed)]
    told = [f"{type(event).__name__} {event.episode}" for event in order]
    assert told.index("EpisodeClosed first#1") < told.index("FaultIntent then#1")


async def test_who_comes_after_a_fault_that_is_over_is_over_too(stage: Stage) -> None:
    faults = {"first": fault(Script(), times=2, every="1ms"), "then": fault(Script(), after="first")}
    with anyio.fail_after(PATIENCE):
        async with stage.running(**faults) as scheduler:
            await stage.watch.until(EpisodeClosed, episode="first#2")
            await scheduler.drawn_out()
    assert intents(stage)[-1].startswith("then#")


async def test_closes_that_it_was_too_busy_for_count_as_one(stage: Stage) -> None:
    go = anyio.Event()

    async def wait(_: FaultIntent) -> None:
        await go.wait()

    async with stage.running(
        first=fault(Script(), every="1ms", times=5), then=fault(Script(inject=wait), after="first")
    ) as scheduler:
        await stage.watch.until(EpisodeClosed, episode="first#5")
        go.set()
        await scheduler.drawn_out()
    assert [episode for episode in intents(stage) if episode.startswith("then")] == ["then#1", "then#2"]


# --- only when steady ----------------------------------------------------------------------------------------------------


async def test_it_waits_until_the_system_is_steady(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.faults.aiming.STEADY_ROUND", 0.05)
    stage.system.steady = anyio.Event()
    async with stage.running(a=fault(Script(), only_when="steady")):
        await until(lambda: len(stage.system.asked) >= 3)
        assert not intents(stage)
        stage.system.steady.set()
        await stage.watch.until(EpisodeClosed)


async def test_the_end_does_not_wait_for_it(stage: Stage) -> None:
    stage.system.steady = anyio.Event()
    async with stage.running(a=fault(Script(), only_when="steady")):
        await until(lambda: stage.system.asked)
    assert not intents(stage)


# --- limits --------------------------------------------------------------------------------------------------------------


async def test_no_more_episodes_than_allowed(stage: Stage) -> None:
    stage.bounds = bounds(episodes=2)
    faults = {f"f{n}": fault(Script(), every="1ms", times=4, hold="5ms") for n in range(5)}
    async with stage.running(**faults):
        await stage.watch.until(EpisodeClosed, 20)
    assert most_open(stage) == 2


def most_open(stage: Stage) -> int:
    now, most = 0, 0
    for event in stage.watch.events:
        now += isinstance(event, FaultIntent)
        now -= isinstance(event, EpisodeClosed)
        most = max(most, now)
    return most


async def test_what_alone_is_too_much_never_comes(stage: Stage) -> None:
    stage.bounds = bounds(units_down=1)
    async with stage.running(a=fault(Script(units=("n1", "n2")), every="0s")):
        skipped = await stage.watch.until(DrawSkipped)
    assert skipped.reason == "it would take down 2 units at once, and limits allow 1"


async def test_a_unit_that_is_down_anyway_counts(stage: Stage, opened: Open) -> None:
    stage.bounds = bounds(units_down=1)
    async with opened(n1="exec sleep 1000", n2="exec sleep 1000") as fleet:
        await fleet.hold("n2", by="operator", desired=Desired.DOWN)
        await fleet.stop("n2", by="operator")
        async with stage.running(a=fault(Script(units=("n1",)))):
            await anyio.wait_all_tasks_blocked()
            assert not intents(stage)
            await fleet.start("n2", by="operator")
            await stage.watch.until(EpisodeClosed)


async def test_a_unit_that_has_ended_in_peace_does_not_count(stage: Stage, opened: Open) -> None:
    stage.bounds = bounds(units_down=1)
    async with opened(a="exit 0", b="sleep 1000", start=False) as fleet:
        fleet.let_end("a")
        await fleet.start_all()
        await stage.watch.until(UnitExited, unit="a")
        async with stage.running(a=fault(Script(units=("b",)))):
            await stage.watch.until(FaultIntent)


async def test_faults_that_meet_leave_the_broker_its_majority(stage: Stage) -> None:
    stage.bounds = bounds("abc")
    faults = {unit: fault(Script(units=(unit,)), every="1ms", times=3, hold="5ms") for unit in "abcd"}
    async with stage.running(**faults):
        await stage.watch.until(EpisodeClosed, 12)
    down: set[str] = set()
    for event in stage.watch.events:
        if isinstance(event, FaultIntent):
            down.add(event.fault)
            assert len(down & set("abc")) <= 1
        elif isinstance(event, FaultUndone):
            down.discard(event.episode.partition("#")[0])


async def test_a_fault_that_names_all_nodes_was_asked_for_and_comes_alone(stage: Stage) -> None:
    stage.bounds = bounds("abc")
    all_nodes = fault(Script(units=("a", "b", "c")), every="1ms", times=3)
    async with stage.running(
        all=all_nodes, one=fault(Script(units=("a",)), every="1ms", times=3, hold="5ms")
    ):
        await stage.watch.until(EpisodeClosed, 6)
    assert most_open(stage) == 1


demands = st.builds(
    lambda units, share: Demand(units, round(len(units) * share), round(len(units & set("abc")) * share)),
    st.frozensets(st.sampled_from("abcde"), max_size=3),
    st.sampled_from([0, 1]),
)


@given(st.lists(demands, min_size=1, max_size=8), st.integers(1, 4), st.integers(3, 5))
def test_the_limits_hold_and_everybody_has_a_turn(wanted: list[Demand], episodes: int, units: int) -> None:
    anyio.run(_take_turns, wanted, bounds("abc", episodes=episodes, units_down=units), backend="asyncio")


async def _take_turns(wanted: list[Demand], limit: Bounds) -> None:
    claims, now, order = Claims(limit), dict[int, Demand](), list[int]()

    async def live(number: int) -> None:
        await claims.take(f"f#{number}", wanted[number])
        now[number] = wanted[number]
        assert len(now) <= (limit.limits.episodes or 99)
        assert sum(one.down for one in now.values()) <= (limit.limits.units_down or 99)
        nodes = [one.nodes for one in now.values() if one.nodes]
        assert sum(nodes) <= 1 or len(nodes) == 1
        await anyio.lowlevel.checkpoint()
        del now[number]
        claims.drop(f"f#{number}")
        order.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(len(wanted)):
                group.start_soon(live, number)
    assert sorted(order) == list(range(len(wanted)))


# --- the nemesis ---------------------------------------------------------------------------------------------------------


def nemesis(**keys: Any) -> Nemesis:
    return Nemesis.model_validate({"every": "1ms", **keys})


def episodes(one: Nemesis, seed: int, count: int) -> list[str]:
    return [c.draw.episode if c.draw else "quiet" for c in islice(choices(seed, one), count)]


@given(st.integers(0, 2**32))
def test_the_same_seed_draws_the_same_and_numbers_each_fault(seed: int) -> None:
    one = nemesis(of={"a": 3, "b": 1}, quiet="25%")
    drawn = episodes(one, seed, 40)
    assert drawn == episodes(one, seed, 40)
    for name in "ab":
        mine = [episode for episode in drawn if episode.startswith(name)]
        assert mine == [f"{name}#{n}" for n in range(1, len(mine) + 1)]


def test_weights_and_the_quiet_share_are_kept_to() -> None:
    drawn = episodes(nemesis(of={"a": 3, "b": 1}, quiet="20%"), 7, 4000)
    shares = {name: sum(one.startswith(name) for one in drawn) / len(drawn) for name in ("a#", "b#", "quiet")}
    assert shares == pytest.approx({"a#": 0.6, "b#": 0.2, "quiet": 0.2}, abs=0.03)


def test_a_list_weighs_all_alike_and_times_counts_episodes() -> None:
    one = nemesis(of=["a", "b"], quiet="50%", times=3)
    assert one.of == {"a": 1, "b": 1}
    drawn = [c.draw for c in choices(1, one)]
    assert sum(draw is not None for draw in drawn) == 3
    times = [c.delay for c in choices(1, nemesis(of=["a"], every=None, at=["2s", "1s"]))]
    assert times == [1, 2]


def test_its_targets_are_known_before_the_run() -> None:
    class Named(Scripted):
        def preview(self, rng: random.Random, units: object) -> str:
            return f"{units} {rng.random():.3f}"

    faults: dict[str, Fault] = {"a": Named.model_validate({"scripted": 1})}
    first, second = chosen(faults, nemesis(of=["a"]), 7, 2, ("n1",))
    assert first[1].startswith("('n1',) ")
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"of": {"a": 0}}, "greater than 0"),
        ({"of": {}}, "at least 1"),
        ({"of": ["a", "a"]}, "a is named twice"),
        ({"of": ["a"], "quiet": "100%"}, "nothing would ever come"),
        ({"of": ["a"], "every": None}, "expected one of every, between or at, found none"),
        ({"of": ["a"], "at": ["1s"]}, "found every and at"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        nemesis(**keys)


async def test_it_lives_what_it_draws_one_after_the_other(stage: Stage) -> None:
    stage.nemesis = nemesis(of={"a": 1, "b": 1}, times=6)
    async with stage.running(a=drawn(hold="2ms"), b=drawn(hold="2ms")):
        await stage.watch.until(EpisodeClosed, 6)
    assert intents(stage) == episodes(stage.nemesis, 7, 6)
    assert most_open(stage) == 1


async def test_with_overlap_faults_meet_but_never_two_of_one(stage: Stage) -> None:
    stage.nemesis = nemesis(of={"a": 1, "b": 1}, overlap=True)
    go = anyio.Event()

    async def wait(_: FaultIntent) -> None:
        await go.wait()

    async with stage.running(a=drawn(Script(inject=wait)), b=drawn(Script(inject=wait))):
        await stage.watch.until(FaultIntent, 2)
        skipped = await stage.watch.until(DrawSkipped)
        go.set()
    assert skipped.reason == "its last episode is still open"
    assert {episode[0] for episode in intents(stage)[:2]} == {"a", "b"}


async def test_it_ends_with_the_run_while_it_waits(stage: Stage) -> None:
    stage.nemesis = nemesis(of=["a"], every="1h")
    before = time.monotonic()
    async with stage.running(a=drawn()):
        await anyio.wait_all_tasks_blocked()
    assert time.monotonic() - before < PATIENCE
    assert not intents(stage)


async def test_it_ends_with_the_run_though_more_would_come_after_what_is_open(stage: Stage) -> None:
    stage.nemesis = Nemesis.model_validate({"of": ["a"], "at": ["0s", "1h"]})
    with anyio.fail_after(PATIENCE):
        async with stage.running(finish=2 * PATIENCE, a=drawn(hold="1h")):
            await stage.watch.until(FaultIntent)
    assert intents(stage) == ["a#1"]


async def test_what_it_would_draw_while_faults_are_paused_is_not_lost(stage: Stage) -> None:
    stage.nemesis = Nemesis.model_validate({"of": ["a", "b"], "every": "1ms", "overlap": True})
    async with stage.running(a=drawn(), b=drawn()) as scheduler:
        scheduler.gate.close()
        await anyio.sleep(0.1)
        assert not stage.watch.all(DrawSkipped)
        scheduler.gate.open()
        await stage.watch.until(EpisodeClosed, episode="a#1")
        await stage.watch.until(EpisodeClosed, episode="b#1")


async def test_quiet_draws_do_not_spin(stage: Stage) -> None:
    stage.nemesis = nemesis(of=["a"], every="0s", quiet="99%")
    async with stage.running(a=drawn()):
        await anyio.sleep(0.1)
    assert len(intents(stage)) < 20


def test_aims_of_what_takes_nothing_down_count_nothing() -> None:
    class Soft(Scripted):
        at_once = 0

    aim = Aim((Target(unit="a"), Target(unit="b")))
    assert bounds("ab").demand(Soft.model_validate({"scripted": 1}), aim) == Demand(frozenset("ab"), 0, 0)
    assert bounds("a").demand(drawn(), aim) == Demand(frozenset("ab"), 2, 1)
