from __future__ import annotations

import gc
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from load_bench import Bench, until
from pydantic import ValidationError

from supervisor.engines import program
from supervisor.histogram import Histogram
from supervisor.journal.events import LoadStopped
from supervisor.loads.command import CommandLoad
from supervisor.loads.iterations import HANGING, HUNG

PYTHON = sys.executable
SHELL = {"shell": True}


def alive(pid_file: Path) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
    return False


def written(pid_file: Path) -> bool:
    return pid_file.exists() and pid_file.read_text().endswith("\n")


# --- what counts as what ---------------------------------------------------------------------------------------------


async def test_each_iteration_is_an_operation(bench: Bench) -> None:
    await bench.run(command="true", times=3)
    assert bench.counts == {"scheduled": 3, "started": 3, "ok": 3}
    assert bench.events[-2] == LoadStopped(load="e2e")


async def test_an_exit_code_is_an_error_class_and_the_last_output_a_detail(bench: Bench) -> None:
    await bench.run(command=["sh", "-c", "echo went wrong >&2; exit 7"], times=2)
    assert bench.counts == {"scheduled": 2, "started": 2, "failed": 2, "exit 7": 2}
    assert [(s.name, s.detail) for s in bench.samples] == [
        ("iteration 1", "went wrong\n"),
        ("iteration 2", "went wrong\n"),
    ]


async def test_a_signal_is_an_error_class(bench: Bench) -> None:
    await bench.script("kill -SEGV $$", times=1)
    assert bench.counts == {"scheduled": 1, "started": 1, "failed": 1, "SIGSEGV": 1}


async def test_a_timeout_is_indeterminate_and_ends_the_group(bench: Bench) -> None:
    command, times = "sleep 60 & echo $! > child; sleep 60", 0
    while not written(bench.base / "child"):  # on a busy machine a shell may need longer than that
        await bench.script(command, timeout="300ms", times=1)
        times += 1
    assert bench.counts == dict.fromkeys(("scheduled", "started", "indeterminate", "timeout"), times)
    await until(lambda: not alive(bench.base / "child"))


async def test_what_a_program_leaves_in_its_group_ends_with_it(bench: Bench) -> None:
    await bench.script("sleep 60 & echo $! > child", times=1)
    assert bench.counts["ok"] == 1
    await until(lambda: not alive(bench.base / "child"))


async def test_a_process_that_left_the_group_does_not_hold_the_load_up(bench: Bench) -> None:
    killed: set[int] = set()

    def kill_those_that_left() -> bool:
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("SOAKD_RUN") == bench.run_id:
                process.kill()
                killed.add(process.pid)
        return len(killed) == 2

    leaves = "setsid sh -c 'touch left; exec sleep 60' &"
    await bench.script(f"{leaves} while ! test -e left; do sleep 0.02; done; rm left", times=2)
    await until(kill_those_that_left)  # in the middle of an `exec` a process has no environment
    assert bench.counts["ok"] == 2


async def test_a_program_that_cannot_be_started_is_a_failed_operation(bench: Bench) -> None:
    script = bench.base / "program"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    await bench.run(command="./program", times=1)
    assert bench.counts == {"scheduled": 1, "started": 1, "failed": 1, "cannot be started": 1}
    assert "No such file" in bench.samples[0].detail


# --- what a program is given, and what it says ----------------------------------------------------------------------------


async def test_the_program_is_told_of_the_broker_and_gets_its_own_variables(bench: Bench) -> None:
    (bench.base / "tests").mkdir()
    command = "pwd; echo $SOAKD_NATS_URL $SOAKD_RUN $SOAKD_LOAD $PORT"
    await bench.script(command, cwd="tests", env={"PORT": 9000}, times=1)
    assert f"{bench.base / 'tests'}\nnats://127.0.0.1:1 {bench.run_id} e2e 9000\n" in bench.log()


async def test_output_goes_to_a_log_with_a_header_for_each_iteration(bench: Bench) -> None:
    await bench.run(command=["sh", "-c", "echo out; echo err >&2; exit 1"], times=2)
    lines = bench.log().splitlines()
    assert [line for line in lines if not line.startswith("===")] == ["out", "err"] * 2
    assert [line.partition("e2e ")[2][:40] for line in lines if line.startswith("===")] == [
        "iteration 1: sh -c 'echo out; echo err >",
        lines[3].partition("e2e ")[2][:40],
        "iteration 2: sh -c 'echo out; echo err >",
        lines[7].partition("e2e ")[2][:40],
    ]
    assert re.search(r"iteration 2: exit 1 after \d+\.\d{3}s$", lines[7])


