"""Known-bad systems are caught, each by the one threshold that should: how a load on one is run, and judged from the journal on disk.

Real loads on a real nats-server; what is bad is a responder, relay or program of ours. The tests stand in `test_known_bad_*.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import anyio
import anyio.to_thread
from dead_run import started
from load_bench import Bench
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import Answer

from supervisor.journal.events import EndReason, LoadStopped, Phase, PhaseEntered, Record, RunEnded
from supervisor.journal.replay import replay
from supervisor.judge.verdict import Judgement, judge
from supervisor.loads.base import Load

RARE = 1000
"""One in so many operations is spoiled."""
FIRST = 50
"""The first operation that is spoiled."""
ENOUGH = 250
"""Operations of a run."""
RATE = "200/s"
LONG = 3.0
"""Seconds: longer than any latency that is wanted."""
PATIENT = {"timeout": "20s"}
"""What is only slow, on a busy machine too, is told by its latency alone."""
SLOW = "p99 < 2s"
"""What a system breaks that takes `LONG`."""


@asynccontextmanager
async def judged(bench: Bench, load: Load, thresholds: Iterable[str]) -> AsyncIterator[list[Judgement]]:
    """Put what happens in the body on record as a run, and judge that."""
    began = started(
        "r",
        soak="known",
        loads=("load",),
        thresholds=tuple(thresholds),
        counters={"load": load.counters},
        settled={"load": load.settled},
    )
    for event in (began, PhaseEntered(phase=Phase.SOAKING)):
        bench.journal.emit(event)
    result: list[Judgement] = []
    yield result
    await bench.journal.commit(RunEnded(reason=EndReason.SIGNAL))
    directory = bench.journal.run_dir
    result.append(await anyio.to_thread.run_sync(lambda: judge(filter(_ours, replay(directory)))))


def _ours(record: Record) -> bool:
    """The bench's own mark is no load."""
    return record.event != LoadStopped(load="settled")


async def soaked(
    bench: Bench,
    load: Load,
    thresholds: Iterable[str],
    system: AbstractAsyncContextManager[object] | None = None,
    **counts: int,
) -> Judgement:
    """Judge a load on a system that lives with it, until so much more was counted under each of these names."""
    async with (
        judged(bench, load, thresholds) as result,
        system or nullcontext(),
        bench.under(load) as context,
    ):
        before = bench.counts
        for name, count in counts.items():
            await bench.until_counted(context, name, int(before.get(name, 0)) + count)
    return result[0]


def with_latency(thresholds: tuple[str, ...], expected: str = "") -> tuple[str, ...]:
    """Add a latency: the one that is expected to be broken, or one that a busy machine keeps as well."""
    return (*thresholds, expected if expected == SLOW else "p99 < 20s")


def flagged(judgement: Judgement) -> dict[str, str]:
    """Return the thresholds that were not kept, and why."""
    return {one.text: f"{one.verdict}: {one.why}" for one in judgement.thresholds if one.verdict != "pass"}


def broken(judgement: Judgement) -> set[str]:
    """Return the thresholds that were broken; any other that was not kept is an error."""
    told = flagged(judgement)
    assert all(why.startswith("fail: ") for why in told.values()), told
    return set(told)


def now_and_then(bad: Answer, good: Answer) -> Answer:
    """Do what is bad once in a thousand times, the first time early."""
    numbers = itertools.count(RARE - FIRST)

    async def answer(client: Client, msg: Msg) -> None:
        await (good if next(numbers) % RARE else bad)(client, msg)

    return answer


def once(seconds: float, good: Answer) -> Answer:
    """Stand still once."""
    numbers = itertools.count(1)

    async def answer(client: Client, msg: Msg) -> None:
        if next(numbers) == FIRST:
            await anyio.sleep(seconds)
        await good(client, msg)

    return answer


async def nothing(_: Client, __: Msg) -> None:
    """Forget it."""
