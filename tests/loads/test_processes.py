"""Loads that several processes share: everything adds up, whatever becomes of one of them."""

from __future__ import annotations

import signal
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_bench import WHOLE, until
from nats_bench import NatsBench
from pydantic import ValidationError

from supervisor.broker import api
from supervisor.histogram import Histogram
from supervisor.journal.events import (
    EpisodeClosed,
    Event,
    FaultIntent,
    FaultUndone,
    LoadBroken,
    LoadStopped,
    LoadWindow,
    Record,
    Slice,
    TaskCrashed,
)
from supervisor.kinds import take_in
from supervisor.loads.claim import ClaimLoad
from supervisor.loads.crew import run_load
from supervisor.loads.executor import Executor
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.messages import Ended, Told
from supervisor.loads.pace import Paced
from supervisor.loads.processes import Process
from supervisor.loads.registry import LOADS
from supervisor.loads.request import RequestLoad
from supervisor.loads.shares import CountedRecorder, Ledger


class _Nobody:
    """No crew."""

    def is_ready(self, member: Process) -> None:
        raise AssertionError(member.title)

    def has_left(self, member: Process, *, sound: bool) -> None:
        raise AssertionError(member.title, sound)

    def leaves(self, stream: str) -> None:
        raise AssertionError(stream)


NOBODY = _Nobody()


