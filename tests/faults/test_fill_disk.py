"""fill_disk on real file systems of a few megabytes: what it takes, what it leaves, what it refuses, and that nothing stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from docker_client import Client
from docker_soak import IDLE, engine_of, new_name, soaking
from pydantic import ValidationError
from real_units import kind
from scripted_fault import PATIENCE, Open, Stage, until

from supervisor.faults import fill_disk
from supervisor.faults.recovery import undo_open
from supervisor.journal.events import DrawSkipped, EpisodeClosed, FaultFailed, FaultInjected, FaultIntent
from supervisor.journal.writer import JournalWriter
from supervisor.soakfile.discovery import discovered
from supervisor.soakfile.load import load
from supervisor.soakfile.plan import warnings

MB = 1_000_000
WRITER = """
import errno, os, time
path = os.environ["DISK"] + "/written"
while True:
    try:
        with open(path, "ab") as file:
            file.write(bytes(10_000))
    except OSError as error:
        print("cannot write:", errno.errorcode[error.errno], flush=True)
    time.sleep(0.02)
"""
Disk = Callable[..., Path]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount small file systems below the test's folder."""
    mounted: list[Path] = []

    def mount(name: str = "disk", kind: str = "tmpfs", size: int = 20 * MB) -> Path:
        place, image = tmp_path / name, tmp_path / f"{name}.img"
        place.mkdir()
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        else:
            image.write_bytes(b"")
            os.truncate(image, size)
            subprocess.run(["mke2fs", "-q", "-t", kind, str(image)], check=True, timeout=20)
            command = ["mount", "-o", "loop", str(image), str(place)]
        subprocess.run(command, check=True, timeout=20)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True, timeout=20)


def free(place: Path) -> int:
    seen = os.statvfs(place)
    return seen.f_bfree * seen.f_frsize


def ours(place: Path) -> list[Path]:
    return list(place.glob(".soakd-fill-*"))


