"""The engine ends, hangs or cannot be reached while containers crash; the table in docs/architecture.md lists all of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest
from docker_engine import PrivateEngine
from docker_soak import end, engine_of, new_name, running, soaking

from supervisor.engines.base import EngineError
from supervisor.journal.events import (
    UnitCrashed,
    UnitExited,
    UnitRestarted,
    UnitStarted,
    UnitStartFailed,
)
from supervisor.journal.writer import JournalWriter

WARM, ROUNDS = 3, 5


def hide(engine: PrivateEngine, *, hidden: bool) -> None:
    """Take the engine's socket away, or put it back."""
    here, away = Path(engine.path), Path(f"{engine.path}.away")
    (here if hidden else away).rename(away if hidden else here)


async def test_the_engine_is_killed_while_a_container_crashes(
    private: PrivateEngine, journal: JournalWriter
) -> None:
    calm, unit = new_name("calm"), new_name()
    running(private, calm, unit)
    async with soaking(journal, engine_of(private, calm, unit)) as soak:
        pid = private.inspect(unit)["State"]["Pid"]
        private.down(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        private.up()
        crash = await soak.crashed(unit)
        assert crash.signal == "SIGKILL"
        assert crash.captured
        # An engine that finds containers running when it starts ends them, unless it was told to live-restore.
        await soak.until(lambda: soak.of(UnitRestarted, calm))
        assert len(soak.of(UnitExited)) == 2


async def test_containers_that_outlive_their_engine(private: PrivateEngine, journal: JournalWriter) -> None:
    """With `live-restore` nobody ends with dockerd: who lives on is left alone, who crashes meanwhile is on record once."""
    calm, unit = new_name("calm"), new_name()
    running(private, calm, unit)
    with private.live_restore():
        async with soaking(journal, engine_of(private, calm, unit)) as soak:
            before, pid = soak.fleet.status(calm).observed, private.inspect(unit)["State"]["Pid"]
            private.down(signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            private.up()
            crash = await soak.crashed(unit)
            assert crash.facts["seen"] == "while the engine was away"
            assert soak.last_words(crash) == ["up"]
            end(private, unit)
            await soak.crashed(unit, 2)
            assert {gone.unit for gone in soak.of(UnitExited)} == {unit}
            assert soak.fleet.status(calm).observed == before


async def test_the_engine_is_restarted_in_order(private: PrivateEngine, journal: JournalWriter) -> None:
    """It ends its containers when it ends; the watchdogs bring them back, and the one that crashes just then."""
    names, adopted, halted = [new_name() for _ in range(3)], new_name("adopted"), new_name("halted")
    running(private, *names)
    running(private, adopted, halted, host={"RestartPolicy": {"Name": "unless-stopped"}})
    async with soaking(journal, engine_of(private, *names, adopted, halted, own_policy="adopt")) as soak:
        private.call("POST", f"containers/{halted}/kill")
        await soak.until(lambda: soak.of(UnitExited, halted))
        pid = private.inspect(names[0])["State"]["Pid"]
        private.freeze(frozen=True)
        os.kill(pid, signal.SIGKILL)  # it hears of that and of its own end at once
        await anyio.to_thread.run_sync(private.down)
        private.up()
        for name in names:
            await soak.until(lambda name=name: soak.of(UnitRestarted, name))
            assert len(soak.of(UnitExited, name)) == 1
        await soak.until(lambda: len(soak.of(UnitStarted, adopted)) > 1)
        assert {private.state(name) for name in (*names, adopted)} == {"running"}
        assert soak.fleet.status(halted).holder == "outside"
    assert private.state(halted) == "exited", "a person has stopped it just before that"


async def test_the_engine_hangs_during_a_crash(private: PrivateEngine, journal: JournalWriter) -> None:
    unit = new_name()
    running(private, unit)
    async with soaking(journal, engine_of(private, unit)) as soak:
        pid = private.inspect(unit)["State"]["Pid"]
        private.freeze(frozen=True)
        try:
            os.kill(pid, signal.SIGKILL)
            with (
                soak.hurried(unit, 0.5),
                pytest.raises(EngineError, match=r"did not answer within 0\.5 s"),
            ):
                await soak.fleet.logs(unit, last=1)
        finally:
            private.freeze(frozen=False)
        await soak.until(lambda: soak.of(UnitRestarted, unit))
        assert len(soak.of(UnitCrashed, unit)) == 1


async def test_the_socket_vanishes_during_a_crash(private: PrivateEngine, journal: JournalWriter) -> None:
    unit = new_name()
    running(private, unit)
    async with soaking(journal, engine_of(private, unit)) as soak:
        pid = private.inspect(unit)["State"]["Pid"]
        hide(private, hidden=True)
        os.kill(pid, signal.SIGKILL)
        await soak.until(lambda: soak.of(UnitCrashed, unit))  # without its log, which nobody can read now
        hide(private, hidden=False)
        await soak.crashed(unit)
        assert not soak.of(UnitStartFailed)
