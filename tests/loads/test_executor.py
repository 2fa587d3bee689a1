from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import pytest
from load_bench import WHOLE, Bench, until

from supervisor.histogram import Histogram
from supervisor.journal.events import CUT_OFF
from supervisor.loads.base import LoadContext
from supervisor.loads.executor import TIMEOUT, Executor, Failure, Operate
from supervisor.loads.pace import Paced


class Bare(Paced):
    """A load whose operations a test brings."""

    key: ClassVar[str] = "bare"
    bare: str = ""

    async def run(self, context: LoadContext) -> None:
        raise AssertionError(context.name)


def response(bench: Bench, share: float) -> float:
    whole = Histogram()
    for window in bench.windows:
        for piece in window.slices:
            whole.merge(Histogram.unpack(piece.response))
    return whole.quantile(share) or 0.0


async def execute(bench: Bench, operate: Operate, stop: Callable[[], Any], **entry: Any) -> int:
    """Run operations until a condition holds; return how many were cut off."""
    context = bench.context("load")
    executor = Executor(Bare.model_validate(entry), context, operate)
    cut_off = -1

    async def run() -> None:
        nonlocal cut_off
        cut_off = await executor.run()

    with anyio.fail_after(WHOLE):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until(stop)
            context.stop.set()
    context.recorder.flush()
    await bench.settle()
    return cut_off