@pytest.mark.parametrize("system", ["tmpfs", "ext4", "ext2"])
async def test_a_unit_finds_its_disk_full_and_then_not_any_more(
    stage: Stage, opened: Open, disk: Disk, tmp_path: Path, system: str
) -> None:
    place = disk(kind=system)
    stage.base, before = tmp_path, free(place)
    writer = {"command": [sys.executable, "-c", WRITER], "env": {"DISK": str(place)}}
    async with opened(n1=writer) as fleet:
        async with stage.running(a=kind(fill_disk="n1", path="disk", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            with anyio.fail_after(PATIENCE):
                while b"cannot write: ENOSPC" not in await fleet.logs("n1"):  # noqa: ASYNC110  # a log tells nobody
                    await anyio.sleep(0.02)
            assert free(place) < 2 * MB
            (file,) = ours(place)
            assert file.name.startswith(".soakd-fill-a-1-")
            assert await scheduler.finish(5) == ()
        assert not ours(place)
        size = (place / "written").stat().st_size
        await until(lambda: (place / "written").stat().st_size > size)
        assert free(place) > before - 2 * MB


@pytest.mark.parametrize(
    "case",
    [
        ({"leave": "5MB"}, 5 * MB, 5.5 * MB),
        ({"share": "50%"}, 9 * MB, 11 * MB),
        ({"size": "3MB"}, 16 * MB, 17 * MB),
        ({"size": "1GB", "leave": "2MB"}, 2 * MB, 2.5 * MB),
    ],
    ids=lambda case: str(case[0]),
)
async def test_no_more_than_that_is_taken_and_units_on_one_disk_share_it(
    stage: Stage, opened: Open, disk: Disk, tmp_path: Path, case: tuple[dict[str, str], int, int]
) -> None:
    place, stage.base, (keys, least, most) = disk(), tmp_path, case
    async with opened(n1="exec sleep 1000", n2="exec sleep 1000"):
        fault = kind(fill_disk=["n1", "n2"], path="disk", hold="1h", **keys)
        async with stage.running(a=fault) as scheduler:
            await stage.watch.until(FaultInjected)
            assert least <= free(place) <= most
            assert len(ours(place)) == 1
            assert await scheduler.finish(5) == ()
        assert not ours(place)


async def test_space_is_written_where_it_cannot_be_taken(
    stage: Stage, opened: Open, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(fill_disk, "CHUNK", 3 * MB)
    place, stage.base = disk(), tmp_path
    async with opened(n1="exec sleep 1000"):
        async with stage.running(a=kind(fill_disk="n1", path="disk", hold="1h", leave="4MB")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert 4 * MB <= free(place) < 5 * MB
            assert await scheduler.finish(5) == ()
        assert not ours(place)


async def test_the_journals_file_system_is_refused_before_the_run_and_in_it(
    stage: Stage, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    stage.base = tmp_path
    (tmp_path / "here").mkdir()
    file = tmp_path / "soak.yaml"
    file.write_text(
        "soak: x\nengines: {local: {process: {units: {n1: {command: sleep 1}}}}}\n"
        "faults:\n  full: {fill_disk: n1, path: here, hold: 1s, every: 1m}\n  odd: {fill_disk: n1, path: gone, hold: 1s, every: 1m}\n"
    )
    loaded = load(file, {})
    why = f"{tmp_path}/here is on the file system of the run directory, which would lose the journal; keep them on different ones"
    assert warnings(loaded, tmp_path / "not" / "yet" / "there") == [
        f"{file}:4:3: faults.full: cannot fill the disk of n1: {why}, with --run-dir or a volume of its own",
        f"{file}:5:3: faults.odd: cannot fill the disk of n1: {tmp_path}/gone is not a directory",
    ]
    assert len(warnings(loaded, disk())) == 1
    async with opened(n1="exec sleep 1000"):
        async with stage.running(a=kind(fill_disk="n1", path="here", hold="1s")):
            assert (
                "is on the file system of the run directory" in (await stage.watch.until(DrawSkipped)).reason
            )
        # And should it become that only after it was aimed at:
        place = disk("late")
        real, looks = fill_disk.same_space, list[Path]()

        def same(one: Path, other: Path) -> bool:
            looks.append(one)
            return len(looks) > 1 or real(one, other)

        monkeypatch.setattr(fill_disk, "same_space", same)
        async with stage.running(b=kind(fill_disk="n1", path="late", hold="1s")):
            failed = await stage.watch.until(FaultFailed)
            await stage.watch.until(EpisodeClosed)
        assert "which would lose the journal" in failed.error
        assert not ours(place)


async def test_a_dead_runs_file_is_found_by_its_intent_whatever_became_of_the_unit(
    stage: Stage, opened: Open, disk: Disk, tmp_path: Path
) -> None:
    place, stage.base = disk(), tmp_path
    fault = kind(fill_disk="n1", path="disk", hold="1h")
    async with opened(n1="exec sleep 1000"), stage.running(a=fault) as scheduler:
        intent = await stage.watch.until(FaultIntent)
        await stage.watch.until(FaultInjected)
        (file,) = ours(place)
        size = file.stat().st_size
        assert await scheduler.finish(5) == ()
    file.write_bytes(b"as if inject had just begun")
    other = place / ".soakd-fill-a-1-ffffffff"
    other.write_bytes(b"another run's")
    stage.fleet = None
    for _ in range(2):
        assert await undo_open({"a#1": intent}, {"a": fault}, stage.world, stage.journal) == [
            "a#1: undone (fill_disk of n1)"
        ]
    assert size > 15 * MB
    assert ours(place) == [other]


async def test_the_volume_of_a_container_is_filled(
    docker: Client, stage: Stage, journal: JournalWriter, disk: Disk, tmp_path: Path
) -> None:
    place, unit, bare, down = disk(), new_name(), new_name(), new_name()
    docker.create(
        down, IDLE, host={"Binds": [f"{place}:/data"]}
    )  # what the engine is to start has nothing mounted yet
    docker.create(unit, IDLE, host={"Binds": [f"{place}:/data"], "Tmpfs": {"/cache": ""}})
    docker.create(bare, IDLE)
    for name in (unit, bare):
        docker.start(name)
    file = tmp_path / "soak.yaml"
    file.write_text(
        f"soak: x\nengines: {{box: {{docker: {{names: [{unit}, {bare}, {down}], host: '{docker.url}'}}}}}}\nfaults:\n"
        + "".join(
            f"  f{n}: {{fill_disk: {name}, path: {path}, hold: 1s, every: 1m}}\n"
            for n, (name, path) in enumerate(
                [(unit, "/data/deep"), (unit, "/etc"), (bare, "/data"), (down, "/data"), (down, "/etc")]
            )
        )
    )
    said = [
        line.partition(": cannot fill the disk of ")[2]
        for line in warnings(await discovered(load(file, {})), tmp_path)
    ]
    assert said == [
        f"{unit}: /etc is on no volume of {unit}: there are /data",
        f"{bare}: /data is on no volume of {bare}: it has none",
        f"{down}: /etc is on no volume of {down}: there are /data",
    ]
    async with soaking(journal, engine_of(docker, unit, bare)) as soak:
        stage.fleet = soak.fleet
        async with stage.running(a=kind(fill_disk=unit, path="/data/deep", hold="1h")) as scheduler:
            await stage.watch.until(FaultInjected)
            assert free(place) < MB
            engine: Any = soak.fleet.place(unit)[0]
            command = ["sh", "-c", "dd if=/dev/zero of=/data/x bs=100000 count=20"]
            code, output = await engine.execute(unit, command, 60)
            assert (code, b"No space left" in output) == (1, True)
            assert await scheduler.finish(PATIENCE) == ()
        assert not ours(place)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected one of size or share, found both"):
        kind(fill_disk="a", path="x", size="1MB", share="10%", hold="1s")
