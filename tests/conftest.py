"""What every test stands on: one event loop, a state directory of its own, a journal, and three watchful eyes.

A test fails if code of ours blocks the event loop, if it leaves a process, or if it leaves a thread of ours.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import blockbuster.blockbuster
import hypothesis
import pytest
import structlog
from blockbuster.blockbuster import BlockBuster, BlockBusterFunction, BlockingError
from docker_client import LABEL
from docker_engine import can_be_private
from docker_fixtures import docker, docker_session, images, private  # noqa: F401  # fixtures
from keeper import kept
from soakd_run import soakd  # noqa: F401  # a fixture

import supervisor
from supervisor.broker.ports import free_ports
from supervisor.journal.writer import JournalWriter, open_journal

PATIENCE = 20.0
"""Seconds that a process or thread of a test has for going away once the test is over."""
MARK = f"SOAKD_TEST_SESSION={uuid.uuid4().hex}"
"""Every process that comes from this test session has it in its environment."""
_CALM = ("/dev/null", "/dev/urandom", "/proc/", "/sys/fs/cgroup/")
"""Files that the kernel answers from memory: opening one never waits for a disk."""


_TESTS = str(Path(__file__).parent) + os.sep
_OURS = str(Path(supervisor.__file__).parent) + os.sep
_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


# How long an example takes is the machine's business, and no test of ours asserts times. The examples are the same in every run: what
# is found by chance belongs to those who look for it, with `--hypothesis-profile=explore`, and not to somebody else's change.
hypothesis.settings.register_profile(
    "explore", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "soakd", hypothesis.settings.get_profile("explore"), derandomize=True, database=None
)
hypothesis.settings.load_profile("soakd")

# structlog's own default renders tracebacks with rich, which looks at source files: on the event loop that blocks.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(wrapper=True)  # round xdist's own, which asks for the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Say which tests belong into one worker, and begin with the long ones: at the end they would keep one worker alone."""
    for item in items:
        if group := _shared(item):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_limit, reverse=True)
    yield
    if config.getoption("loadgroup", default=False):  # in a worker
        apart = [
            item.nodeid for item in items if (group := _shared(item)) and not item.nodeid.endswith(group)
        ]
        assert not apart, (
            f"pytest-xdist keeps no groups with this pytest: scripts/venv dev. Such as {apart[0]}"
        )


def pytest_collection_finish() -> None:
    """Have the garbage collector look no more at all modules and some thousand tests: each look takes a quarter of a second.

    In that time no event loop reacts, and it took half of what tests do in this process.
    """
    gc.collect()
    gc.freeze()


def _shared(item: pytest.Item) -> str:
    """Name what a test shares with others: images, which take their time to build, a fixture of its module, somebody's Docker engine.

    Of private engines each worker has its own. One of somebody's there is only once, and tests look at all that is on it.
    """
    wanted = getattr(item, "fixturenames", ())
    if can_be_private() and ("docker_session" in wanted or "DockerHarness" in item.nodeid):
        return "docker"
    if "images" in wanted:
        return "images"
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    by_module = any(known[name][-1].scope == "module" for name in wanted if name in known)
    return item.nodeid.partition("::")[0] if by_module else ""


def _limit(item: pytest.Item) -> float:
    """Return the seconds that a test asks for; most are content with the limit that there is for all."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Where `CI` is `true` no test may be skipped, be it for want of an engine or of root: there it would never be missed."""
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]  # as hook wrappers have it
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped, which CI may not. {why}"
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the index of runs and the locks of a test to itself."""
    path = tmp_path / "state"
    monkeypatch.setenv("SOAKD_STATE_DIR", str(path))
    return path


@pytest.fixture
def free_tcp_port() -> int:
    """Return a port that nobody is given by chance, as one of those that anyio's fixture returns is before the test uses it."""
    return next(free_ports())


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[JournalWriter]:
    """Open a journal in a run directory of its own, `journal.run_dir`."""
    async with open_journal(tmp_path / "run") as journal:
        yield journal


# --- nothing blocks the event loop -----------------------------------------------------------------------------------


