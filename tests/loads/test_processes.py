"""Loads that several processes share: everything adds up, whatever becomes of one of them."""

from __future__ import annotations

import signal
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from http_bench import service
from load_bench import PATIENCE, WHOLE, Bench, until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats_bench import NatsBench
from test_http import ORDER, Orders

from supervisor.broker import api
from supervisor.histogram import Histogram
from supervisor.journal.events import (
    CUT_OFF,
    EpisodeClosed,
    Event,
    FaultIntent,
    FaultUndone,
    LoadBroken,
    LoadWindow,
    Record,
    Slice,
    TaskCrashed,
)
from supervisor.loads.base import LoadContext
from supervisor.loads.crew import run_load
from supervisor.loads.executor import Executor
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.messages import Ended, Noted, Told
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

    def noted(self, member: Process, notes: Noted) -> None:
        raise AssertionError(member.title, notes)

    def has_ended(self, member: Process, *, well: bool) -> None:
        raise AssertionError(member.title, well)


NOBODY = _Nobody()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes report and be replaced at once, and have all the time that a busy machine takes to hear of an episode."""
    monkeypatch.setattr("supervisor.loads.processes.REPORT", 0.1)
    monkeypatch.setattr("supervisor.supervision.PAUSE", 0.05)
    monkeypatch.setattr("supervisor.journal.timeline.HEARD", WHOLE)


def load(**entry: Any) -> RequestLoad:
    return RequestLoad.model_validate({"request": "echo", "responder": "built_in", "processes": 3, **entry})


def processes() -> list[psutil.Process]:
    """Return our own ones that share a load."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if "supervisor.loads.worker" in (process := psutil.Process(int(child))).cmdline():
                    found.append(process)
    return found


def connected() -> list[psutil.Process]:
    """Return those that have come to work."""
    return [process for process in processes() if process.net_connections("tcp")]


def total(windows: list[LoadWindow], name: str) -> int:
    if name in {"ok", "failed", "indeterminate"}:
        return sum(getattr(one, name) for window in windows for one in window.slices)
    return sum(getattr(window, name) for window in windows)


def check_sums(bench: Bench) -> None:
    """Whatever was due was begun or dropped, and whatever was begun has an outcome."""
    windows = bench.windows
    ended = {outcome: total(windows, outcome) for outcome in ("ok", "failed", "indeterminate")}
    begun, dropped = total(windows, "started"), total(windows, "dropped")
    assert total(windows, "scheduled") == begun + dropped
    assert begun == sum(ended.values()), ended


def flushed(nats_bench: NatsBench, context: LoadContext, ok: int) -> bool:
    """Say whether what the load has by now is enough."""
    tell(context)
    return nats_bench.counts.get("ok", 0) >= ok


async def test_what_a_stream_loses_is_found_by_whichever_process_wrote_it(
    nats_bench: NatsBench, at_once: None
) -> None:
    """All that is known of it is told, what only the run's own process can find out included."""
    bench, lies = nats_bench.bench, list[bytes]()

    class Logs:
        async def save(self, title: str, since: float, until: float) -> dict[str, str]:
            assert since < until
            return {"nats1": f"{title}.nats1.log"}

    async def store(client: Client, msg: Msg) -> None:
        writer, n = msg.data.split()[3:5]
        if int(n) % 10 == 9 and [lie.split()[3] for lie in lies].count(writer) < 2:
            lies.append(msg.data)
            await msg.respond(b'{"stream": "REAL", "seq": 1000000}')
        else:
            await msg.respond((await client.request("real", msg.data, PATIENCE, headers=msg.headers)).data)

    load = JetStreamLoad.model_validate(
        {
            "jetstream": "REAL",
            "subject": "in",
            "rate": "60/s",
            "settle": "100ms",
            "timeout": "20s",
            "processes": 2,
        }
    )
    context = replace(bench.context("load"), server_logs=Logs())
    async with nats_bench.responder("in", store) as system:
        await system.jetstream().add_stream(name="REAL", subjects=["real"])
        with anyio.fail_after(WHOLE):
            async with anyio.create_task_group() as group:
                group.start_soon(run_load, load, context)
                await bench.until_counted(context, "lost", 4)
                context.stop.set()
    await bench.settle()
    check_sums(bench)
    assert {
        name: bench.counts[name] for name in bench.counts if "lost" in name or "dupl" in name
    } == dict.fromkeys(("lost", "lost_in_stream", "lost_postfix"), 4.0)
    told = nats_bench.violations
    assert {one.data["id"].rpartition(".")[2] for one in told} == {lie.split()[4].decode() for lie in lies}
    for one in told:
        assert one.data["logs"]["nats1"].startswith("load.lost.")
        assert one.data["logs"]["nats1"].endswith(f".{int(one.data['id'].split('.')[-2]) + 1}.nats1.log")


