from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from supervisor import supervision
from supervisor.journal.events import Record, TaskCrashed
from supervisor.journal.writer import JournalWriter
from supervisor.supervision import Supervisor, what
from supervisor.values import Intensity


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSE", 0.001)


def crashes(heard: list[Record]) -> list[TaskCrashed]:
    return [record.event for record in heard if isinstance(record.event, TaskCrashed)]


class Flaky:
    """A leaf task that raises so many times and then waits for ever."""

    def __init__(self, failures: int) -> None:
        self.runs, self.failures, self.stable, self.over = 0, failures, anyio.Event(), anyio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise ZeroDivisionError(f"run {self.runs}")
        self.stable.set()
        await anyio.sleep_forever()


async def supervise(
    journal: JournalWriter, task: Flaky, until: anyio.Event, intensity: Intensity
) -> tuple[list[Record], list[str]]:
    heard, reasons = list[Record](), list[str]()
    journal.subscribe(heard.append)

    def give_up(reason: str) -> None:
        reasons.append(reason)
        until.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            Supervisor(group, journal, give_up, intensity).keep("watchdog nats1", task.run, task.over)
            await until.wait()
            await journal.call(lambda: None)
            group.cancel_scope.cancel()
    return heard, reasons


async def test_a_task_that_raises_is_put_on_record_and_started_again(journal: JournalWriter) -> None:
    task = Flaky(3)
    heard, reasons = await supervise(journal, task, task.stable, Intensity(3, 60.0))
    assert task.runs == 4
    assert not task.over.is_set()
    assert reasons == []
    assert [(crash.task, crash.error, crash.gave_up) for crash in crashes(heard)] == [
        ("watchdog nats1", f"ZeroDivisionError: run {n}", False) for n in (1, 2, 3)
    ]
    assert "in run" in crashes(heard)[0].traceback


async def test_a_task_that_raises_too_often_ends_the_run_and_stays_down(journal: JournalWriter) -> None:
    task = Flaky(99)
    heard, reasons = await supervise(journal, task, anyio.Event(), Intensity(3, 60.0))
    assert task.runs == 4
    assert task.over.is_set(), "nobody needs to wait for it"
    assert reasons == ["watchdog nats1 crashed more than 3 / 1m: ZeroDivisionError: run 4"]
    assert [crash.gave_up for crash in crashes(heard)] == [False, False, False, True]


async def test_crashes_long_ago_are_forgiven(journal: JournalWriter) -> None:
    task = Flaky(20)
    _, reasons = await supervise(journal, task, task.stable, Intensity(1, 1e-9))
    assert task.runs == 21
    assert reasons == []


async def test_a_task_that_returns_is_done(journal: JournalWriter) -> None:
    runs: list[int] = []

    async def run() -> None:
        runs.append(1)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            over = anyio.Event()
            Supervisor(group, journal, pytest.fail).keep("short", run, over)
            await over.wait()
    assert runs == [1]


async def test_the_end_of_the_scope_is_no_crash(journal: JournalWriter) -> None:
    heard: list[Record] = []
    journal.subscribe(heard.append)
    async with anyio.create_task_group() as group:
        Supervisor(group, journal, pytest.fail).keep("long", anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    await journal.call(lambda: None)
    assert heard == []


async def test_one_task_that_gives_up_takes_no_other_with_it(journal: JournalWriter) -> None:
    bad, good = Flaky(99), Flaky(0)
    gave_up = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            supervisor = Supervisor(group, journal, lambda _reason: gave_up.set(), Intensity(0, 60.0))
            supervisor.keep("good", good.run)
            supervisor.keep("bad", bad.run)
            await gave_up.wait()
            await good.stable.wait()
            assert (bad.runs, good.runs) == (1, 1)
            group.cancel_scope.cancel()


def test_what_a_group_says() -> None:
    one, two = ValueError("one"), OSError("two")
    assert what(ExceptionGroup("unhandled errors", [ExceptionGroup("again", [one])])) == "ValueError: one"
    assert what(ExceptionGroup("unhandled errors", [one, one, two])) == "ValueError: one; and OSError: two"
    many = [KeyError(n) for n in range(9)]
    assert what(ExceptionGroup("many", many)) == "KeyError: 0; and KeyError: 1; and KeyError: 2; and 6 more"
