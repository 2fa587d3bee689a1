"""Why units of a fleet ended, and who is told of it, over real processes."""

from __future__ import annotations

import os
import signal

import anyio
import pytest
from fleets import EPISODE, IDLE, pid_of, staged
from harness import PATIENCE

from supervisor.engines.base import UnitState
from supervisor.engines.departures import KEPT
from supervisor.engines.fleet import Departure, Desired
from supervisor.journal.events import (
    Cause,
    UnitExited,
    UnitStarted,
)
from supervisor.journal.writer import JournalWriter


@pytest.mark.parametrize(
    ("by", "cause"),
    [("run", Cause.RUN), ("watchdog", Cause.RUN), ("operator", Cause.OPERATOR), (EPISODE, Cause.EPISODE)],
)
async def test_the_cause_is_who_ended_it(journal: JournalWriter, by: str, cause: Cause) -> None:
    async with staged(journal, a=IDLE) as stage:
        for count, act in enumerate(
            (
                lambda: stage.fleet.stop("a", by=by),
                lambda: stage.fleet.kill("a", by=by, signal=signal.SIGKILL),
                lambda: stage.fleet.kill("a", by=by, signal=signal.SIGUSR2),
            ),
            1,
        ):
            await stage.fleet.start("a", by="run")
            await act()
            gone = await stage.heard(UnitExited, "a", count)
            assert (gone.cause, gone.by) == (cause, by)


async def test_nobody_ended_it_so_it_crashed(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE) as stage:
        departures = stage.fleet.departures("a")
        up = await stage.fleet.start("a", by="run")
        os.kill(pid_of(stage.fleet, "a"), signal.SIGSEGV)
        with departures, anyio.fail_after(PATIENCE):
            gone = await departures.receive()
        assert gone == Departure(
            "a", up.incarnation or "", None, "SIGSEGV", False, Cause.CRASH, None, gone.mono, gone.uptime
        )
        assert (await stage.heard(UnitExited, "a")).cause is Cause.CRASH
        assert stage.fleet.status("a").observed.state is UnitState.DOWN


async def test_a_signal_that_asks_is_forgotten_with_the_hold(journal: JournalWriter) -> None:
    """A reload that the unit survived does not excuse the crash an hour later; one that ends it does."""
    deaf = {"command": ["sh", "-c", "trap 'echo asked' HUP; echo up; sleep 1000 & while :; do wait; done"]}
    async with staged(journal, a={**deaf, "ready": {"log": "up"}}) as stage:
        fleet = stage.fleet
        for release, cause in ((True, Cause.CRASH), (False, Cause.EPISODE)):
            await fleet.start("a", by="run")
            await fleet.wait_ready("a")
            await fleet.hold("a", by=EPISODE, desired=Desired.UP)
            await fleet.kill("a", by=EPISODE, signal=signal.SIGHUP)
            if release:
                await fleet.release("a", by=EPISODE)
            os.kill(pid_of(fleet, "a"), signal.SIGKILL)
            gone = await stage.heard(UnitExited, "a", 1 if release else 2)
            assert gone.cause is cause
            await fleet.release("a", by=EPISODE)


async def test_stopping_and_starting_at_once_gives_a_new_life(journal: JournalWriter) -> None:
    """An undo may come right after its inject: what was told to end does not count as up."""
    slow = {
        "command": ["sh", "-c", "trap 'sleep 0.1; exit' TERM; echo up; sleep 1000 & while :; do wait; done"]
    }
    async with staged(journal, a={**slow, "ready": {"log": "up"}}) as stage:
        first = await stage.fleet.start("a", by="run")
        await stage.fleet.wait_ready("a")
        await stage.fleet.kill("a", by=EPISODE, signal=signal.SIGTERM)
        second = await stage.fleet.start("a", by=EPISODE)
        assert second.state is UnitState.UP
        assert second.incarnation != first.incarnation


async def test_who_ignores_the_signal_stays_up(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.engines.member.LEAVING", 0.1)
    deaf = {"command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"]}
    async with staged(journal, a={**deaf, "ready": {"log": "up"}}) as stage:
        first = await stage.fleet.start("a", by="run")
        await stage.fleet.wait_ready("a")
        await stage.fleet.kill("a", by=EPISODE, signal=signal.SIGTERM)
        assert await stage.fleet.start("a", by=EPISODE) == first


async def test_a_unit_that_may_end_is_done_with_code_0_alone(journal: JournalWriter) -> None:
    async with staged(journal, good={"command": "true"}, bad={"command": "false"}) as stage:
        for unit, cause in (("good", Cause.DONE), ("bad", Cause.CRASH)):
            stage.fleet.let_end(unit)
            await stage.fleet.start(unit, by="run")
            assert (await stage.heard(UnitExited, unit)).cause is cause


async def test_a_unit_goes_by_its_full_name_too(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE, b={**IDLE, "after": ["local/a"]}) as stage:
        departures = stage.fleet.departures("local/a")
        await stage.fleet.start_all()
        await stage.fleet.kill("local/a", by=EPISODE, signal=signal.SIGKILL)
        with departures, anyio.fail_after(PATIENCE):
            assert (await departures.receive()).unit == "a"
        await stage.fleet.start("local/a", by=EPISODE)
        await stage.heard(UnitStarted, "a", 2)
        assert [e.unit for e in stage.events if isinstance(e, UnitStarted)] == ["a", "b", "a"]


# --- departures ------------------------------------------------------------------------------------------------------


async def test_a_watchdog_that_was_away_gets_what_it_missed(journal: JournalWriter) -> None:
    async with staged(journal, a={"command": "true"}) as stage:
        stage.fleet.departures("a").close()
        for count in range(1, 4):
            await stage.fleet.start("a", by="run")
            await stage.heard(UnitExited, "a", count)
        with stage.fleet.departures("a") as departures, anyio.fail_after(PATIENCE):
            told = [(await departures.receive()).incarnation for _ in range(3)]
        assert told == [e.incarnation for e in stage.events if isinstance(e, UnitExited)]


async def test_departures_that_nobody_takes_are_bounded(journal: JournalWriter) -> None:
    async with staged(journal, a={"command": "true"}) as stage:
        with stage.fleet.departures("a") as departures:
            for count in range(1, KEPT + 3):
                await stage.fleet.start("a", by="run")
                await stage.heard(UnitExited, "a", count)
            exits = [e.incarnation for e in stage.events if isinstance(e, UnitExited)]
            assert departures.statistics().current_buffer_used == KEPT
            assert departures.receive_nowait().incarnation == exits[2]


# --- choosing, pausing, logs -----------------------------------------------------------------------------------------