async def test_a_program_that_never_stops_writing_is_held_back(bench: Bench) -> None:
    written: list[int] = []
    log = bench.journal.log("e2e.log")
    log.write = lambda data: written.append(len(data))  # type: ignore[method-assign]
    start = time.monotonic()
    await bench.run(command="yes", timeout="500ms", times=1)
    assert 0 < sum(written) < program.RATE * (time.monotonic() - start) + 2 * program.BURST
    assert bench.counts["timeout"] == 1


async def test_lines_take_no_more_than_their_share_of_the_event_loop(tmp_path: Path) -> None:
    took: list[tuple[float, float]] = []

    def read(_: bytes) -> None:
        begun = time.monotonic()
        while (took_it := time.monotonic() - begun) < 2 * program.TURN:
            pass
        took.append((begun, took_it))

    begun = time.monotonic()
    ended = await program.run_program(
        ["yes"], cwd=tmp_path, env={}, output=lambda _: None, timeout=0.3, stop=anyio.Event(), reports=read
    )
    held_back = [seconds for at, seconds in took if at < ended.end]
    assert held_back
    assert sum(held_back) - max(held_back) <= program.SHARE * (ended.end - begun)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_stop_ends_a_group_that_does_not_want_to(bench: Bench) -> None:
    command = "trap '' TERM; sleep 60 & echo $! > child; echo $$ > leader; while :; do sleep 1; done"
    async with bench.running(command=command, **SHELL):
        await until(lambda: written(bench.base / "leader"))
    assert not alive(bench.base / "leader")
    await until(lambda: not alive(bench.base / "child"))
    assert bench.counts == {"cut_off": 1}
    assert bench.events[-2] == LoadStopped(load="e2e")
    assert "cut off by the end of the run" in bench.log()


async def test_an_iteration_that_hung_until_the_end_is_indeterminate(bench: Bench) -> None:
    command = "test -e once && { touch hangs; sleep 60; }; touch once"
    async with bench.running(command=command, **SHELL) as context:
        await until((bench.base / "hangs").exists)
        context.recorder.flush()
        await bench.settle()
        ((first,),) = (window.slices for window in bench.windows)
        await anyio.sleep(0.5 + HANGING * (Histogram.unpack(first.response).highest or 0.0))
    assert bench.counts == {"scheduled": 2, "started": 2, "ok": 1, "indeterminate": 1, HUNG: 1}


async def test_cancelling_ends_the_group_at_once(bench: Bench) -> None:
    load = CommandLoad.model_validate({"command": "trap '' TERM; echo $$ > leader; sleep 60", "shell": True})
    async with anyio.create_task_group() as group:
        group.start_soon(load.run, bench.context())
        await until(lambda: written(bench.base / "leader"))
        group.cancel_scope.cancel()
    assert not alive(bench.base / "leader")


async def test_a_pause_does_not_outlast_the_stop(bench: Bench) -> None:
    async with bench.running(command="true", pause="1h") as context:
        await until(lambda: context.recorder._window.scheduled)
    assert bench.counts["ok"] == 1


async def test_no_descriptor_is_left_open(bench: Bench) -> None:
    await bench.run(command="true", times=2)
    gc.collect()  # what another test left to it is not ours
    before = psutil.Process().num_fds()
    await bench.run(command="true", times=20)
    assert psutil.Process().num_fds() == before


# --- pytest ----------------------------------------------------------------------------------------------------------

SUITE = """
import time
import pytest

def test_good(): time.sleep(0.05)
def test_wrong(): assert 1 + 1 == 3
def test_away(): raise ConnectionError("nobody at 127.0.0.1:4222")
@pytest.mark.skip
def test_later(): pass
"""


async def test_each_test_of_pytest_is_an_operation(bench: Bench) -> None:
    (bench.base / "test_it.py").write_text(SUITE)
    (bench.base / "pytest.ini").write_text("[pytest]\n")
    await bench.run(command=[PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"], times=1)
    assert bench.counts == {
        "scheduled": 3,
        "started": 3,
        "ok": 1,
        "failed": 2,
        "skipped": 1,
        "AssertionError: assert (N + N) == N": 1,
        "ConnectionError: nobody at N:N": 1,
    }
    assert {sample.name for sample in bench.samples} == {"test_it::test_wrong", "test_it::test_away"}
    assert sum(window.slices[0].response[0] for window in bench.windows) >= 0.05
    assert not list(bench.journal.run_dir.glob(".*"))


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 4", "exit 4"),
        ("exit 0", "no usable JUnit report"),
        ("echo '<testsuite><testcase' > $SOAKD_JUNIT_XML", "no usable JUnit report"),
        ("echo '<testsuite/>' > $SOAKD_JUNIT_XML", "no usable JUnit report"),
        ("echo '<testsuite/>' > $SOAKD_JUNIT_XML; exit 5", "exit 5"),
        ("kill -KILL $$", "SIGKILL"),
    ],
)
async def test_an_iteration_without_a_report_is_one_failed_operation(
    bench: Bench, script: str, error: str
) -> None:
    await bench.script(script, junit=True, times=1)
    assert bench.counts == {"scheduled": 1, "started": 1, "failed": 1, error: 1}
    assert "JUnit" in bench.samples[0].detail


