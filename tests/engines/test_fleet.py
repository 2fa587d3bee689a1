"""The fleet over real processes; every interleaving of it stands in test_fleet_interleavings.py."""

from __future__ import annotations

import signal
import sys
from typing import Any

import anyio
import pytest
from fleets import EPISODE, IDLE, rng, staged
from harness import PATIENCE

from supervisor.engines import lives
from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.fleet import Desired, Held, Protected
from supervisor.engines.selectors import Selector
from supervisor.journal.events import (
    Cause,
    UnitExited,
    UnitReady,
    UnitStarted,
    UnitStartFailed,
)
from supervisor.journal.writer import JournalWriter


async def test_units_start_in_order_and_stop_the_other_way_round(journal: JournalWriter) -> None:
    slow = (
        "import pathlib, sys, time; time.sleep(0.1); me, other = map(pathlib.Path, sys.argv[1:]); me.touch()\n"
        "while not other.exists(): time.sleep(0.005)\n"  # these start together
        "print('ready', flush=True); time.sleep(1000)"
    )
    db, cache = (str(journal.run_dir / name) for name in ("db", "cache"))
    units = {
        "app": {**IDLE, "after": ["db", "cache"]},
        "db": {"command": [sys.executable, "-c", slow, db, cache], "ready": {"log": "ready"}},
        "cache": {"command": [sys.executable, "-c", slow, cache, db], "ready": {"log": "ready"}},
        "free": IDLE,
    }
    async with staged(journal, **units) as stage:
        assert stage.fleet.ids == ("app", "db", "cache", "free")
        assert stage.fleet.status("app").observed.state is UnitState.ABSENT
        await stage.fleet.start_all()
        await stage.heard(UnitReady, "app")
        told = [(type(e), e.unit) for e in stage.events if isinstance(e, UnitStarted | UnitReady)]
        app = told.index((UnitStarted, "app"))
        assert {told.index((UnitReady, unit)) < app for unit in ("db", "cache")} == {True}
        assert told.index((UnitStarted, "db")) < told.index((UnitReady, "cache"))
        assert (await stage.heard(UnitReady, "db")).took > 0.1
        await stage.fleet.wait_ready("db")
        await stage.fleet.start("free", by="run")
        await journal.commit(UnitReady(unit="none", incarnation="x", took=0))
        assert len([e for e in stage.events if isinstance(e, UnitReady) and e.unit == "db"]) == 1, "told once"

        await stage.fleet.stop_all()
        await stage.heard(UnitExited, "db")
        await stage.heard(UnitExited, "cache")
        exits = [e for e in stage.events if isinstance(e, UnitExited)]
        assert [e.unit for e in exits].index("app") < 2
        assert {(e.cause, e.by) for e in exits} == {(Cause.RUN, "run")}
        for unit in units:
            assert stage.fleet.status(unit).observed.state is UnitState.DOWN
            with pytest.raises(Held, match="down by run"):
                await stage.fleet.start(unit, by="watchdog")


async def test_what_a_fault_or_somebody_starts_is_seen_to_become_ready(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it, and its check's time is up before it is ready: yet it does not pass as starting for ever."""
    monkeypatch.setattr(lives, "AGAIN", 0.05)
    slow = [sys.executable, "-uc", "import time; time.sleep(0.6); print('ready'); time.sleep(1000)"]
    units = {
        "slow": {"command": slow, "ready": {"log": "ready", "timeout": "200ms"}},
        "plain": IDLE,
        "short": {"command": "true", "ready": {"log": "never"}},
    }
    async with staged(journal, **units) as stage:
        for unit in units:
            await stage.fleet.start(unit, by=EPISODE)
        started = await stage.heard(UnitStarted, "slow")
        assert (await stage.heard(UnitReady, "plain")).unit == "plain"
        ready = await stage.heard(UnitReady, "slow")
        assert (ready.incarnation, started.by) == (started.incarnation, EPISODE)
        await stage.heard(UnitExited, "short")
        await stage.fleet.kill("slow", by=EPISODE, signal=signal.SIGKILL)
        await stage.heard(UnitExited, "slow")
        await stage.fleet.start("slow", by=EPISODE)
        again = await stage.heard(UnitReady, "slow", 2)
        assert again.incarnation != ready.incarnation
        await stage.fleet.stop_all()


async def test_the_first_failure_ends_the_start_and_shows_the_log(journal: JournalWriter) -> None:
    broken = {"command": ["sh", "-c", "echo no database; exit 3"], "ready": {"port": 1}}
    async with staged(journal, a=IDLE, broken=broken, never={**IDLE, "after": ["broken"]}) as stage:
        with pytest.raises(EngineError, match=r"(?s)broken.*code 3.*no database"):
            await stage.fleet.start_all()
        assert not any(isinstance(e, UnitStarted) and e.unit == "never" for e in stage.events)
        await stage.fleet.stop_all()


async def test_a_start_that_fails_is_journalled(journal: JournalWriter) -> None:
    async with staged(journal, a={"command": "no-such-program"}) as stage:
        with pytest.raises(EngineError, match="no-such-program was not found"):
            await stage.fleet.start_all()
        failed = await stage.heard(UnitStartFailed, "a")
        assert (failed.by, "no-such-program" in failed.error) == ("run", True)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"a": ["b"], "b": ["a"]}, "break the circle of `after`"),
        ({"a": ["c"], "b": []}, "cannot start a after c: there is no such unit"),
    ],
)
async def test_an_order_that_cannot_be(journal: JournalWriter, after: dict[str, Any], message: str) -> None:
    async with staged(
        journal, **{unit: {**IDLE, "after": others} for unit, others in after.items()}
    ) as stage:
        with pytest.raises(EngineError, match=message):
            await stage.fleet.start_all()


