"""What only local processes do: groups, descriptors, files, ports, floods."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio import to_thread
from harness import PATIENCE, Bench

from supervisor.broker.embedded import free_ports
from supervisor.engines import local_unit, spawn, survivors
from supervisor.engines.base import EngineContext, EngineError
from supervisor.engines.process import ProcessEngine
from supervisor.journal.writer import JournalWriter

RUN = f"test-{uuid.uuid4().hex}"
"""Nobody else's: an engine that is closed ends whatever carries its run's id."""


def engine(**units: Any) -> ProcessEngine:
    return ProcessEngine.model_validate({"process": {"units": units}})


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], **more}


def python(script: str, **more: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", textwrap.dedent(script)], **more}


@asynccontextmanager
async def opened(journal: JournalWriter, base: Path | None = None, **units: Any) -> AsyncIterator[Bench]:
    kind = engine(**units)
    context = EngineContext("local", RUN, journal.run_dir, base or journal.run_dir, journal, {"TOLD": "all"})
    async with kind.open(context) as running:
        exits = running.exits()
        try:
            yield Bench(kind, running, context, exits)
        finally:
            exits.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # the outside world sends no events
            await anyio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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


# --- readiness -------------------------------------------------------------------------------------------------------

SERVER = """
    import http.server, sys, time
    class Handler(http.server.BaseHTTPRequestHandler):
        looks = 0
        def do_GET(self):
            Handler.looks += 1
            self.send_response({"/late": 200 if Handler.looks > 2 else 503, "/gone": 410}[self.path])
            self.end_headers()
    time.sleep(0.1)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("ready", ["port", "late", "gone"])
async def test_ready_by_port_and_http(journal: JournalWriter, ready: str) -> None:
    port = next(free_ports())
    check = {
        "port": {"port": port},
        "late": {"http": f"http://127.0.0.1:{port}/late"},
        "gone": {"http": f"http://127.0.0.1:{port}/gone", "status": 410},
    }[ready]
    server = python(SERVER, ready=check)
    server["command"].append(port)
    async with opened(journal, server=server) as bench:
        await bench.units.start("server")
        with anyio.fail_after(PATIENCE):
            await bench.units.ready("server")
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"port": 1}, "127.0.0.1:1 to accept connections, last seen: nobody listens there"),
        ({"http": "http://127.0.0.1:1/"}, "http://127.0.0.1:1/ to answer 200, last seen: Cannot connect.*"),
        ({"log": "hello"}, "a line like hello in its output, last seen: no such line"),
    ],
)
async def test_not_ready_says_what_was_seen(
    journal: JournalWriter, check: dict[str, Any], message: str
) -> None:
    async with opened(journal, a={"command": "sleep 1000", "ready": {**check, "timeout": "100ms"}}) as bench:
        await bench.units.start("a")
        with pytest.raises(
            EngineError, match=f"cannot see a become ready: waited 100ms for {message}; it wrote nothing"
        ):
            await bench.units.ready("a")


async def test_who_hangs_in_a_look_and_exits_is_told_at_once(journal: JournalWriter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with opened(journal, a=shell("sleep 0.05; exit 7", ready={"http": url})) as bench:
            await bench.units.start("a")
            with (
                anyio.fail_after(PATIENCE),
                pytest.raises(EngineError, match="it exited with code 7 before that"),
            ):
                await bench.units.ready("a")


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


# --- recovery --------------------------------------------------------------------------------------------------------

ORPHANED = """
    import os, sys, anyio
    from pathlib import Path
    from supervisor.engines.base import EngineContext
    from supervisor.engines.process import ProcessEngine
    from supervisor.journal.writer import open_journal

    async def started(children: int) -> None:
        import psutil
        while len(psutil.Process().children(recursive=True)) < children:
            await anyio.sleep(0.01)

    async def main(directory: Path) -> None:
        engine = ProcessEngine.model_validate({"process": {"units": {
            "a": {"command": ["sh", "-c", "trap '' TERM HUP; sleep 1000 & setsid sleep 1000 & wait"]},
            "b": {"command": ["sh", "-c", "env -i sleep 1000 & wait"]},
        }}})
        async with open_journal(directory) as journal:
            async with engine.open(EngineContext("local", sys.argv[2], directory, directory, journal)) as units:
                for unit in engine.unit_names():
                    await units.start(unit)
                await started(5)
                print("up", flush=True)
                await anyio.sleep_forever()

    anyio.run(main, Path(sys.argv[1]))
"""


async def test_recovery_after_the_death_of_the_daemon(journal: JournalWriter, tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(ORPHANED), str(tmp_path / "orphaned"), RUN]
    daemon = await to_thread.run_sync(lambda: subprocess.Popen(script, stdout=subprocess.PIPE))
    assert daemon.stdout
    with daemon.stdout:
        assert await to_thread.run_sync(daemon.stdout.readline) == b"up\n"
    children = {child.pid for child in psutil.Process(daemon.pid).children(recursive=True)}
    daemon.kill()
    daemon.wait()
    context = EngineContext("local", RUN, tmp_path, tmp_path, journal)
    kind = engine(a={"command": "true"})
    did = await kind.recover(context)
    assert "ended 3 processes of a" in did
    assert await kind.recover(context) == []
    assert not any(lives(pid) for pid in children), "those with no environment of ours went with their group"


CHANGEABLE = """
    import os, signal, sys
    signal.signal(signal.SIGUSR1, lambda *_: os.setpgid(0, 0))
    print("up", flush=True)
    while True:
        signal.pause()
"""


def test_a_process_that_has_just_left_its_parents_group_does_not_drag_it_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between fork and exec a unit is in soakd's own group: that must not count for a kill."""
    real = survivors._unit_of

    def moving(pid: int, run: str) -> str | None:
        if pid == child.pid:
            child.send_signal(signal.SIGUSR1)
            with suppress(ProcessLookupError):  # the second time it has ended
                while os.getpgid(pid) != pid:
                    time.sleep(0.001)
        return real(pid, run)

    marked = {**os.environ, "SOAKD_RUN": RUN, "SOAKD_UNIT": "a"}
    with ExitStack() as stack:
        parent = stack.enter_context(subprocess.Popen(["sleep", "1000"], process_group=0))
        stack.callback(parent.kill)
        command = [sys.executable, "-c", textwrap.dedent(CHANGEABLE)]
        child = stack.enter_context(
            subprocess.Popen(command, process_group=parent.pid, env=marked, stdout=subprocess.PIPE)
        )
        stack.callback(child.kill)
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
        monkeypatch.setattr(survivors, "_unit_of", moving)
        ended = survivors.end_survivors(RUN)
        assert [(one.pid, one.group, one.unit) for one in ended] == [(child.pid, child.pid, "a")]
        assert parent.poll() is None


def test_nobody_ends_what_it_descends_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAKD_RUN", RUN)
    look = f"import os; from supervisor.engines.survivors import survivors; print(len(survivors({RUN!r})))"
    found = subprocess.run(
        [sys.executable, "-c", look], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert found.stdout == "0\n"


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