def _opens_no_disk(file: object, *_: Any, **__: Any) -> bool:
    """Say whether an `open` cannot wait for a disk: a descriptor that is open already, or a file of the kernel's own."""
    return isinstance(file, int) or str(file).startswith(_CALM)


def _called_by_a_test() -> bool:
    """Say whether a test called plain functions of ours that block, as a thread may; no coroutine of ours is in between."""
    frame = sys._getframe(1)
    while frame := frame.f_back:
        if frame.f_code.co_filename.startswith(_TESTS):
            return True
        if frame.f_code.co_filename.startswith(_OURS) and frame.f_code.co_flags & _ASYNC:
            return False
    return False


def _more_functions() -> dict[str, BlockBusterFunction]:
    """What blockbuster does not watch by itself, though a slow disk makes it wait for seconds."""
    opens, syncs = ("builtins.open", "io.open", "os.open"), ("os.fsync", "os.fdatasync", "fcntl.flock")
    functions = {
        name: BlockBusterFunction(
            None, name, scanned_modules=["supervisor"], can_block_predicate=_opens_no_disk
        )
        for name in opens
    } | {name: BlockBusterFunction(None, name, scanned_modules=["supervisor"]) for name in syncs}
    for name in opens:  # the source lines of a traceback: rare, cached, and needed to say what went wrong
        functions[name].can_block_in("linecache.py", {"updatecache"}).can_block_in("tokenize.py", {"open"})
        functions[name].can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
    return functions


def _either(may_block: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *args, **rest: may_block(*args, **rest) or _called_by_a_test()


@pytest.fixture(scope="session", autouse=True)
def _watch_for_blocking_calls() -> Iterator[list[str]]:
    """Let every call that blocks raise, if code of ours makes it on a thread where an event loop runs.

    Tests' own code may block. The session's list keeps what was raised, since somebody may have caught it.
    """
    seen: list[str] = []

    class SeenError(BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            seen.append(func)

    watch = BlockBuster(scanned_modules=["supervisor"])
    watch.functions |= _more_functions()
    for function in watch.functions.values():
        function.can_block_predicate = _either(function.can_block_predicate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster.blockbuster, "BlockingError", SeenError)
        watch.activate()
        yield seen
        watch.deactivate()


@pytest.fixture(autouse=True)
def _no_blocking_call_was_swallowed(_watch_for_blocking_calls: list[str]) -> Iterator[None]:
    _watch_for_blocking_calls.clear()
    yield
    assert not _watch_for_blocking_calls, (
        f"code of ours blocked the event loop: {_watch_for_blocking_calls}; do it in the journal's thread"
    )


# --- nothing is left behind ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _mark_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Mark what comes from this session, and let a keeper end it if the session is killed."""
    name, _, value = MARK.partition("=")
    with (
        kept(MARK, tmp_path_factory.getbasetemp(), LABEL if can_be_private() else ""),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(name, value)
        # Nobody here has a certificate of a public authority, and reading all of theirs takes each process that a test starts 70 ms.
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", os.devnull)
        yield


def _processes() -> dict[int, str]:
    """Return all living processes of this session but this one, with their command lines. Zombies have no environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if MARK.encode() in _environ(entry):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = command.decode(errors="replace")
    return found


def _environ(process: Path) -> bytes:
    """Return the environment of a process. In the middle of an `exec` there is none for a moment, and whoever is not seen is not missed."""
    for _ in range(3):
        if environ := (process / "environ").read_bytes():
            return environ
        (process / "exe").readlink()  # OSError: a zombie, or a part of the kernel
        time.sleep(0.001)
    return b""


def _threads() -> dict[int, str]:
    return {
        thread.ident or 0: thread.name for thread in threading.enumerate() if thread.name.startswith("soakd")
    }


def _wait_gone(look: Callable[[], dict[int, str]], before: dict[int, str]) -> dict[int, str]:
    deadline = time.monotonic() + PATIENCE
    while left := {key: text for key, text in look().items() if key not in before}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a process or a thread of ours; those of wider fixtures, started before it, may stay."""
    processes, threads = _processes(), _threads()
    yield
    left = _wait_gone(_processes, processes)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert not left, f"processes were left behind: {left}"
    left = _wait_gone(_threads, threads)
    assert not left, f"threads were left behind: {left}"
