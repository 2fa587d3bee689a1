"""Runs that cannot be: what is wrong is said in one clear line, exit 2, and everything started is stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from soakd_run import Soakd, soak_file


def refused(soakd: Soakd, soak: dict[str, Any], *words: str) -> str:
    done = soakd.command("run", str(soakd.write(soak)), *words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert soakd.units() == []
    return done.stderr


def test_an_unknown_unit_is_refused(soakd: Soakd) -> None:
    told = refused(soakd, soak_file(faults={"bounce": {"restart": ["aa"], "every": "1s"}}))
    assert "faults.bounce.restart" in told
    assert "aa" in told


def test_a_command_that_does_not_exist_is_refused(soakd: Soakd) -> None:
    soak = soak_file()
    soak["engines"]["local"]["process"]["units"]["a"]["command"] = ["no-such-program"]
    soak["loads"]["ping"]["command"] = ["no-such-load"]
    told = refused(soakd, soak)
    assert "no-such-program" in told
    assert "no-such-load" in told


def test_a_port_in_use_is_refused(soakd: Soakd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        soak = soak_file()
        soak["engines"]["local"]["process"]["units"]["a"]["ready"] = {"port": port}
        assert f"{port}" in refused(soakd, soak)
        assert f"{port}" in refused(soakd, soak_file(web={"port": port}))


def test_a_unit_that_cannot_start_is_refused_with_its_last_words(soakd: Soakd) -> None:
    soak = soak_file()
    soak["engines"]["local"]["process"]["units"]["b"]["command"] = ["sh", "-c", "echo no such table; exit 4"]
    told = refused(soakd, soak)
    assert "b" in told
    assert "no such table" in told


def test_a_broker_that_is_never_reachable_is_refused(soakd: Soakd, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = nobody.getsockname()[1]
        monkeypatch.setenv("SOAKD_REACH_BROKER", "2s")
        told = refused(soakd, soak_file(broker={"servers": [f"127.0.0.1:{port}"], "reach": "2s"}))
        assert f"127.0.0.1:{port}" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_refused(soakd: Soakd, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], check=True)
    try:
        with (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 4096) == 4096:  # a full disk makes a short write, or none
                if shutil.disk_usage(disk).free == 0:
                    break
        told = refused(soakd, soak_file(), "--run-dir", str(disk))
        assert str(disk) in told
        assert "--run-dir" in told
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    shutil.rmtree(disk)


def test_a_state_directory_that_cannot_be_used_is_named(
    soakd: Soakd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOAKD_STATE_DIR", "/dev/null")
    told = refused(soakd, soak_file())
    assert "/dev/null" in told
    assert "SOAKD_STATE_DIR" in told
    assert len(told.splitlines()) == 1


def test_a_path_that_cannot_be_told_in_one_line_is_refused(soakd: Soakd) -> None:
    for name in ("two\nlines", os.fsdecode(b"not\xffutf8")):
        told = refused(soakd, soak_file(), "--run-dir", str(soakd.folder / name))
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "FILE"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "x.yaml", "--duration", "5"], "duration"),
        (["report", "nowhere"], "nowhere"),
        (["crashes", "nowhere"], "nowhere"),
        (["walk"], "walk"),
        ([], "COMMAND"),
    ],
)
def test_wrong_words_are_answered_in_words(soakd: Soakd, words: list[str], told: str) -> None:
    done = soakd.command(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
