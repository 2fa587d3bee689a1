from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journal import runs
from supervisor.journal.runs import Locked, RunIndex, boot_id, create_run_dir, state_dir

NOON = 1_763_640_000.5
"""2025-11-20 12:00:00 UTC."""

HOLD = """
import subprocess, sys
from pathlib import Path
from supervisor.journal.runs import RunIndex
index = RunIndex(Path(sys.argv[1]))
lock = index.lock(["nats1"], "the-other-run")
entry = index.enter("the-other-run", Path(sys.argv[1]), "soak")
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_run_directory_is_named_after_soak_and_time_and_latest_points_to_it(tmp_path: Path) -> None:
    first = create_run_dir(tmp_path, "provisioning", NOON)
    assert first == tmp_path / "provisioning" / "20251120T120000Z"
    assert (tmp_path / "provisioning" / "latest").resolve() == first
    second = create_run_dir(tmp_path, "provisioning", NOON + 60)
    assert (tmp_path / "provisioning" / "latest").resolve() == second
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, second.name, "latest"]


def test_two_starts_in_one_second_get_two_directories(tmp_path: Path) -> None:
    made = [create_run_dir(tmp_path, "s", NOON).name for _ in range(3)]
    assert made == ["20251120T120000Z", "20251120T120000Z-2", "20251120T120000Z-3"]


@given(name=st.text(max_size=300))
def test_any_soak_name_makes_one_folder_below_the_root(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    made = create_run_dir(root, name, NOON)
    assert made.parent.parent == root
    assert not made.parent.name.startswith(".")


@given(first=st.text(max_size=300), second=st.text(max_size=300))
def test_any_key_makes_a_file_name_of_its_own(first: str, second: str) -> None:
    names = runs._safe(first), runs._safe(second)
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert 0 < len(name.encode()) <= 255


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SOAKD_STATE_DIR": "/a", "STATE_DIRECTORY": "/b", "XDG_STATE_HOME": "/c"}, "/a"),
        ({"STATE_DIRECTORY": "/b:/bb", "XDG_STATE_HOME": "/c"}, "/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/soakd"),
        ({"HOME": "/d"}, "/d/.local/state/soakd"),
    ],
)
def test_the_state_directory_is_the_most_particular_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("SOAKD_STATE_DIR", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert state_dir() == Path(expected)


def test_a_living_run_is_not_abandoned_and_one_that_left_is_gone(tmp_path: Path) -> None:
    index = RunIndex(tmp_path / "state")
    assert index.abandoned() == []
    entry = index.enter("r/1", tmp_path, "soak")
    assert entry.pid == os.getpid()
    assert entry.boot == boot_id()
    assert index.abandoned() == []
    entry.leave()
    entry.leave()
    assert index.abandoned() == []
    assert list((tmp_path / "state" / "runs").iterdir()) == []


def test_an_entry_nobody_can_read_stops_nobody(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text("{")
    (tmp_path / "runs" / "b.json").write_text("[]")
    (tmp_path / "runs" / "c.json").write_text('{"run_dir": "/"}')
    assert index.abandoned() == []


def test_locks_are_all_or_none_and_name_their_holder(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    held = index.lock(["b", "compose/nats1"], "run-1")
    with pytest.raises(Locked) as refused:
        index.lock(["a", "compose/nats1", "z"], "run-2")
    assert str(refused.value) == (
        f"cannot use compose/nats1: the run run-1 has it (pid {os.getpid()}); "
        f"wait for its end, or end it with `kill {os.getpid()}`"
    )
    index.lock(["a", "z"], "run-3").release()
    held.release()
    held.release()
    index.lock(["a", "b", "compose/nats1"], "run-4").release()


def test_a_holder_that_has_not_written_its_name_is_still_told_of(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    held = index.lock(["a"], "run-1")
    os.truncate(tmp_path / "locks" / "a", 0)
    with pytest.raises(Locked, match="another run has just taken it"):
        index.lock(["a"], "run-2")
    held.release()


def test_locks_die_with_their_owner_though_its_children_live(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        try:
            index = RunIndex(tmp_path)
            assert index.abandoned() == []
            with pytest.raises(Locked, match=rf"the run the-other-run has it \(pid {owner.pid}\)"):
                index.lock(["nats1"], "mine")
            owner.kill()
            owner.wait()
            os.kill(child, 0)  # the child is there, and has not kept what it was born beside
            index.lock(["nats1"], "mine").release()
            (entry,) = index.abandoned()
            assert (entry.run_id, entry.soak, entry.pid) == ("the-other-run", "soak", owner.pid)
            assert entry.run_dir == tmp_path.resolve()
            assert index.abandoned() == [entry]
            entry.leave()
            assert index.abandoned() == []
        finally:
            os.kill(child, 9)


def test_the_index_refuses_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        RunIndex(tmp_path / "file").enter("r", tmp_path, "s")
    index = RunIndex(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index.enter("r", tmp_path, "s")
    monkeypatch.undo()
    assert list((tmp_path / "runs").iterdir()) == []