class Counter:
    """Operations that take a while, and how many there were at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.done, self.open, self.most = seconds, 0, 0, 0

    async def __call__(self) -> Failure | None:
        self.open += 1
        self.most = max(self.most, self.open)
        await anyio.sleep(self.seconds)
        self.open -= 1
        self.done += 1
        return None


@pytest.mark.parametrize(
    "entry",
    [
        {"rate": "300/s"},
        {"poisson": "300/s"},
        {"between": ["1ms", "4ms"]},
        {"ramp": [{"to": "500/s", "for": "200ms"}]},
        {"burst": {"size": 30, "every": "100ms"}},
        {"workers": 3},
        {"workers": [{"workers": 1, "for": "100ms"}, {"workers": 5, "for": "100ms"}]},
    ],
    ids=lambda entry: next(iter(entry)),
)
async def test_every_pace_counts_each_operation_once(bench: Bench, entry: dict[str, Any]) -> None:
    operate = Counter(0.001)
    assert await execute(bench, operate, lambda: operate.done >= 100, **entry) == 0
    counts = bench.counts
    assert counts["ok"] == counts["started"] == counts["scheduled"] == operate.done
    assert counts.keys() == {"ok", "started", "scheduled"}


async def test_an_open_loop_does_not_wait_for_the_system(bench: Bench) -> None:
    gate = anyio.Event()
    asked = 0

    async def stalled() -> None:
        nonlocal asked
        asked += 1
        await gate.wait()

    async def open_gate() -> None:
        await until(lambda: asked >= 200)
        gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(open_gate)
        await execute(bench, stalled, gate.is_set, rate="400/s")
    assert response(bench, 1.0) >= 0.4, "the first one waited for as long as all the others took to come"
    assert bench.counts["ok"] >= 200


async def test_what_finds_no_slot_is_dropped_and_counted(bench: Bench) -> None:
    operate = Counter(0.1)
    await execute(bench, operate, lambda: operate.done >= 30, rate="500/s", in_flight=5)
    dropped = sum(window.dropped for window in bench.windows)
    assert operate.most == 5
    assert dropped > 0
    assert bench.counts["scheduled"] == bench.counts["ok"] + dropped


async def test_our_own_stall_is_late_and_in_the_response_time(bench: Bench) -> None:
    operate = Counter()
    stalled = False

    def stall_once() -> bool:
        nonlocal stalled
        if operate.done >= 50 and not stalled:
            stalled = True
            time.sleep(0.3)
        return operate.done >= 300

    await execute(bench, operate, stall_once, rate="500/s")
    late = sum(window.late for window in bench.windows)
    assert late >= 100, "all that were due in the stall"
    assert response(bench, 1.0) >= 0.28
    assert bench.counts["ok"] == bench.counts["scheduled"], "none of them was left out"


async def test_a_burst_begins_together(bench: Bench) -> None:
    barrier, most, begun = anyio.Event(), 0, 0

    async def meet() -> None:
        nonlocal most, begun
        begun += 1
        most = max(most, begun)
        if begun == 50:
            barrier.set()
        await barrier.wait()

    await execute(bench, meet, barrier.is_set, burst={"size": 50, "every": "100ms"})
    assert most >= 50


async def test_tasks_of_an_open_loop_are_kept_for_its_next_operations(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.loads.executor.IDLE", 2)
    tasks: list[asyncio.Task[Any] | None] = []

    async def operate() -> None:
        tasks.append(asyncio.current_task())
        await anyio.sleep(0.001)

    def kept() -> int:
        return len(tasks) - len(set(tasks))

    with anyio.fail_after(10):
        await execute(bench, operate, lambda: kept() >= 6, burst={"size": 6, "every": "10ms"})
    assert kept() <= 2 * (len(tasks) // 6 - 1), "two for each burst but the first"
    assert bench.counts["ok"] == len(tasks)


async def test_workers_come_and_go_by_stage(bench: Bench) -> None:
    few, then_many = {"workers": 2, "for": "200ms"}, {"workers": 8, "for": "1h"}
    operate = Counter(0.005)
    await execute(bench, operate, lambda: operate.most >= 8, workers=[few, then_many])
    assert operate.most == 8

    at_once: list[int] = []

    def look() -> bool:
        at_once.append(operate.open)
        return len(at_once) > 20 and max(at_once[-10:]) <= 1

    many, then_one = {"workers": 8, "for": "200ms"}, {"workers": 1, "for": "1h"}
    await execute(bench, operate, look, workers=[many, then_one])
    assert operate.most == 8


async def test_outcomes_keep_their_class(bench: Bench) -> None:
    results = iter([Failure("broken", "why"), TIMEOUT, None])
    done = 0

    async def operate() -> Failure | None:
        nonlocal done
        done += 1
        return next(results, None)

    await execute(bench, operate, lambda: done >= 3, rate="200/s")
    assert bench.counts["broken"] == bench.counts["failed"] == 1
    assert bench.counts["timeout"] == bench.counts["indeterminate"] == 1
    assert bench.samples[0].detail == "why"


async def test_a_worker_whose_operations_fail_at_once_leaves_room_for_others(bench: Bench) -> None:
    done = 0

    async def fail() -> Failure:
        nonlocal done
        done += 1
        return Failure("refused")

    await execute(bench, fail, lambda: done >= 5, workers=1)
    assert bench.counts["refused"] == done


async def test_quick_operations_do_not_hold_the_event_loop(bench: Bench) -> None:
    done = 0

    async def at_once() -> None:
        nonlocal done
        done += 1

    await execute(bench, at_once, lambda: done >= 10_000, workers=2)
    assert bench.counts["ok"] == done


async def test_the_end_does_not_wait_for_the_next_operation(bench: Bench) -> None:
    operate = Counter()
    assert await execute(bench, operate, lambda: True, rate="1/h") == 0


async def test_what_is_open_at_the_end_is_waited_for_and_then_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Counter(0.1)
    assert await execute(bench, slow, lambda: slow.open == 3, workers=3) == 0
    monkeypatch.setattr("supervisor.loads.executor.LAST", 0.3)
    stuck = Counter(60)
    before = time.monotonic()
    assert await execute(bench, stuck, lambda: stuck.open == 3, workers=3) == 3
    assert bench.counts["started"] == bench.counts["ok"] + 3
    assert bench.counts["indeterminate"] == bench.counts[CUT_OFF] == 3
    samples = [sample for sample in bench.samples if sample.error == CUT_OFF]
    assert all(before < sample.at and sample.took >= 0.3 for sample in samples)
    assert samples
