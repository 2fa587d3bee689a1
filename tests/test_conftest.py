"""The watchful eyes of conftest.py see what they are for, and nothing else. Run on tests that do what no test may."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TESTS = '''
import fcntl, os, subprocess, sys, threading, time
from pathlib import Path
import conftest, pytest, supervisor
from supervisor.journal.files import write_atomically

OURS = """
import asyncio, builtins, fcntl, io, os
from pathlib import Path

BLOCKING = {
    "open": lambda path: builtins.open(path).close(),
    "io.open": lambda path: path.read_bytes(),
    "os.open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "fsync": lambda path: os.fsync(0),
    "fdatasync": lambda path: os.fdatasync(0),
    "flock": lambda path: fcntl.flock(0, fcntl.LOCK_EX),
    "sleep": lambda path: __import__("time").sleep(0),
}

def act(name, path):
    BLOCKING[name](path)

async def awaited(name, path):
    act(name, path)

def called_back(name, path, future):
    act(name, path)
    future.set_result(None)

async def swallowed(name, path):
    try:
        act(name, path)
    except Exception:
        pass

async def harmless():
    builtins.open("/proc/self/stat").close()
    os.close(os.open(os.devnull, os.O_WRONLY))
"""
ours = {}
exec(compile(OURS, str(Path(supervisor.__file__).with_name("ours.py")), "exec"), ours)
HERE = Path(__file__)
NAMES = list(ours["BLOCKING"])

@pytest.fixture(autouse=True)
def _no_patience_with_what_stays(request):
    conftest.PATIENCE = 0.1 if "bad" in request.node.name else 20.0

@pytest.mark.parametrize("name", NAMES)
async def test_bad_awaited(name):
    await ours["awaited"](name, HERE)

async def test_bad_swallowed():
    await ours["swallowed"]("open", HERE)

async def test_bad_called_back():
    import asyncio
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: future.set_result(None))
    future = loop.create_future()
    loop.call_soon(ours["called_back"], "open", HERE, future)
    await future

async def test_good_plain_function_of_ours_called_by_a_test(tmp_path):
    ours["act"]("open", HERE)
    write_atomically(tmp_path / "a", b"")

async def test_good_own_code(tmp_path):
    (tmp_path / "a").write_text("")
    time.sleep(0)

async def test_good_kernel_files():
    await ours["harmless"]()

def test_good_without_a_loop():
    ours["act"]("open", HERE)

def test_bad_process():
    test_bad_process.process = subprocess.Popen(["sleep", "60"])

def test_bad_orphan():
    orphan = "setsid sleep 60 >/dev/null 2>&1 & until grep -q ^sleep /proc/$!/cmdline; do :; done"  # seen once its exec is over
    subprocess.run(["sh", "-c", orphan], check=True)

def test_bad_thread():
    threading.Thread(target=time.sleep, args=(60,), name="soakd-x", daemon=True).start()

def test_good_thread_that_ends():
    threading.Thread(target=time.sleep, args=(0.01,), name="soakd-y").start()

def test_good_process_that_ends():
    subprocess.run(["true"], check=True)

def test_good_state_is_kept_apart(state_dir, tmp_path):
    assert os.environ["SOAKD_STATE_DIR"] == str(state_dir)
    assert state_dir.is_relative_to(tmp_path)

@pytest.mark.xfail(reason="as expected")
def test_good_expected_failure():
    raise ValueError

def test_bad_skipped():
    pytest.skip("no engine")

async def test_good_journal(journal):
    import asyncio
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    await journal.write_file("a", b"")
'''


KILLED = """
import os, subprocess, sys
from pathlib import Path

def test_it(tmp_path):
    marked = subprocess.Popen(["sleep", "600"], start_new_session=True)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", f"{tmp_path}/program"]  # no shell, whose child would stay
    named = subprocess.Popen(sleep, env={"PATH": os.environ["PATH"]})
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    Path(os.environ["TOLD"]).write_text(f"{marked.pid} {named.pid} {tmp_path}")
    os.kill(os.getpid(), 9)
"""


def session(tmp_path: Path, tests: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run tests with our conftest.py in a session of their own."""
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(tests)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\nanyio_mode = auto\npythonpath = {HERE} {HERE}/engines/docker\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env=os.environ | environ,
    )


def test_a_session_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    done = session(tmp_path, KILLED, TOLD=str(tmp_path / "told"))
    assert done.returncode == -9, done.stdout
    *pids, folder = (tmp_path / "told").read_text().split()
    deadline = time.monotonic() + 30
    while any(Path("/proc", pid).exists() for pid in pids) or folder in Path("/proc/mounts").read_text():
        assert time.monotonic() < deadline, f"{pids} or the mount {folder} are still there"
        time.sleep(0.02)


def test_the_checks_see_what_they_are_for_and_nothing_else(tmp_path: Path) -> None:
    done = session(tmp_path, TESTS, CI="true")
    said: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" test_it.py::")
        if word in {"PASSED", "XFAIL", "FAILED", "ERROR"}:
            said.setdefault(rest.partition(" - ")[0], set()).add(word)
    assert len(said) == 22, done.stdout
    for name, words in said.items():
        assert (words <= {"PASSED", "XFAIL"}) == name.startswith("test_good"), (name, words, done.stdout)
    for text in (
        "blocked the event loop: ['builtins.open']",
        "processes were left behind",
        "threads were left behind",
        "was skipped, which CI may not. Skipped: no engine",
    ):
        assert text in done.stdout
    assert done.stdout.count("ERROR test_it.py") >= 5
