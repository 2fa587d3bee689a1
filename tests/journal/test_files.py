from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journal import files
from supervisor.journal.files import Logs, RotatedLog, make_durable, write_atomically


def log_at(path: Path, max_bytes: int = 1000, keep: int = 3) -> tuple[RotatedLog, list[RotatedLog]]:
    woken: list[RotatedLog] = []
    return RotatedLog(path, max_bytes, keep, woken.append), woken


def generations(path: Path) -> list[bytes]:
    """Return the contents of a log from the oldest generation to the present one."""
    old = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.name.rpartition(".")[2]))
    return [file.read_bytes() for file in (*old, path)]


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "sub" / "a.json", b"old")
    assert path.read_bytes() == b"old"

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_file_may_be_made_durable_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[str]()

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  # no file of a disk

    monkeypatch.setattr(os, "fsync", sync)
    path = write_atomically(tmp_path / "a.log", b"words", sync=False)
    assert (path.read_bytes(), synced) == (b"words", [])
    make_durable(path)
    assert synced == [str(path)]


def test_a_log_wakes_the_thread_once_for_all_that_is_queued(tmp_path: Path) -> None:
    log, woken = log_at(tmp_path / "a.log")
    log.write(b"one ")
    log.write(b"two\n")
    assert woken == [log]
    logs = Logs()
    logs.flush(log)
    logs.flush(log)
    log.write(b"three\n")
    assert woken == [log, log]
    logs.flush(log)
    logs.close()
    assert log.path.read_bytes() == b"one two\nthree\n"


@given(sizes=st.lists(st.integers(1, 400), max_size=40), keep=st.integers(0, 3))
def test_a_rotated_log_keeps_the_last_bytes_in_few_files_of_bounded_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], keep: int
) -> None:
    path = tmp_path_factory.mktemp("logs") / "unit.log"
    log, _ = log_at(path, max_bytes=1000, keep=keep)
    logs, everything = Logs(), b""
    for n, size in enumerate(sizes):
        chunk = bytes([n % 256]) * size
        everything += chunk
        log.write(chunk)
        logs.flush(log)
    logs.close()
    if sizes:
        found = generations(path)
        assert len(found) <= keep + 1
        assert all(len(content) <= 1000 for content in found)
        assert everything.endswith(b"".join(found))
        assert len(b"".join(found)) >= min(len(everything), keep * 600)


def test_a_log_goes_on_where_an_earlier_run_left_it(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"x" * 900)
    log, _ = log_at(tmp_path / "a.log")
    logs = Logs()
    log.write(b"y" * 200)
    logs.flush(log)
    logs.close()
    assert generations(log.path) == [b"x" * 900, b"y" * 200]


def test_what_comes_too_fast_is_dropped_and_counted(tmp_path: Path) -> None:
    log, _ = log_at(tmp_path / "a.log", max_bytes=10**7)
    for _ in range(12):
        log.write(b"x" * 100_000)
    logs = Logs()
    logs.flush(log)
    log.write(b"after\n")
    logs.flush(log)
    logs.close()
    assert log.path.read_bytes() == b"x" * 900_000 + b"soakd: dropped 300000 bytes\nafter\n"


def test_small_pieces_do_not_pile_up_unseen(tmp_path: Path) -> None:
    log, _ = log_at(tmp_path / "a.log")
    for _ in range(100_000):
        log.write(b"x")
    assert len(log._chunks) < 20_000


def test_what_the_disk_does_not_take_is_counted_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = log_at(tmp_path / "a.log")
    logs = Logs()
    log.write(b"first\n")
    logs.flush(log)

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        log.write(b"lost\n")
        logs.flush(log)
    monkeypatch.setattr(os, "write", lambda descriptor, data: os.pwrite(descriptor, data[:3], 6))
    log.write(b"lost\n")
    logs.flush(log)
    monkeypatch.undo()
    log.write(b"again\n")
    logs.flush(log)
    logs.close()
    assert log.path.read_bytes() == b"first\nlosagain\nsoakd: dropped 12 bytes\n"


def test_few_files_are_open_however_many_logs_there_are(tmp_path: Path) -> None:
    logs, before = Logs(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that is wanted
    for round_ in range(2):
        for n in range(files.OPEN * 2):
            log, _ = log_at(tmp_path / f"unit{n}" / "mon.log")
            log.write(b"%d\n" % round_)
            logs.flush(log)
    assert len(os.listdir("/proc/self/fd")) < before + files.OPEN + 10  # noqa: PTH208  # as above
    logs.close()
    assert not logs._open
    for n in range(files.OPEN * 2):
        assert (tmp_path / f"unit{n}" / "mon.log").read_bytes() == b"0\n1\n"
