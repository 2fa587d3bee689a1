from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from probe_bench import PATIENCE, look, probe
from pydantic import ValidationError

from supervisor.probes.base import View


async def test_the_exit_code_decides(view: View) -> None:
    reading = await look(view, command="true")
    assert (reading.ok, reading.value, reading.probe) == (True, 0, "command true == 0")
    reading = await look(view, command=["sh", "-c", "echo looking; echo 'no quorum' >&2; exit 3"])
    assert (reading.ok, reading.value, reading.detail) == (False, 3, "exit code 3: looking\nno quorum")
    assert (await look(view, command={"command": "sh -c 'exit 3'", "exit": 3})).ok


async def test_no_shell_is_involved(view: View) -> None:
    assert not (await look(view, command="test a = b || true")).ok


async def test_it_runs_in_the_soak_files_folder_with_the_views_environment(
    view: View, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "here").touch()
    told = replace(view, environment={"SOAKD_NATS_URL": "nats://127.0.0.1:1"})
    script = 'test -e here && test "$SOAKD_NATS_URL" = nats://127.0.0.1:1'
    assert (await look(told, command={"command": ["sh", "-c", script], "cwd": "sub"})).ok


async def test_a_command_that_is_not_there(view: View, tmp_path: Path) -> None:
    reading = await look(view, command="no-such-program --now")
    assert not reading.ok
    assert reading.detail == f"cannot run no-such-program in {tmp_path}: No such file or directory"


async def test_its_whole_process_group_ends_at_the_deadline(view: View, tmp_path: Path) -> None:
    """Whatever it left behind would fail this test in the end: every process of a test must be gone."""
    script = "sleep 1000 & trap '' TERM; touch started; sleep 1000"
    with anyio.fail_after(PATIENCE):
        while not (tmp_path / "started").exists():  # a busy machine may not get so far in time
            reading = await look(view, command={"command": ["sh", "-c", script], "timeout": "300ms"})
    assert (reading.ok, reading.detail) == (False, "no answer within 300ms")


async def test_what_it_leaves_in_the_background_ends_with_it(view: View) -> None:
    with anyio.fail_after(PATIENCE):
        assert (await look(view, command=["sh", "-c", "sleep 1000 & exit 0"])).ok


async def test_a_command_that_was_killed(view: View) -> None:
    reading = await look(view, command=["sh", "-c", "kill -9 $$"])
    assert (reading.ok, reading.value, reading.detail) == (False, None, "it was ended by SIGKILL: ")


async def test_endless_output_fills_nothing(view: View) -> None:
    with anyio.fail_after(PATIENCE):
        reading = await look(view, command={"command": "yes", "timeout": "300ms"})
    assert not reading.ok
    reading = await look(view, command=["sh", "-c", "seq 100000; exit 1"])
    assert len(reading.detail) < 400
    assert reading.detail.endswith("100000")


@pytest.mark.parametrize(
    ("entry", "where", "what"),
    [
        ("", "command.command", "at least 1 item"),
        ("say 'what", "command.command", "cannot split the command into words: No closing quotation"),
        ({"command": "true", "exit": 256}, "command.exit", "less than or equal to 255"),
        ({"command": "true", "timeout": "2h"}, "command.timeout", "at most 1m"),
    ],
)
def test_bad_entries(entry: Any, where: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        probe(command=entry)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert what in error["msg"]
