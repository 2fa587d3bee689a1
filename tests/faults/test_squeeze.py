"""cpu_squeeze and memory_squeeze, on local processes in control groups and on containers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from docker_client import Client
from docker_soak import IDLE, engine_of, new_name, soaking
from pydantic import ValidationError
from real_units import kind
from scripted_fault import PATIENCE, Open, Stage, cut, free_and_up, until

from supervisor.engines.base import EngineContext, EngineError
from supervisor.engines.capabilities import CanLimit
from supervisor.engines.cgroups import Group, find, remove_all
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.journal.events import (
    DrawSkipped,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultUndone,
    UndoFailed,
    UnitExited,
)
from supervisor.journal.writer import JournalWriter

BUSY = "while :; do :; done"
GROWS = """
import os, time
print("up", flush=True)
while not os.path.exists(os.environ["SOAKD_UNIT_DIR"] + "/grow"):
    time.sleep(0.02)
held = [bytearray(1_000_000) for _ in range(200)]
print("grown", flush=True)
time.sleep(1000)
"""


def can_group() -> bool:
    try:
        find()
    except EngineError:
        return False
    return True


needs_groups = pytest.mark.skipif(not can_group(), reason="no control group may be made here")


async def limits(fleet: Fleet, unit: str) -> dict[str, int]:
    engine, name = fleet.place(unit)
    assert isinstance(engine, CanLimit)
    return dict(await engine.limits(name))


def group_of(fleet: Fleet, unit: str) -> dict[str, Path]:
    return fleet.place(unit)[0]._units[unit].group._paths  # type: ignore[attr-defined, no-any-return]


# --- local processes -----------------------------------------------------------------------------------------------------


@needs_groups
async def test_a_squeezed_process_is_throttled_also_in_its_next_life(stage: Stage, opened: Open) -> None:
    async with opened(cgroups=True, n1=BUSY, n2=BUSY) as fleet:
        before, paths = await limits(fleet, "n1"), group_of(fleet, "n1")

        def throttled() -> int:
            lines = (paths["cpu"] / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["nr_throttled"])

        async with stage.running(a=kind(cpu_squeeze="n1", cpus=0.05, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            await until(throttled)
            assert await limits(fleet, "n2") == before
            await fleet.kill("n1", by="operator", signal=9)
            await fleet.start("n1", by="operator")
            seen = throttled()
            await until(lambda: throttled() > seen)
            pid = fleet.status("n1").observed.pid
            assert str(pid) in (paths["cpu"] / "cgroup.procs").read_text().split()
            assert await scheduler.finish(5) == ()
        assert await limits(fleet, "n1") == before
        assert free_and_up(fleet)
    assert not any(path.parent.exists() for path in paths.values())
    assert stage.watch.all(EpisodeClosed)[0].truncated == ""


@needs_groups
async def test_a_process_that_grows_beyond_its_memory_is_killed_and_that_is_told(
    stage: Stage, opened: Open
) -> None:
    unit = {"command": [sys.executable, "-c", GROWS], "ready": {"log": "up"}}
    async with opened(cgroups=True, n1=unit) as fleet:
        before = await limits(fleet, "n1")
        async with stage.running(a=kind(memory_squeeze="n1", memory="40MB", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            (stage.journal.run_dir / "units" / "n1" / "grow").touch()
            gone = await stage.watch.until(UnitExited)
            assert (gone.signal, gone.oom) == ("SIGKILL", True)
            assert await scheduler.finish(5) == ()
        assert await limits(fleet, "n1") == before
    assert stage.watch.all(FaultUndone)


@needs_groups
async def test_less_memory_than_is_in_use_is_refused_or_kills(stage: Stage, opened: Open) -> None:
    """Version 1 of control groups refuses, version 2 kills: in both cases it is told, and nothing stays."""
    holds = f"{GROWS.replace('while not', 'while False and not')}"
    unit = {"command": [sys.executable, "-c", holds], "ready": {"log": "grown"}}
    async with opened(cgroups=True, n1=unit) as fleet:
        before = await limits(fleet, "n1")
        async with stage.running(a=kind(memory_squeeze="n1", memory="40MB", hold="1s")):
            if find().version == 1:
                failed = await stage.watch.until(FaultFailed)
                assert "it uses more, and the kernel cannot take so much back" in failed.error
            else:
                assert (await stage.watch.until(UnitExited)).oom
            await stage.watch.until(EpisodeClosed)
        assert await limits(fleet, "n1") == before


@needs_groups
async def test_what_somebody_else_has_set_meanwhile_stays(stage: Stage, opened: Open) -> None:
    async with opened(cgroups=True, n1=BUSY) as fleet:
        async with stage.running(a=kind(cpu_squeeze="n1", cpus=0.5, hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            engine, name = fleet.place("n1")
            assert isinstance(engine, CanLimit)
            await engine.limit(name, {"CpuQuota": 70_000, "CpuPeriod": 100_000})
            assert await scheduler.finish(5) == ()
        assert (await limits(fleet, "n1"))["CpuQuota"] == 70_000
        async with stage.running(b=kind(cpu_squeeze="n1", cpus=0.8, hold="1s")):
            skipped = await stage.watch.until(DrawSkipped)
    assert skipped.reason == "n1 has no more than 0.7 processors as it is"


@needs_groups
async def test_the_groups_of_a_dead_run_are_removed(journal: JournalWriter, tmp_path: Path) -> None:
    run, group = new_name("run"), Group(find(), name := new_name("run"), "n1")
    group.make()
    engine = ProcessEngine.model_validate({"process": {"cgroups": True, "units": {"n1": {"command": "x"}}}})
    for one in (name, run):
        await engine.recover(EngineContext("local", one, tmp_path, tmp_path, journal))
    assert not any(path.exists() for path in group._paths.values())
    assert remove_all(name) == 0


async def test_processes_without_control_groups_cannot_be_squeezed(stage: Stage, opened: Open) -> None:
    async with (
        opened(n1=BUSY) as fleet,
        stage.running(a=kind(cpu_squeeze="n1", cpus=0.5, hold="1s")),
    ):
        skipped = await stage.watch.until(DrawSkipped)
        with pytest.raises(EngineError, match="set cgroups: true"):
            await limits(fleet, "n1")
    assert "set cgroups: true at its engine" in skipped.reason


@pytest.mark.parametrize(
    ("place", "parent"),
    [
        ("/user.slice/session.scope", "user.slice"),  # a scope has processes, so its parent is divided
        ("/a/b/c", "."),
        ("/", "."),
    ],
)
def test_in_version_2_the_nearest_group_that_is_divided_has_ours(
    tmp_path: Path, place: str, parent: str
) -> None:
    proc, root = tmp_path / "proc", tmp_path / "fs"
    proc.mkdir()
    (proc / "cgroup").write_text(f"0::{place}\n")
    (proc / "mountinfo").write_text(f"24 1 0:22 / {root} rw - cgroup2 cgroup2 rw\n")
    (root / "user.slice" / "session.scope").mkdir(parents=True)
    for path, controllers in (
        (root, "cpu io memory"),
        (root / "user.slice", "cpu memory"),
        (root / "user.slice" / "session.scope", ""),
    ):
        (path / "cgroup.subtree_control").write_text(controllers)
    found = find(proc=proc)
    assert found.version == 2
    assert set(found.parents.values()) == {root / parent}
    group = Group(found, "run-1", "n1")
    group.make()
    (folder,) = set(group._paths.values())
    assert folder == root / parent / "soakd-run-1" / "n1"
    assert (folder.parent / "cgroup.subtree_control").read_text() == "+cpu +memory"
    for file, text in {"cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max"}.items():
        (folder / file).write_text(f"{text}\n")
    before = group.limits()
    assert before == {"CpuQuota": -1, "CpuPeriod": 100_000, "Memory": -1, "Swap": -1}
    group.limit(group.tightened(cpus=0.25))
    group.limit(group.tightened(memory=64 * 2**20 + 1))
    assert (folder / "cpu.max").read_text() == "25000 100000"
    assert (folder / "memory.max").read_text() == str(64 * 2**20)
    assert (folder / "memory.swap.max").read_text() == "0"
    group.limit(before)
    assert group.limits() == before


def test_no_place_for_groups_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"24 1 0:22 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    with pytest.raises(EngineError, match="run soakd as root, or drop cgroups: true"):
        find(proc=tmp_path)


# --- containers ----------------------------------------------------------------------------------------------------------


def in_kernel(pid: int) -> int:
    """The memory limit of a process, as the kernel has it."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if "memory" in names.split(","):
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
    text = Path(f"/sys/fs/cgroup{path}/memory.max").read_text().strip()
    return 2**63 if text == "max" else int(text)