async def test_a_failure_that_no_test_tells_is_one_of_the_iteration(bench: Bench) -> None:
    script = "echo '<testsuite><testcase name=\"a\"/></testsuite>' > $SOAKD_JUNIT_XML; exit 3"
    await bench.script(script, junit=True, times=1)
    assert bench.counts == {"scheduled": 2, "started": 2, "ok": 1, "failed": 1, "exit 3": 1}


async def test_the_report_of_the_last_iteration_is_not_read_again(bench: Bench) -> None:
    script = (
        "test -e once || echo '<testsuite><testcase name=\"a\"/></testsuite>' > $SOAKD_JUNIT_XML; touch once"
    )
    await bench.script(script, junit=True, times=2)
    assert bench.counts["ok"] == 1
    assert bench.counts["no usable JUnit report"] == 1


@pytest.mark.parametrize(
    ("entry", "counts"),
    [
        ({"command": "pytest -vv"}, True),
        ({"command": "/venv/bin/py.test"}, True),
        ({"command": "python -m pytest tests"}, True),
        ({"command": "/usr/bin/python3.11 -X dev -m pytest"}, True),
        ({"command": ["python3", "-m", "pytest"]}, True),
        ({"command": "python -m pytester"}, False),
        ({"command": "make test"}, False),
        ({"command": "echo pytest"}, False),
        ({"command": "pytest", "junit": False}, False),
        ({"command": "uv run pytest", "junit": True}, True),
        ({"command": "pytest | tee log", "shell": True}, False),
    ],
)
def test_pytest_is_recognised(entry: dict[str, Any], counts: bool) -> None:
    assert CommandLoad.model_validate(entry).counts_tests is counts


# --- what is refused before anything starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"command": "a | b"}, "| needs a shell: add shell: true"),
        ({"command": "a && b"}, "&& needs a shell"),
        ({"command": "a > log"}, "> needs a shell"),
        ({"command": "echo `date`"}, "` needs a shell"),
        ({"command": "echo $(date)"}, "$( needs a shell"),
        ({"command": "one\ntwo"}, "a command of several lines needs a shell"),
        ({"command": "echo 'half"}, "cannot be split: no closing quotation"),
        ({"command": ""}, "found nothing"),
        ({"command": []}, "found nothing"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": ["a", "b"], "shell": True}, "one string, not a list"),
        ({"command": "pytest --junitxml=mine.xml"}, "soakd adds --junit-xml itself"),
        ({"command": "true", "env": {"A=B": "c"}}, "cannot be a variable"),
        ({"command": "true", "timeout": "0s"}, "greater than 0"),
        ({"command": "true", "cleanup": {"streams": "["}}, "not a regular expression: unterminated"),
        ({"command": "true", "cleanup": {}}, "expected buckets, streams or both"),
        ({"command": "true", "cleanup": {"buckets": ["a b"]}}, "pattern"),
    ],
)
def test_what_cannot_work_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CommandLoad.model_validate(entry)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("grep -e 'a|b' \"c > d\" e\\;f", ("grep", "-e", "a|b", "c > d", "e;f")),
        (
            "pytest -k 'not slow' test_a.py::test_b[1-x]",
            ("pytest", "-k", "not slow", "test_a.py::test_b[1-x]"),
        ),
        (["sleep", 1], ("sleep", "1")),
        ("true\n", ("true",)),
    ],
)
def test_a_command_is_split_as_a_shell_would(command: object, argv: tuple[str, ...]) -> None:
    assert CommandLoad.model_validate({"command": command}).argv == argv


def test_problems_say_what_is_not_there(tmp_path: Path) -> None:
    def problems(**entry: Any) -> list[str]:
        return CommandLoad.model_validate(entry).problems(tmp_path)

    (tmp_path / "here").write_text("#!/bin/sh\n")
    assert problems(command="sh -c true") == []
    assert problems(command="nothing-of-the-kind")[0].startswith(
        "cannot run nothing-of-the-kind: there is no"
    )
    assert "not executable" in problems(command="./here")[0]
    (tmp_path / "here").chmod(0o755)
    assert problems(command="./here") == []
    assert problems(command="A=1 ./here")[0].endswith("variables go to env:")
    assert problems(command="true", cwd="away")[0].startswith(f"cannot run in {tmp_path / 'away'}")
    assert problems(command="sh", env={"PATH": "/nowhere"})