def load(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate({"request": "echo", "responder": "built_in", "processes": 3, **entry})


def processes() -> list[psutil.Process]:
    """Return our own ones that share a load."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "supervisor.loads.worker" in child.cmdline():
                found.append(child)
    return found


def total(windows: list[LoadWindow], name: str) -> int:
    if name in {"ok", "failed", "indeterminate"}:
        return sum(getattr(one, name) for window in windows for one in window.slices)
    return sum(getattr(window, name) for window in windows)


def check_sums(nats_bench: NatsBench) -> None:
    """Whatever was due was begun or dropped, and whatever was begun has an outcome."""
    windows = nats_bench.windows
    ended = {outcome: total(windows, outcome) for outcome in ("ok", "failed", "indeterminate")}
    begun, dropped = total(windows, "started"), total(windows, "dropped")
    assert total(windows, "scheduled") == begun + dropped
    assert begun == sum(ended.values()), ended


async def test_the_work_is_shared_and_adds_up(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(rate="300/s")) as context:
        await until(lambda: len(processes()) == 3)
        await until(lambda: flushed(nats_bench, context, 300))
    check_sums(nats_bench)
    assert nats_bench.counts["ok"] >= 300
    assert [type(event) for event in nats_bench.bench.events].count(LoadStopped) == 2, (
        "its own, and the bench's"
    )
    assert not processes()


def flushed(nats_bench: NatsBench, context: Any, ok: int) -> bool:
    """Let the load tell what it has, as a change of episodes would, and say whether that is enough."""
    for callback in tuple(context.timeline._callbacks.values()):
        callback()
    return nats_bench.counts.get("ok", 0) >= ok


async def test_one_that_is_killed_is_replaced_and_loses_no_count(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(rate="300/s")) as context:
        await until(lambda: flushed(nats_bench, context, 300))
        before = {process.pid for process in processes()}
        victim = processes()[0]
        victim.send_signal(signal.SIGKILL)
        await until(lambda: len({p.pid for p in processes()} - before) == 1)
        seen = nats_bench.counts["ok"]
        await until(lambda: flushed(nats_bench, context, seen + 200))
    check_sums(nats_bench)
    crashes = [event for event in nats_bench.bench.events if isinstance(event, TaskCrashed)]
    assert len(crashes) == 1
    assert "of 3 of load load ended with -9" in crashes[0].error
    assert nats_bench.counts.get("dropped", total(nats_bench.windows, "dropped")) > 0, (
        "what was due meanwhile"
    )


async def test_one_that_hangs_is_replaced_too(nats_bench: NatsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.loads.processes.PULSE", 0.3)
    async with nats_bench.running(load(workers=6)) as context:
        await until(lambda: flushed(nats_bench, context, 60))
        monkeypatch.setattr("supervisor.loads.processes.HUNG", 4.0)  # they are up by now
        victim = processes()[0]
        victim.send_signal(signal.SIGSTOP)
        await until(lambda: [e for e in nats_bench.bench.events if isinstance(e, LoadBroken)])
        monkeypatch.setattr("supervisor.loads.processes.HUNG", 30)
        assert victim.pid not in {process.pid for process in processes()}
        seen = nats_bench.counts["ok"]
        await until(lambda: flushed(nats_bench, context, int(seen) + 60))
    check_sums(nats_bench)
    (told,) = [event for event in nats_bench.bench.events if isinstance(event, LoadBroken)]
    assert told.how == "killed"
    assert "did not answer" in told.error
    # Its part of the workers; one of them may have been between two operations.
    assert nats_bench.counts["process died"] in (1, 2)


async def test_every_kind_that_can_be_shared_adds_up_and_leaves_nothing(nats_bench: NatsBench) -> None:
    """In every way in which operations can come."""
    bench = nats_bench.bench
    assert bench.connections
    kinds: list[dict[str, Any]] = [
        {"events": "seen", "burst": {"size": 20, "every": "200ms"}},
        {"kv": "REG", "poisson": "60/s", "registers": 3},
        {"event_store": "STORE", "workers": 5, "aggregates": 4},
    ]
    loads = {
        next(iter(entry)): LOADS.find(entry, Path())[0].model_validate({**entry, "processes": 2})
        for entry in kinds
    }
    contexts = {name: bench.context(name) for name in loads}

    def done(name: str) -> int:
        return total([window for window in bench.windows if window.load == name], "ok")

    def enough() -> bool:
        for context in contexts.values():
            context.recorder.flush()
        return all(done(name) >= 100 for name in loads)

    with anyio.fail_after(WHOLE):
        async with anyio.create_task_group() as group:
            for name, load in loads.items():
                group.start_soon(run_load, load, contexts[name])
            await until(enough)
            for context in contexts.values():
                context.stop.set()
        handle = await bench.connections.handle()
        left = await api.call(handle, "STREAM.NAMES", {})
    await bench.settle()
    assert not left["streams"], "made by several, and removed by the last"
    for name, load in loads.items():
        windows = [window for window in bench.windows if window.load == name]
        ended = {outcome: total(windows, outcome) for outcome in ("ok", "failed", "indeterminate")}
        assert total(windows, "started") == sum(ended.values()), name
        assert not ended["failed"] + ended["indeterminate"], (name, [s for w in windows for s in w.samples])
        told = {counter: sum(w.counters.get(counter, 0) for w in windows) for counter in load.settled}
        assert not any(told.values()), (name, told)
        assert set(load.settled) <= {counter for w in windows for counter in w.counters}, "all have looked"
        assert not sum(w.counters.get("foreign", 0) for w in windows), "events of the other process"


async def test_all_know_of_an_episode_before_it_is_injected(
    nats_bench: NatsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "supervisor.journal.timeline.HEARD", WHOLE
    )  # a busy machine may need more than a second
    journal = nats_bench.bench.journal
    async with nats_bench.running(load(rate="300/s")) as context:
        forget = journal.subscribe(context.timeline.apply)
        await until(lambda: flushed(nats_bench, context, 60))
        await journal.commit(FaultIntent(fault="f", episode="f#1", n=1, type="pause", undo={}))
        await context.timeline.heard()
        flushed(nats_bench, context, 0)
        await nats_bench.bench.settle()
        before = unmarked(nats_bench)
        seen = nats_bench.counts["ok"]
        await until(lambda: flushed(nats_bench, context, int(seen) + 60))
        assert unmarked(nats_bench) == before, "from then on all that ends has its mark"
        await journal.commit(FaultUndone(episode="f#1", attempts=1))
        await journal.commit(EpisodeClosed(episode="f#1", recovered=True))
        await context.timeline.heard()
        await until(lambda: flushed(nats_bench, context, 1) and unmarked(nats_bench) > before)
        forget()
    check_sums(nats_bench)
    marks = {mark for window in nats_bench.windows for one in window.slices for mark in one.episodes}
    assert "f#1:direct" in marks


def unmarked(nats_bench: NatsBench) -> int:
    return sum(one.ok for window in nats_bench.windows for one in window.slices if not one.episodes)


@pytest.mark.parametrize(
    ("last_word", "unsure"),
    [(None, 2), (Ended("Traceback: boom"), 2), (Ended(), 0)],
    ids=["killed", "raised", "as told"],
)
async def test_what_was_under_way_is_counted_however_it_ended(
    nats_bench: NatsBench, last_word: Ended | None, unsure: int
) -> None:
    told: list[Event] = []
    context, ledger = nats_bench.bench.context("load"), Ledger.new()
    process = Process(load(rate="10/s"), context, 0, told.append, NOBODY)
    recorder = CountedRecorder("load", process._context.journal, context.timeline)
    recorder.ledger = ledger
    context.timeline.apply(Record(1, 0.0, 3.0, FaultIntent(fault="f", episode="f#1", n=1, type="pause")))
    context.timeline.apply(Record(2, 0.0, 4.0, FaultUndone(episode="f#1", attempts=1)))
    context.timeline.apply(Record(3, 0.0, 5.0, EpisodeClosed(episode="f#1", recovered=True)))
    recorder.scheduled(7)
    recorder.started(7)
    for n in range(3):
        recorder.record(intended=n, start=n, end=n + 0.5, outcome="ok")
    recorder.count("attempts", 5)
    process._take(
        Told(
            LoadWindow(
                load="load",
                start=0,
                end=1,
                scheduled=7,
                started=7,
                slices=(Slice(ok=3),),
                counters={"attempts": 4.0},
            )
        )
    )
    told.clear()
    if last_word is not None:
        process._take(last_word)
    recorder.record(intended=3.5, start=3.6, end=3.75, outcome="ok")
    recorder.record(intended=6.0, start=6.0, end=7.0, outcome="failed", error="refused")
    process._take_rest(ledger)
    (window,) = [one for one in told if isinstance(one, LoadWindow)] or [None]
    if not unsure:
        assert window is None
    else:
        assert window is not None
        assert window.counters == {"attempts": 1.0}
        slices = {one.episodes: one for one in window.slices}
        (during,), whole = (mark for mark in slices if mark), slices[()]
        assert slices[during].ok == 1
        assert Histogram.unpack(slices[during].response).highest == pytest.approx(0.25), "with its time"
        assert whole.errors == {"refused": 1, "process died": unsure}
    recorder.close()
    ledger.close()


async def test_what_is_due_after_the_last_that_was_scheduled_is_owed(nats_bench: NatsBench) -> None:
    """Not only from when it ended: one that hangs is killed long after it stopped to schedule."""
    pace = load(rate="100/s")
    context = replace(nats_bench.bench.context("load"), owed=0.001, processes=3)
    ledger = Ledger.new()
    recorder = CountedRecorder("load", context.journal, context.timeline)
    recorder.ledger = ledger

    async def operate() -> None:
        if ledger.read().started >= 5:
            context.stop.set()

    with anyio.fail_after(WHOLE):
        await Executor(pace, replace(context, recorder=recorder), operate).run()
    process = Process(pace, context, 0, lambda _: None, NOBODY)
    process._owe(ledger.next_due)
    assert process._owed is not None
    scheduled = ledger.read().scheduled
    assert next(pace.due(process._owed, "", 0, 3)) == pytest.approx((scheduled + 1) * 3 / 100)
    owed = process._owed
    process._owe(None)
    assert process._owed == owed, "a life that scheduled nothing leaves what was owed before it"
    recorder.close()
    ledger.close()


async def test_one_that_cannot_work_says_why(nats_bench: NatsBench) -> None:
    async with nats_bench.running(load(rate="10/s", processes=2, **{"as": "nobody"})):
        crashed = lambda: [e for e in nats_bench.bench.events if isinstance(e, TaskCrashed)]  # noqa: E731
        await until(lambda: len(crashed()) >= 2)
    assert "there is no connection 'nobody'" in crashed()[0].error


def test_a_load_of_ones_own_says_whether_it_can_be_shared(tmp_path: Path) -> None:
    source = (
        "from supervisor.loads.pace import Paced\n\nclass Own(Paced):\n    key = 'own'\n    shareable = %s\n"
        "    async def run(self, context): ...\n"
    )
    for shareable in (False, True):
        file = tmp_path / f"own{shareable}.py"
        file.write_text(source % shareable)
        kind, keys = LOADS.find({"python": f"{file.name}:Own", "rate": "10/s", "processes": 2}, tmp_path)
        with nullcontext() if shareable else pytest.raises(ValidationError, match="shareable = True"):
            kind.model_validate(keys)
    told = kind.file()
    assert told
    take_in(*told)
    file.write_text(file.read_text() + "\n")
    with pytest.raises(RuntimeError, match="has changed since the run began"):
        take_in(*told)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValidationError, match="reads all of its stream back"):
        JetStreamLoad.model_validate({"jetstream": "S", "rate": "10/s", "processes": 2})
    with pytest.raises(ValidationError, match="only seen by who sees all claims"):
        ClaimLoad.model_validate({"claim": {"stream": "S"}, "rate": "10/s", "processes": 2})
    with pytest.raises(ValidationError, match="take rate or poisson"):
        load(between=["10ms", "20ms"])
    with pytest.raises(ValidationError, match="2 workers are too few for 3 processes"):
        load(workers=2)
    with pytest.raises(ValidationError, match="burst: 2 at once are too few for 3 processes"):
        load(burst={"size": 2, "every": "1s"})
    with pytest.raises(ValidationError, match="in_flight: 2 are too few for 3 processes"):
        load(rate="10/s", in_flight=2)


PACES: list[dict[str, Any]] = [
    {"rate": "37/s"},
    {"ramp": [{"to": "50/s", "for": "20s"}, {"to": "10/s", "for": "5s"}]},
    {"burst": {"size": 10, "every": "700ms"}, "in_flight": 10},
]


@settings(deadline=None)
@given(st.sampled_from(PACES), st.lists(st.floats(0, 40), min_size=2, max_size=9))
def test_shares_are_the_whole_whenever_each_begins(pace: dict[str, Any], begins: list[float]) -> None:
    shared: Paced = load(processes=len(begins), **pace)
    last, of = max(begins) + 1e-6, len(begins)

    def due(since: float, *share: int) -> list[float]:
        return [
            at
            for at in takewhile(
                lambda at: at < last + 10, shared.due(since, "seed", *share, first=min(begins))
            )
            if at > last
        ]

    whole = sorted(at for n in range(of) for at in due(last, n, of))
    assert sorted(at for n, since in enumerate(begins) for at in due(since, n, of)) == whole
    assert whole == due(last)
    if "burst" in pace:
        assert {whole.count(at) for at in whole} == {10}, "all at the same instants"
        assert all(shared.room(n, of) >= due(last, n, of).count(whole[0]) for n in range(of))


@given(st.integers(1, 9), st.integers(9, 500), st.integers(9, 500))
def test_workers_and_room_are_divided(of: int, workers: int, room: int) -> None:
    pace = load(workers=workers, in_flight=room, processes=of)
    assert sum(stage.workers for n in range(of) for stage in pace.crew(n, of)) == workers
    assert sum(pace.room(n, of) for n in range(of)) == room
