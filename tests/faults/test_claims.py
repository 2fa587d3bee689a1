from __future__ import annotations

import time
from collections.abc import Iterable

import anyio
from hypothesis import given
from hypothesis import strategies as st

from supervisor.faults.claims import Claims, Disturbances
from supervisor.faults.limits import Demand


def want(units: Iterable[str], down: int = 0, nodes: int = 0) -> Demand:
    return Demand(frozenset(units), down, nodes)


units = st.frozensets(st.sampled_from("abcde"), max_size=4)


async def test_who_shares_no_unit_does_not_wait() -> None:
    claims = Claims()
    with anyio.fail_after(5):
        assert await claims.take("one#1", want(["a", "b"])) is False
        assert await claims.take("two#1", want(["c"])) is False
        assert await claims.take("three#1", want([])) is False


async def test_the_second_waits_for_the_first() -> None:
    claims, waited = Claims(), []
    await claims.take("one#1", want(["a", "b"]))

    async def second() -> None:
        waited.append(await claims.take("two#1", want(["b", "c"])))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            assert claims.ahead("two#1") == ("one#1",)
            assert not waited
            claims.drop("one#1")
    assert waited == [True]


async def test_who_gives_up_waiting_keeps_nobody_out() -> None:
    claims = Claims()
    await claims.take("one#1", want(["a"]))
    with anyio.move_on_after(0):
        await claims.take("two#1", want(["a", "b"]))
    with anyio.fail_after(5):
        assert await claims.take("three#1", want(["b"])) is False


async def test_who_aims_at_another_unit_after_a_wait_keeps_its_place() -> None:
    """A leader that moves with each rollout: rollouts that come again and again would have it wait for ever."""
    claims, order = Claims(), list[str]()
    await claims.take("rollout#1", want("abc"))

    async def stepdown() -> None:
        assert await claims.take("stepdown#1", want("a"))
        assert not await claims.take("stepdown#1", want("b"))
        order.append("stepdown#1")
        claims.drop("stepdown#1")

    async def rollout() -> None:
        assert await claims.take("rollout#2", want("abc"))
        order.append("rollout#2")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for task in (stepdown, rollout):
                group.start_soon(task)
                await anyio.wait_all_tasks_blocked()
            claims.drop("rollout#1")
    assert order == ["stepdown#1", "rollout#2"]


async def test_who_aims_at_another_unit_waits_for_whoever_has_it() -> None:
    claims, waited = Claims(), list[bool]()
    await claims.take("one#1", want("a"))
    await claims.take("two#1", want("b"))

    async def again() -> None:
        waited.append(await claims.take("one#1", want("b")))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(again)
            await anyio.wait_all_tasks_blocked()
            assert claims.ahead("one#1") == ("two#1",)
            assert not waited
            claims.drop("two#1")
    assert waited == [True]


@given(st.lists(st.tuples(units, st.none() | units), min_size=1, max_size=8))
def test_two_never_have_a_unit_at_once_and_everybody_has_a_turn(
    wanted: list[tuple[frozenset[str], frozenset[str] | None]],
) -> None:
    anyio.run(_all_take_turns, wanted, backend="asyncio")


async def _all_take_turns(aims: list[tuple[frozenset[str], frozenset[str] | None]]) -> None:
    """Each claims what it aims at, and some of them something else once they have that."""
    claims, taken, order = Claims(), list[str](), list[int]()
    wanted = [first if then is None else then for first, then in aims]

    async def live(number: int) -> None:
        first, then = aims[number]
        await claims.take(f"f#{number}", want(first))
        if then is not None:
            await anyio.lowlevel.checkpoint()
            await claims.take(f"f#{number}", want(then))
        assert not wanted[number].intersection(taken)
        taken.extend(wanted[number])
        await anyio.lowlevel.checkpoint()
        for unit in wanted[number]:
            taken.remove(unit)
        claims.drop(f"f#{number}")
        order.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(len(aims)):
                group.start_soon(live, number)
    assert sorted(order) == list(range(len(aims)))


async def test_calm_is_when_the_last_disturbance_is_gone() -> None:
    disturbances = Disturbances()
    before = time.monotonic()
    disturbances.enter("one#1")
    disturbances.enter("two#1")
    disturbances.leave("one#1")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(disturbances.calm)
            await anyio.wait_all_tasks_blocked()
            disturbances.leave("two#1")
            disturbances.leave("two#1")
        await disturbances.calm()
    assert disturbances.since(before)
    assert not disturbances.since(time.monotonic())
