from __future__ import annotations

import json
import logging as stdlib
import os
import socket
from io import StringIO
from pathlib import Path

import anyio
import pytest
import structlog

from supervisor.journal import events as ev
from supervisor.telemetry import logging, systemd
from supervisor.telemetry.narrate import line, narrate
from supervisor.telemetry.output import QUEUE, Output


def test_what_is_written_arrives_in_order() -> None:
    reader, writer = os.pipe()
    try:
        with Output(writer) as output:
            for number in range(100):
                output.write(f"{number}\n")
        os.close(writer)
        with os.fdopen(reader) as lines:
            assert lines.read().split() == [str(number) for number in range(100)]
    finally:
        assert not output.gone


def test_a_reader_that_is_gone_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with Output(writer) as output:
        output.write("nobody reads this\n")
    assert output.gone
    os.close(writer)


def test_a_reader_that_is_stuck_costs_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    with Output(writer) as output:
        for _ in range(QUEUE + 200):
            output.write("x" * 1000)
        assert output.dropped > 0
        os.set_blocking(reader, False)
        os.close(reader)  # ends the write that hangs
    assert output.gone
    os.close(writer)


@pytest.fixture
def json_lines() -> StringIO:
    stream = StringIO()
    logging.configure(stream, terminal=False, secrets=["hunter22", "hunter22-long", "abc"])
    return stream


def test_each_log_line_is_one_json_object_and_hides_secrets(json_lines: StringIO) -> None:
    structlog.get_logger().warning(
        "login failed for hunter22-long", url="nats://u:hunter22@h", all=["hunter22", {"a": "abc"}]
    )
    told = json.loads(json_lines.getvalue())
    assert told["event"] == "login failed for ***"
    assert told["url"] == "nats://u:***@h"
    assert told["all"] == ["***", {"a": "abc"}]
    assert told["level"] == "warning"
    assert told["timestamp"].endswith("Z")


def test_lines_of_libraries_look_the_same(json_lines: StringIO) -> None:
    stdlib.getLogger("aiohttp.server").error("cannot parse hunter22")
    told = json.loads(json_lines.getvalue())
    assert told["event"] == "cannot parse ***"
    assert told["logger"] == "aiohttp.server"


def test_a_crash_is_told_with_its_root_cause(json_lines: StringIO) -> None:
    crash = ev.UnitCrashed(
        unit="a", incarnation="1", code=None, signal="SIGKILL", signature="panic: nil", file="a.log"
    )
    narrate(ev.Record(1, 0, 0, crash))
    told = json.loads(json_lines.getvalue())
    assert (told["event"], told["signal"], told["root"], told["file"]) == (
        "a crashed",
        "SIGKILL",
        "panic: nil",
        "a.log",
    )
    assert "code" not in told


def test_what_only_the_journal_needs_is_not_told() -> None:
    assert line(ev.Observation(values={})) is None


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not systemd.notify("READY=1")


async def test_the_watchdog_is_pinged_only_while_there_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        asked: list[int] = []

        def progress() -> int:
            asked.append(1)
            return min(len(asked), 3)  # stuck from the third question on

        async with anyio.create_task_group() as group:
            group.start_soon(systemd.keep_alive, progress)
            with anyio.fail_after(30):
                while len(asked) < 8:  # noqa: ASYNC110  # the function under test offers nothing to wait for
                    await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        pings = [manager.recv(100) for _ in range(3)]
        assert pings == [b"WATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_a_traceback_at_a_terminal_shows_no_variables() -> None:
    stream = StringIO()
    logging.configure(stream, terminal=True)
    password = "hunter" + "22"  # not as one word in the source line that the traceback quotes
    try:
        _ = 1 / (len(password) - 8)
    except ZeroDivisionError:
        structlog.get_logger().exception("what went wrong")
    assert "ZeroDivisionError" in stream.getvalue()
    assert "hunter22" not in stream.getvalue()
