"""What a run left is found by its mark, whenever one looks, and ended by recovery."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from anyio import to_thread
from processes import RUN, engine, lives

from supervisor.engines import survivors
from supervisor.engines.base import EngineContext
from supervisor.journal.writer import JournalWriter


def test_one_that_is_just_being_executed_is_found() -> None:
    """For a moment it has no environment yet: about one in fifty is looked at then."""
    for _ in range(100):
        run = f"here-{uuid.uuid4().hex}"
        with subprocess.Popen(["sleep", "60"], env={survivors.RUN: run, "PATH": "/usr/bin:/bin"}) as process:
            found = [survivor.pid for survivor in survivors.survivors(run)]
            process.kill()
        assert found == [process.pid]


def test_one_without_any_environment_is_nobodys() -> None:
    run = f"wiped-{uuid.uuid4().hex}"
    with subprocess.Popen(["/usr/bin/env", "-i", "sleep", "60"], env={survivors.RUN: run}) as process:
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0]:  # env itself
            pass
        assert survivors.end_survivors(run) == []
        process.kill()


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
