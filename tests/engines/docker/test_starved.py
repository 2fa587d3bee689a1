"""Ends for want of memory: who was killed for it, who was not, and who is kept waiting to find that out."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from docker_client import Client
from docker_engine import PrivateEngine
from docker_soak import IDLE, end, engine_of, new_name, running, soaking

from supervisor.engines.dockerd import kernel, life, taker, tracker, units
from supervisor.engines.dockerd.names import Which
from supervisor.engines.dockerd.news import Manner
from supervisor.engines.dockerd.tracker import Tracker
from supervisor.journal.writer import JournalWriter


async def test_out_of_memory(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    eat = f"if test -e /tmp/again; then {IDLE}; fi; touch /tmp/again; sleep 1; exec dd if=/dev/zero of=/dev/null bs=200000000 count=9"
    # Of a process that is out of memory before Docker watches it, Docker never tells, and its kernel's count cannot be tied to it.
    docker.create(unit, eat, init=False, host={"Memory": 20_000_000, "MemorySwap": 20_000_000})
    async with soaking(journal, engine_of(docker, unit, start=True, stop_timeout="1s")) as soak:
        crash = await soak.crashed(unit)
        assert crash.oom
        assert "out of memory: yes" in soak.crash_file(crash)


def test_the_kernels_log_tells_of_one_container_and_one_life(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others, times = "c" * 64, "d" * 64, {1: 10, 2: 100, 3: 101}
    text = "6,{},{},-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/docker,task_memcg=/docker/{},task=dd,pid=7\n"
    records = [text.format(n, at * 1_000_000, ours if n < 3 else others).encode() for n, at in times.items()]
    records.append(f"6,4,102000000,-;program[7]: oom-kill:task_memcg={ours}\n".encode())
    monkeypatch.setattr(kernel, "_records", lambda: iter(records))
    assert kernel.oom_record(ours, 90.0) == 2
    assert kernel.oom_record(ours, 100.0 + kernel.SKEW + 1) == 0
    assert kernel.oom_record("e" * 64, 0.0) == 0


async def test_a_unit_with_a_limit_is_not_kept_waiting_if_nobody_was_out_of_memory(
    private: PrivateEngine, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may tell of it after the end, but the kernel has counted it before."""
    monkeypatch.setattr(taker, "STARVED", 1000.0)
    for module in (life, tracker, units):  # others may be killed on this machine meanwhile
        monkeypatch.setattr(module, "oom_kills", lambda: 7)
    unit = new_name()
    running(private, unit, host={"Memory": 20_000_000, "MemorySwap": 20_000_000})
    async with soaking(journal, engine_of(private, unit)) as soak:
        for times in (1, 2):
            end(private, unit)
            crash = await soak.crashed(unit, times)
            assert (crash.signal, crash.oom) == ("SIGKILL", False)


async def test_a_unit_that_is_killed_after_another_was_out_of_memory_was_not(
    private: PrivateEngine, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's count is of all that runs on the machine: it says that an end may be one of these, never that it is."""
    monkeypatch.setattr(taker, "STARVED", 0.05)
    counted = 7
    for module in (life, tracker, units):
        monkeypatch.setattr(module, "oom_kills", lambda: counted)
    unit = new_name()
    running(private, unit, host={"Memory": 20_000_000, "MemorySwap": 20_000_000})
    async with soaking(journal, engine_of(private, unit)) as soak:
        counted += 1
        end(private, unit)
        crash = await soak.crashed(unit)
        assert (crash.signal, crash.oom) == ("SIGKILL", False)
        assert "out of memory: yes" not in soak.crash_file(crash)


async def test_who_outlives_the_end_of_another_is_not_kept_waiting_for_it(
    private: PrivateEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what had been counted one look ago it has not died."""
    counted, unit = 7, new_name()
    for module in (life, tracker):
        monkeypatch.setattr(module, "oom_kills", lambda: counted)
    running(private, unit, host={"Memory": 20_000_000, "MemorySwap": 20_000_000})

    async def recreated(*_: object) -> None:
        raise AssertionError

    async with engine_of(private, unit).docker.connect(tmp_path) as api, anyio.create_task_group() as group:
        all_units = Tracker(api, Which(names=(unit,)), Manner(True, False), group, recreated)
        await all_units.enlist((unit,))
        assert not await all_units.units[unit].may_have_starved(137)
        counted += 1
        for may_be in (True, False):
            assert await all_units.units[unit].may_have_starved(137)
            await all_units.recheck()
            assert await all_units.units[unit].may_have_starved(137) is may_be
        all_units.close()