async def test_one_that_hangs_is_replaced_too(
    nats_bench: NatsBench, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.loads.processes.PULSE", 0.3)
    async with nats_bench.running(load(workers=4, processes=2)) as context:
        await until(lambda: flushed(nats_bench, context, 60))
        monkeypatch.setattr("supervisor.loads.processes.HUNG", 4.0)  # they are up by now
        victim = processes()[0]
        victim.send_signal(signal.SIGSTOP)
        await until(lambda: [e for e in nats_bench.bench.events if isinstance(e, LoadBroken)])
        monkeypatch.setattr("supervisor.loads.processes.HUNG", 30)
        assert victim.pid not in {process.pid for process in processes()}
        seen = nats_bench.counts["ok"]
        await until(lambda: flushed(nats_bench, context, int(seen) + 60))
    check_sums(nats_bench.bench)
    (told,) = [event for event in nats_bench.bench.events if isinstance(event, LoadBroken)]
    assert told.how == "killed"
    assert "did not answer" in told.error
    # Its part of the workers; one of them may have been between two operations.
    assert nats_bench.counts["process died"] in (1, 2)


KINDS: dict[str, dict[str, Any]] = {
    "request": {"request": "echo", "responder": "built_in", "rate": "60/s", "timeout": "1s"},
    "events": {"events": "seen", "burst": {"size": 20, "every": "200ms"}},
    "kv": {"kv": "REG", "poisson": "60/s", "registers": 3},
    "event_store": {"event_store": "STORE", "workers": 4, "aggregates": 4},
    "jetstream": {"jetstream": "S", "between": ["5ms", "20ms"]},
    "claim a message": {"claim": {"stream": "JOBS"}, "workers": 4, "work": "5ms"},
    "claim a key": {"claim": {"bucket": "LOCKS"}, "rate": "60/s", "lease": "1s", "work": "5ms"},
}
"""Every kind on NATS that can be shared, and every way in which operations can come."""


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_adds_up_knows_of_episodes_and_survives_the_death_of_one(
    nats_bench: NatsBench, at_once: None, kind: str
) -> None:
    """Nothing is counted twice or forgotten, nothing wrong is seen that was not, and nothing is left behind."""
    # Who asks may have asked the responder that died with its process.
    await survives_a_death(nats_bench.bench, KINDS[kind], {"timeout"} if kind == "request" else set())

    assert nats_bench.bench.connections
    left = await api.call(await nats_bench.bench.connections.handle(), "STREAM.NAMES", {})
    assert not left["streams"], "made by several, and removed by the last"


async def test_requests_over_http_add_up_know_of_episodes_and_survive_the_death_of_one(
    bench: Bench, at_once: None
) -> None:
    """The same of the one kind that needs no broker; no two operations have one key, whichever process and life they are of."""
    orders = Orders()
    async with service(orders) as url:
        call = {"url": url, **ORDER, "replay": {"share": "20%", "same": "order.id"}}
        await survives_a_death(bench, {"http": call, "workers": 4})

    assert total(bench.windows, "ok") <= len(orders.made) <= total(bench.windows, "started")


async def survives_a_death(
    bench: Bench, entry: dict[str, Any], unanswered: AbstractSet[str] = frozenset()
) -> None:
    """Let two processes share a load, of whom one is killed; `unanswered`: errors that there may be besides."""
    load = LOADS.find(entry, Path())[0].model_validate({"timeout": "20s", **entry, "processes": 2})
    context = bench.context("load")

    async def goes_on() -> None:
        wanted = total(bench.windows, "ok") + 15
        while (
            total(bench.windows, "ok") < wanted
        ):  # not as often as `until` looks: each time all windows are read
            tell(context)
            await anyio.sleep(0.05)

    with anyio.fail_after(WHOLE):
        async with anyio.create_task_group() as group:
            bench.journal.subscribe(context.timeline.apply)
            group.start_soon(run_load, load, context)
            await goes_on()

            await bench.journal.commit(FaultIntent(fault="f", episode="f#1", n=1, type="pause", undo={}))
            await context.timeline.heard()
            tell(context)
            await bench.settle()
            before = unmarked(bench)
            await goes_on()
            assert unmarked(bench) == before, "from then on all that ends has its mark"

            processes()[0].send_signal(signal.SIGKILL)
            await until(lambda: _of(bench, LoadBroken), WHOLE)
            while len(connected()) < 2:  # noqa: ASYNC110  # processes tell nobody, and looking at them takes long
                await anyio.sleep(0.1)
            await goes_on()
            context.stop.set()
    await bench.settle()
    check_sums(bench)
    assert not processes()
    assert not total(bench.windows, "failed"), bench.samples
    errors = {error for window in bench.windows for piece in window.slices for error in piece.errors}
    assert errors <= {"process died", *unanswered, *([CUT_OFF] if unanswered else [])}
    wrong = {name: bench.counts[name] for name in (*load.settled, *WRONG) if name in bench.counts}
    assert not wrong
    assert set(load.settled) <= {name for w in bench.windows for name in w.counters}, "all have looked"
    assert len(_of(bench, TaskCrashed)) == 1


def tell(context: LoadContext) -> None:
    """Let a load tell what it has, as a change of episodes would."""
    for callback in tuple(context.timeline._callbacks.values()):
        callback()


def unmarked(bench: Bench) -> int:
    return sum(one.ok for window in bench.windows for one in window.slices if not one.episodes)


WRONG = ("foreign", "unexpected", "duplicates", "forks", "stale_writes", "double_claims", "orphans", "stuck")


def _of(bench: Any, kind: type[Event]) -> list[Event]:
    return [event for event in bench.events if isinstance(event, kind)]


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
