"""Watchdogs that are changed while their units run, as a soak file is that is read again."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from watched import IDLE, QUICK, Watch, Watched

from supervisor.journal.events import UnitCrashed, UnitExited, UnitGivenUp, UnitRestarted
from supervisor.supervision import Supervisor
from supervisor.watch.kept import Kept
from supervisor.watch.watchdog import Watchdog

CRASHING = ["sh", "-c", "exit 3"]


def dogs(**policies: dict[str, Any]) -> list[tuple[Watchdog, str]]:
    return [
        (Watchdog.model_validate({"units": [unit], "backoff": QUICK, **policy}), unit)
        for unit, policy in policies.items()
    ]


def kept(watched: Watched, *unwatched: str, **policies: dict[str, Any]) -> Kept:
    for unit in unwatched:
        watched.fleet.unwatch(unit)

    def give_up(reason: str) -> None:
        pytest.fail(reason)

    supervisor = Supervisor(watched.group, watched.journal, give_up)
    return Kept(dogs(**policies), watched.context, supervisor)


async def test_one_that_was_given_up_has_a_new_chance_under_another_policy(watch: Watch) -> None:
    async with watch({"a": CRASHING}, keep=False) as watched:
        one = kept(watched, a={"intensity": "2 / 1h"})
        await watched.see(UnitGivenUp)
        count = len(watched.all(UnitCrashed))
        one.adopt(dogs(a={"intensity": None, "log_tail": 7}))
        await watched.see(UnitCrashed, count + 3)
        assert len(watched.all(UnitGivenUp)) == 1
        assert "from now on: permanent, intensity off" in await watched.mon("a", "from now on")


async def test_what_stays_as_it_is_is_not_touched(watch: Watch) -> None:
    async with watch({"a": IDLE}, keep=False) as watched:
        one = kept(watched, a={})
        one.adopt(dogs(a={}))
        watched.kill("a")
        await watched.see(UnitRestarted)
        assert "from now on" not in await watched.mon("a", "restarted")


async def test_a_unit_that_nobody_watches_any_more_stays_down(watch: Watch) -> None:
    async with watch({"a": IDLE, "b": IDLE}, keep=False) as watched:
        one = kept(watched, "b", a={})
        await watched.mon("a", "watching")
        one.adopt(dogs(b={}, elsewhere={}))
        await watched.mon("a", "dismissed")
        assert (watched.fleet.is_watched("a"), watched.fleet.is_watched("b")) == (False, True)
        watched.kill("a", "b")
        await watched.see(UnitRestarted, unit="b")
        await watched.see(UnitExited, unit="a")
        assert not watched.up("a")
        one.adopt(dogs(a={}, b={}))
        (back,) = await watched.see(UnitRestarted, unit="a")
        assert back.attempt == 1, "who begins to watch brings up what is down"


async def test_one_that_may_end_and_then_must_not(watch: Watch) -> None:
    async with watch({"a": IDLE}, keep=False) as watched:
        one = kept(watched, a={"restart": "temporary"})
        watched.kill("a")
        await watched.mon("a", "left down")
        one.adopt(dogs(a={}))
        await watched.see(UnitRestarted)
        await watched.until(lambda: watched.up("a"))


async def test_a_watchdog_is_changed_at_any_moment_of_a_crash_and_loses_none(watch: Watch) -> None:
    async with watch({"a": IDLE}, keep=False) as watched:
        one = kept(watched, a={})
        for number in range(1, 6):
            watched.kill("a")
            await anyio.sleep(0.002 * number)
            one.adopt(dogs(a={"log_tail": number}))
            await watched.see(UnitCrashed, number)
            await watched.see(UnitRestarted, number)
            await watched.until(lambda: watched.up("a"))
        assert len(watched.all(UnitRestarted)) == 5, "each is restarted once"