async def test_what_was_up_before_the_run_is_left_up(journal: JournalWriter) -> None:
    async with staged(journal, ours=IDLE, theirs=IDLE) as stage:
        await stage.fleet.start("theirs", by="operator")
        await stage.fleet.start_all()
        await stage.fleet.stop_all()
        assert stage.fleet.status("ours").observed.state is UnitState.DOWN
        assert stage.fleet.status("theirs").observed.state is UnitState.UP


# --- holds -----------------------------------------------------------------------------------------------------------


async def test_a_hold_keeps_everybody_else_off(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE) as stage:
        fleet = stage.fleet
        await fleet.start("a", by="run")
        await fleet.hold("a", by=EPISODE, desired=Desired.DOWN)
        assert (fleet.status("a").desired, fleet.status("a").holder) == (Desired.DOWN, EPISODE)
        for act in (
            lambda: fleet.hold("a", by="other#1", desired=Desired.DOWN),
            lambda: fleet.start("a", by="watchdog"),
            lambda: fleet.stop("a", by="operator"),
            lambda: fleet.kill("a", by="other#1", signal=signal.SIGKILL),
            lambda: fleet.pause("a", by="other#1"),
        ):
            with pytest.raises(Held, match=f"a is held down by {EPISODE}"):
                await act()
        await fleet.release("a", by="other#1")
        assert fleet.status("a").holder == EPISODE, "who does not hold it cannot release it"
        await fleet.hold("a", by=EPISODE, desired=Desired.PAUSED)
        for _ in range(2):
            await fleet.release("a", by=EPISODE)
            assert (fleet.status("a").desired, fleet.status("a").holder) == (Desired.UP, None)


async def test_wait_free(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE) as stage:
        await stage.fleet.wait_free("a")
        await stage.fleet.hold("a", by=EPISODE, desired=Desired.DOWN)
        freed = anyio.Event()

        async def wait() -> None:
            await stage.fleet.wait_free("a")
            freed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await stage.fleet.hold("a", by=EPISODE, desired=Desired.UP)
            await anyio.wait_all_tasks_blocked()
            assert not freed.is_set()
            await stage.fleet.release("a", by=EPISODE)
            with anyio.fail_after(PATIENCE):
                await freed.wait()


async def test_a_protected_unit_is_no_target(journal: JournalWriter) -> None:
    labels = {"labels": {"tier": "x", "soakd.protect": "true"}}
    async with staged(journal, a={**IDLE, **labels}, b={**IDLE, "labels": {"tier": "x"}}) as stage:
        fleet = stage.fleet
        for act in (
            lambda: fleet.hold("a", by=EPISODE, desired=Desired.DOWN),
            lambda: fleet.stop("a", by=EPISODE),
            lambda: fleet.kill("a", by=EPISODE, signal=signal.SIGKILL),
            lambda: fleet.pause("a", by=EPISODE),
            lambda: fleet.resolve(Selector(of=("b", "a")), rng(), targets=True),
        ):
            with pytest.raises(Protected, match=r"a has the label soakd\.protect=true; take it out"):
                await act()
        assert await fleet.resolve(Selector(label="tier=x"), rng(), targets=True) == ("b",)
        assert await fleet.resolve(Selector(label="tier=x"), rng()) == ("a", "b")
        await fleet.start("a", by="watchdog")
        await fleet.stop("a", by="operator")


async def test_a_unit_is_found_by_its_engine_and_name_too(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE, b=IDLE) as stage:
        found = await stage.fleet.resolve(Selector(of=("local/b", "a")), rng())
        assert found == ("b", "a")
        with pytest.raises(EngineError, match="cannot find the unit other/b"):
            await stage.fleet.resolve(Selector(of=("other/b",)), rng())


async def test_resolve(journal: JournalWriter) -> None:
    async def leader(stream: str) -> str | None:
        return {"ORDERS": "b"}.get(stream)

    async with staged(journal, leader, a=IDLE, b={**IDLE, "labels": {"tier": "x"}}) as stage:
        resolve = stage.fleet.resolve
        assert await resolve(Selector(of=("b", "a")), rng()) == ("b", "a")
        assert await resolve(Selector(label="tier=x"), rng()) == ("b",)
        assert await resolve(Selector(leader_of="ORDERS"), rng()) == ("b",)
        for selector, message in (
            (Selector(of=("aa",)), "cannot find the unit aa: did you mean a?"),
            (Selector(of=("zzz",)), "cannot find the unit zzz: there are a, b"),
            (Selector(label="tier=y"), "no unit fits"),
            (Selector.model_validate({"label": "tier=x", "pick": 2}), "cannot pick 2 of 1 unit"),
            (Selector(leader_of="OTHER"), "cannot choose the leader of OTHER"),
        ):
            with pytest.raises(EngineError, match=message):
                await resolve(selector, rng())


async def test_pause_and_resume(journal: JournalWriter) -> None:
    async with staged(journal, a=IDLE) as stage:
        up = await stage.fleet.start("a", by="run")
        await stage.fleet.pause("a", by=EPISODE)
        assert stage.fleet.status("a").observed.state is UnitState.PAUSED
        assert (await stage.fleet.start("a", by="watchdog")).incarnation == up.incarnation
        await stage.fleet.resume("a", by=EPISODE)
        assert stage.fleet.status("a").observed.state is UnitState.UP


async def test_logs(journal: JournalWriter) -> None:
    async with staged(journal, a={"command": "echo hello"}) as stage:
        await stage.fleet.start("a", by="run")
        await stage.heard(UnitExited, "a")
        assert await stage.fleet.logs("a", last=5) == b"hello\n"