@pytest.mark.parametrize(
    "host", [{}, {"NanoCpus": 1_500_000_000, "Memory": 100_000_000}], ids=["unlimited", "limited"]
)
async def test_a_container_is_squeezed_and_given_back_what_it_had(
    docker: Client, stage: Stage, journal: JournalWriter, host: dict[str, int]
) -> None:
    unit = new_name()
    docker.create(unit, IDLE, host=host)
    docker.start(unit)
    async with soaking(journal, engine_of(docker, unit)) as soak:
        stage.fleet = soak.fleet
        before = await limits(soak.fleet, unit)
        async with stage.running(
            cpu=kind(cpu_squeeze=unit, cpus=0.1, hold="1h"),
            memory=kind(memory_squeeze=unit, memory="20MB", hold="200ms"),
        ) as scheduler:
            await stage.watch.until(FaultInjected, episode="cpu#1")  # the other one may come first
            squeezed = await limits(soak.fleet, unit)
            cut(scheduler, "cpu")
            await stage.watch.until(EpisodeClosed, 2)
        assert not stage.watch.all(UndoFailed)
        assert squeezed.get("NanoCpus", squeezed.get("CpuQuota")) == (100_000_000 if host else 10_000)
        assert await limits(soak.fleet, unit) == before
        if not host:
            assert in_kernel(docker.inspect(unit)["State"]["Pid"]) >= 2**62
        await soak.fleet.stop(unit, by="operator", timeout=1)
        await soak.fleet.start(unit, by="operator")  # the engine starts it with what was given back
        assert len(stage.watch.all(FaultInjected)) == len(stage.watch.all(FaultUndone)) == 2
        assert [one.truncated for one in stage.watch.all(EpisodeClosed)] == ["", ""]
        if not host:
            async with stage.running(anew=kind(cpu_squeeze=unit, cpus=0.1, hold="1h")) as scheduler:
                await stage.watch.until(FaultInjected, episode="anew#1")
                life = soak.fleet.status(unit).observed.incarnation
                docker.remove(unit)
                docker.create(unit, IDLE)
                docker.start(unit)
                await until(lambda: soak.fleet.status(unit).observed.incarnation not in {None, life})
                assert await scheduler.finish(PATIENCE) == ()
            closed = await stage.watch.until(EpisodeClosed, episode="anew#1")
            assert closed.truncated == f"{unit} was up when inject ended and was replaced before undo"
            assert await limits(soak.fleet, unit) == before
    assert not stage.watch.all(FaultFailed)


def test_what_is_too_little_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected 6MiB or more"):
        kind(memory_squeeze="a", memory="1MB", hold="1s")
    with pytest.raises(ValidationError, match="greater than or equal to"):
        kind(cpu_squeeze="a", cpus=0.001, hold="1s")
