"""Bursts: the first one comes when the load begins, be it a little late, and those of several processes are one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import takewhile

import anyio
import pytest
from load_bench import WHOLE, Bench, until
from test_executor import Bare

from supervisor.loads.executor import BELATED, Executor, Failure

SIZE = 12
PACE = Bare.model_validate({"burst": {"size": SIZE, "every": "10s"}})


async def test_the_first_one_comes_when_the_load_begins(bench: Bench) -> None:
    context, begun = bench.context("load"), 0
    context = replace(context, start=context.start - 7.5)  # others have been at work for a while

    async def operate() -> Failure:
        nonlocal begun
        begun += 1
        return Failure(f"number {begun}")  # the first of each class is kept, with its time

    with anyio.fail_after(WHOLE):
        async with anyio.create_task_group() as group:
            group.start_soon(Executor(PACE, context, operate).run)
            await until(lambda: begun >= SIZE)
            context.stop.set()
    context.recorder.flush()
    await bench.settle()
    (at,) = {sample.at for sample in bench.samples}
    assert len(bench.samples) == SIZE == bench.counts["scheduled"] == bench.counts["started"]
    assert at >= context.start + 7.5


async def never() -> float:
    raise AssertionError("it is told in the test")


def schedule(
    bench: Bench, begin: float, now: float, *, process: int = 0, of: int = 1, owed: float | None = None
) -> tuple[Counter[float], Counter[float]]:
    """Return what is dropped and what is begun of a load in the first 25 s, by the instant it is due at."""

    async def operate() -> None:
        raise AssertionError

    context = replace(bench.context("load"), process=process, processes=of, owed=owed)
    context = replace(context, together=never if of > 1 else None)
    since, due = Executor(PACE, context, operate)._schedule(begin, now)
    times = [round(at, 3) for at in takewhile(lambda at: at < 25, due)]
    dropped = Counter(at for at in times if at < since - 1e-3)
    return dropped, Counter(times) - dropped


@pytest.mark.parametrize("late", [-0.05, 0.0, BELATED - 0.01], ids=["early", "in time", "a little late"])
async def test_several_processes_have_them_together(bench: Bench, late: float) -> None:
    parts = [schedule(bench, 3.3, 3.3 + late * n, process=n, of=2) for n in range(2)]
    assert [dropped for dropped, _ in parts] == [{}, {}]
    assert parts[0][1] + parts[1][1] == {3.3: SIZE, 13.3: SIZE, 23.3: SIZE}


async def test_one_that_begins_far_too_late_owes_its_part_and_keeps_in_step(bench: Bench) -> None:
    dropped, begun = schedule(bench, 3.3, 3.3 + BELATED, process=1, of=2)
    assert (dropped, begun) == ({3.3: SIZE // 2}, {13.3: SIZE // 2, 23.3: SIZE // 2})


@pytest.mark.parametrize(("now", "missed"), [(12, {}), (14, {13.3: SIZE // 2})])
async def test_one_that_takes_the_place_of_another_keeps_in_step(
    bench: Bench, now: float, missed: dict[float, int]
) -> None:
    dropped, begun = schedule(bench, 3.3, now, process=1, of=2, owed=13.3 - 1e-6)  # as a ledger rounds it
    assert dropped == missed
    assert dropped + begun == {13.3: SIZE // 2, 23.3: SIZE // 2}


async def test_one_whose_forerunner_died_before_the_beginning_owes_nothing(bench: Bench) -> None:
    dropped, begun = schedule(bench, 3.3, 3.4, process=1, of=2, owed=1.0)
    assert (dropped, begun[3.3]) == ({}, SIZE // 2)


@pytest.mark.parametrize(("now", "missed"), [(12, {}), (14, {13.3: SIZE})])
async def test_a_load_that_broke_goes_on_in_its_own_step(
    bench: Bench, now: float, missed: dict[float, int]
) -> None:
    dropped, begun = schedule(bench, now, now, owed=13.3)
    assert dropped == missed
    assert dropped + begun == {13.3: SIZE, 23.3: SIZE}
