"""Reading back what units wrote, against a plain reading of everything, over any rotation and any blocks."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.engines import output
from supervisor.engines.output import Awaited, Generations, Output, stamp

START = 1_763_668_321.0


@dataclass
class Files:
    """A rotated log on disk, rotated where the test says."""

    path: Path
    parts: list[bytes] = field(default_factory=lambda: [b""])

    def write(self, data: bytes) -> None:
        self.parts[-1] += data

    def save(self) -> None:
        names = ["output.log", *(f"output.log.{n}" for n in range(1, output.GENERATIONS + 1))]
        for name, content in zip(names, reversed(self.parts), strict=False):
            (self.path.parent / name).write_bytes(content)


@dataclass
class Plain:
    """The same as lines with the time at which each began."""

    lines: list[tuple[int, bytes]] = field(default_factory=list)
    fresh: bool = True

    def write(self, millis: int, data: bytes) -> None:
        for piece in re.findall(rb"[^\n]*\n|[^\n]+$", data):
            if self.fresh:
                self.lines.append((millis, piece))
            else:
                begun, before = self.lines[-1]
                self.lines[-1] = begun, before + piece
            self.fresh = piece.endswith(b"\n")


text = st.one_of(
    st.binary(max_size=60), st.lists(st.sampled_from([b"ab", b"\n", b"\r", stamp(START)])).map(b"".join)
)
writes = st.lists(st.tuples(st.integers(0, 5000), text, st.booleans()), max_size=20)


@settings(deadline=None, max_examples=150)
@given(
    writes=writes,
    block=st.integers(1, 200),
    lines=st.integers(0, 30),
    since=st.integers(-100, 60_000),
    span=st.integers(0, 30_000),
)
def test_reading_back_equals_a_plain_reading(
    writes: list[tuple[int, bytes, bool]], block: int, lines: int, since: int, span: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(output, "CARRY", block):
        files, plain, now = Files(Path(folder) / "output.log"), Plain(), 0
        unit = Output(files)
        for wait, data, rotate in writes:
            now += wait
            with mock.patch.object(output.time, "time", return_value=START + now / 1000 + 0.0001):
                unit.take(data)
            plain.write(now, data)
            if rotate and len(files.parts) <= output.GENERATIONS:
                files.parts.append(b"")
        files.save()
        with Generations(files.path) as found:
            assert found.last(lines) == b"".join(line for _, line in plain.lines[-lines:] if lines)
            assert found.between(None, None) == b"".join(line for _, line in plain.lines)
            until = since + span
            assert found.between(START + since / 1000 + 0.0002, START + until / 1000 + 0.0002) == b"".join(
                line for begun, line in plain.lines if since <= begun <= until
            )


def test_a_line_that_was_not_ended_does_not_run_into_the_next_life(tmp_path: Path) -> None:
    files = Files(tmp_path / "output.log")
    unit = Output(files)
    for words in (b"no newline", b"", b"a newline\n", b"again none"):
        unit.take(words)
        unit.end()
    files.save()
    with Generations(files.path) as found:
        assert found.last(9) == b"no newline\na newline\nagain none\n"


def test_the_answer_is_bounded(tmp_path: Path) -> None:
    files = Files(tmp_path / "output.log")
    unit = Output(files)
    for n in range(100):
        unit.take(b"%d %s\n" % (n, b"x" * 1000))
    files.save()
    with Generations(files.path, limit=5000) as found:
        for part in (found.last(100), found.between(None, None), found.between(time.time() - 60, None)):
            assert 3000 < len(part) <= 5000
            assert part.endswith(b"99 " + b"x" * 1000 + b"\n")


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    with Generations(tmp_path / "output.log") as found:
        assert found.last(5) == found.between(None, None) == found.between(0, 2e9) == b""


def test_a_rotation_while_files_are_opened_loses_nothing(tmp_path: Path) -> None:
    """Between the opening of two files each moves to the next name."""
    files = Files(tmp_path / "output.log", [b"1\n", b"2\n", b"3\n"])
    files.save()
    (spare := tmp_path / "spare").write_bytes(b"4\n")
    real, opened = Path.open, []

    def rotating(path: Path, *args: object) -> object:
        file = real(path, "rb")
        opened.append(path.name)
        if len(opened) == 1:
            for n in (2, 1, 0):
                name = f"output.log.{n}" if n else "output.log"
                (tmp_path / name).rename(tmp_path / f"output.log.{n + 1}")
            shutil.copy(spare, tmp_path / "output.log")
        return file

    with mock.patch.object(Path, "open", rotating), Generations(files.path) as found:
        assert found.between(None, None) == b"1\n2\n3\n"
    assert len(opened) == 4


@given(st.lists(st.binary(max_size=30)), st.integers(0, 3))
def test_a_pattern_is_found_however_the_output_is_cut(chunks: list[bytes], cut: int) -> None:
    whole = b"\n".join(chunks).replace(b"ready", b"") + b"\nit is ready now\n"
    awaited = Awaited(r"^it is ready \w+")
    for start in range(0, len(whole), cut + 1):
        assert awaited.seen.is_set() == (
            re.search(rb"^it is ready \w+", whole[:start], re.MULTILINE) is not None
        )
        awaited.take(whole[start : start + cut + 1])
    assert awaited.seen.is_set()
