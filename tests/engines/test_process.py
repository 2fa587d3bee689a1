"""What only local processes do: groups, descriptors, files, floods."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from harness import PATIENCE
from processes import RUN, engine, lives, opened, python, shell, until

from supervisor.engines import local_unit, spawn
from supervisor.engines.base import EngineError
from supervisor.journal.writer import JournalWriter


def descriptors() -> int:
    """Count the kinds of descriptor that a spawn makes."""
    kinds = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            kinds += str(entry.readlink()).startswith(("pipe:", "anon_inode:[pidfd]", "/dev/null"))
    return kinds


# --- groups ----------------------------------------------------------------------------------------------------------


async def test_children_end_with_their_unit(journal: JournalWriter) -> None:
    async with opened(journal, a=shell("sleep 1000 & sleep 1000 & echo $!; exit 0")) as bench:
        await bench.units.start("a")
        assert (await bench.exit()).code == 0
        child = int(await bench.units.logs("a", last=1))
        await until(lambda: not lives(child))


async def test_a_child_that_left_the_group_delays_no_exit_and_ends_with_the_engine(
    journal: JournalWriter,
) -> None:
    daemonize = (
        "import os, subprocess; print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)"
    )
    async with opened(journal, a=python(daemonize)) as bench:
        await bench.units.start("a")
        with anyio.fail_after(PATIENCE):
            await bench.exit()  # although the child keeps the pipe open
        child = int(await bench.units.logs("a", last=1))
        assert lives(child)
    await until(lambda: not lives(child))


async def test_no_zombies(journal: JournalWriter) -> None:
    async with opened(journal, a=shell("exit 0")) as bench:
        for _ in range(20):
            await bench.units.start("a")
            await bench.exit()
        ours = psutil.Process().children()
        assert [child for child in ours if child.status() == psutil.STATUS_ZOMBIE] == []


async def test_a_unit_leads_a_group_of_its_own_and_reads_nothing(journal: JournalWriter) -> None:
    async with opened(journal, a={"command": "sleep 1000"}, b={"command": "cat"}) as bench:
        up = await bench.units.start("a")
        assert up.pid
        assert os.getpgid(up.pid) == up.pid != os.getpgrp()
        await bench.units.start("b")
        assert (await bench.exit()).code == 0


async def test_no_descriptor_goes_where_it_does_not_belong(journal: JournalWriter) -> None:
    look = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)))"
    own, other = os.pipe()
    os.set_inheritable(own, True)
    async with opened(journal, a=python(look), b={"command": "sleep 1000"}) as bench:
        await bench.units.start("b")
        await bench.units.start("a")
        await bench.exit()
        assert await bench.units.logs("a", last=1) == b"[0, 1, 2]\n"
        before = descriptors()
        for _ in range(10):
            await bench.units.start("a")
            await bench.exit()
        await until(lambda: descriptors() == before)
    os.close(own)
    os.close(other)


# --- what a unit is given --------------------------------------------------------------------------------------------


async def test_environment(journal: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/not-yours")
    monkeypatch.setenv("INHERITED", "yes")
    async with opened(journal, a=shell("env", env={"PORT": 9000, "DEBUG": True})) as bench:
        await bench.units.start("a")
        await bench.exit()
        found = dict(line.split("=", 1) for line in (await bench.units.logs("a")).decode().splitlines())
    assert {
        name: found.get(name) for name in ("SOAKD_RUN", "SOAKD_UNIT", "PORT", "DEBUG", "INHERITED", "TOLD")
    } == {
        "SOAKD_RUN": RUN,
        "SOAKD_UNIT": "a",
        "PORT": "9000",
        "DEBUG": "true",
        "INHERITED": "yes",
        "TOLD": "all",
    }
    assert found["SOAKD_UNIT_DIR"] == str(journal.run_dir / "units" / "a")
    assert "NOTIFY_SOCKET" not in found


async def test_working_directory(journal: JournalWriter, tmp_path: Path) -> None:
    base = tmp_path / "soak-files"
    (base / "app").mkdir(parents=True)
    units = {
        "plain": shell("pwd"),
        "with-files": shell("pwd; cat conf/x.conf", files={"conf/x.conf": "hello\n"}),
        "told": shell("pwd", cwd="app", files={"x": ""}),
    }
    async with opened(journal, base, **units) as bench:
        said = {}
        for unit in units:
            await bench.units.start(unit)
            await bench.exit()
            said[unit] = (await bench.units.logs(unit)).decode().splitlines()
    assert said == {
        "plain": [str(base)],
        "with-files": [str(journal.run_dir / "units" / "with-files"), "hello"],
        "told": [str(base / "app")],
    }


async def test_files_are_written_once(journal: JournalWriter) -> None:
    script = "cat state; echo changed > state"
    async with opened(journal, a=shell(script, files={"state": "first\n"})) as bench:
        for _ in range(2):
            await bench.units.start("a")
            await bench.exit()
        assert await bench.units.logs("a") == b"first\nchanged\n"


# --- what cannot start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (
            {"command": "no-such-program"},
            "the command no-such-program was not found; install it, or write its path",
        ),
        ({"command": "./plain.txt"}, "./plain.txt may not be executed; see its permissions (`chmod +x`)"),
        (
            {"command": "./script"},
            "./script is neither a program nor a script with a #! line; name its interpreter first",
        ),
        (
            {"command": "true", "cwd": "nowhere"},
            "its working directory {base}/nowhere is not there; make it, or correct `cwd`",
        ),
        (
            {"command": "true", "cwd": "script"},
            "its working directory {base}/script is not there; make it, or correct `cwd`",
        ),
        ({"command": ["true", "\0"]}, "embedded null byte"),
        ({"command": ["true", "x" * 3_000_000]}, "Argument list too long: true"),
    ],
)
async def test_a_start_that_fails(
    journal: JournalWriter, tmp_path: Path, unit: dict[str, Any], message: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "plain.txt").write_text("text")
    (base / "script").write_text("echo no interpreter")
    (base / "script").chmod(0o755)
    async with opened(journal, base, broken=unit) as bench:
        before = descriptors()
        with pytest.raises(EngineError) as caught:
            await bench.units.start("broken")
        assert str(caught.value) == f"cannot start broken: {message.format(base=base)}"
        await until(lambda: descriptors() == before)


async def test_files_that_cannot_be_written(journal: JournalWriter) -> None:
    units = journal.run_dir / "units"
    units.write_text("in the way")
    async with opened(journal, a={"command": "true"}) as bench:
        with pytest.raises(EngineError, match=r"cannot start a: .*units"):
            await bench.units.start("a")


def test_problems_are_seen_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("text")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = engine(
            fine={"command": "sh", "ready": {"port": 1}},
            pth={"command": "sh", "env": {"PATH": str(tmp_path)}},
            missing={"command": "no-such-program"},
            there={"command": "./nothing", "cwd": "."},
            plain={"command": "./plain.txt"},
            cwd={"command": "sh", "cwd": "nowhere"},
            port={"command": "sh", "ready": {"port": port}},
            own={"command": "./made.sh", "files": {"made.sh": ""}},
        ).problems(tmp_path)
    assert found == [
        "pth: its command sh is not on PATH; install it, or write its path",
        "missing: its command no-such-program is not on PATH; install it, or write its path",
        f"there: its command {tmp_path}/nothing is not there or not executable; correct the path, or `chmod +x` it",
        f"plain: its command {tmp_path}/plain.txt is not there or not executable; correct the path, or `chmod +x` it",
        f"cwd: its working directory {tmp_path}/nowhere is not there; make it, or correct `cwd`",
        f"port: port {port} is in use already; stop who listens there (`ss -tlnp`), or change the port",
    ]


# --- output ----------------------------------------------------------------------------------------------------------


async def test_garbage_and_endless_lines_do_no_harm(journal: JournalWriter) -> None:
    script = "head -c 300000 /dev/urandom; echo; head -c 3000000 /dev/zero; echo; echo end"
    async with opened(journal, a=shell(script)) as bench:
        await bench.units.start("a")
        await bench.exit()
        assert await bench.units.logs("a", last=1) == b"end\n"
        lines = await bench.units.logs("a", last=2)
        assert lines.endswith(b"\0\nend\n")
        assert len(lines) <= 4_000_000


async def test_a_unit_that_floods_is_slowed_down_and_fills_no_disk(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_unit, "MAX_BYTES", 100_000)
    monkeypatch.setattr(local_unit, "BURST", 50_000)
    monkeypatch.setattr(local_unit, "RATE", 1_000_000)
    async with opened(journal, a={"command": "yes"}) as bench:
        begun = time.monotonic()
        await bench.units.start("a")
        directory = journal.run_dir / "units" / "a"
        await until((directory / "output.log.3").exists)
        await bench.units.kill("a", signal.SIGKILL)
        took = time.monotonic() - begun
        await bench.exit()
        await bench.units.logs("a", last=1)
        sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    assert set(sizes) == {"output.log", "output.log.1", "output.log.2", "output.log.3"}
    assert sum(sizes.values()) <= 4 * 1_000_000, "each file may exceed its limit by what is written at once"
    cpu = 27 / 2  # bytes in the log for one that was read: stamp, y, newline for y, newline
    assert sum(sizes.values()) / cpu <= 1_000_000 * took + 200_000


# --- how it ended ----------------------------------------------------------------------------------------------------


async def test_out_of_memory_is_told_apart_from_a_kill(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 7
    monkeypatch.setattr(spawn, "oom_kills", lambda: count)
    monkeypatch.setattr(local_unit, "oom_kills", lambda: count)
    async with opened(journal, a={"command": "sleep 1000"}) as bench:
        for kills, oom in ((0, False), (1, True), (0, False), (1, True)):
            up = await bench.units.start("a")
            count += kills
            assert up.pid
            os.kill(up.pid, signal.SIGKILL)
            gone = await bench.exit()
            assert (gone.signal, gone.oom) == ("SIGKILL", oom)
        await bench.units.start("a")
        count += 1
        await bench.units.kill("a", signal.SIGKILL)
        assert not (await bench.exit()).oom, "it was us"


@pytest.mark.parametrize(
    ("ours", "expected"),
    [("4:cpu,memory:/a/b", 1), ("0::/a/b", 2), ("4:memory:/gone\n1:cpu:/a/b\n0::/gone", 3), ("", 3)],
)
def test_who_else_was_out_of_memory_on_this_machine_is_not_our_affair(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: str, expected: int
) -> None:
    """Where our control group has a count of its own; on a machine with containers somebody is, now and then."""
    counts = {"memory/a/b/memory.oom_control": 1, "a/b/memory.events": 2, "vmstat": 3}
    for name, count in counts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"oom_kill_disable 0\noom_kill {count}\n")
    (tmp_path / "cgroup").write_text(ours)
    for name, path in {"_OWN": "cgroup", "_CGROUPS": ".", "_MACHINE": "vmstat"}.items():
        monkeypatch.setattr(spawn, name, tmp_path / path)
    assert spawn.oom_kills() == expected


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({"command": "sh 'open"}, "cannot split the command into words"),
        ({"command": []}, "at least 1 item"),
        ({"command": "x", "stop_signal": "SIGWHAT"}, "expected a signal such as SIGTERM or SIGINT"),
        ({"command": "x", "ready": {}}, "expected one of port, http or log, found none"),
        ({"command": "x", "ready": {"port": 1, "log": "x"}}, "found port and log"),
        ({"command": "x", "ready": {"log": "("}}, "expected a regular expression"),
        ({"command": "x", "ready": {"http": "127.0.0.1:80"}}, "String should match pattern"),
        ({"command": "x", "files": {"../x": ""}}, "expected a path inside the unit's directory"),
        ({"command": "x", "files": {"/x": ""}}, "expected a path inside the unit's directory"),
        ({"command": "x", "files": {"output.log": ""}}, "the unit's output is written there"),
    ],
)
def test_what_is_refused(unit: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(a=unit)


def test_what_is_understood() -> None:
    unit = engine(
        a={"command": "serve --port 80 'a b'", "stop_signal": "int", "labels": {"soakd.protect": True}}
    )
    spec = unit.process.units["a"]
    assert spec.command == ("serve", "--port", "80", "a b")
    assert spec.stop_signal == signal.SIGINT
    assert spec.labels == {"soakd.protect": "true"}
    assert unit.unit_names() == ("a",)
    assert unit.after() == {"a": ()}
    with pytest.raises(ValueError, match="cannot be a name"):
        engine(**{"../a": {"command": "x"}})
