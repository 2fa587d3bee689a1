"""What is read back of a container's log: bounded, in order, whatever is in it."""

from __future__ import annotations

import calendar
import json
import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from docker_client import Client
from docker_engine import PrivateEngine, can_be_private
from docker_journald import engine_with_journald, missing
from docker_soak import IDLE, engine_of, new_name, said, soaking
from hypothesis import given
from hypothesis import strategies as st

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.files import ANSWER, WHOLE, read_end
from supervisor.engines.dockerd.lines import Lines
from supervisor.engines.dockerd.logs import Records, Wanted, follow, read
from supervisor.engines.dockerd.restore import inspect
from supervisor.journal.writer import JournalWriter
from supervisor.watch import evidence


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is meant here, not how long a busy machine may take for it."""
    for name in ("READING", "WRITING", "RECORDING"):
        monkeypatch.setattr(evidence, name, 15.0)


def rotated(path: str) -> bool:
    """Whether a part of a log is in another file."""
    return Path(f"{path}.1").exists()


async def written(docker: Client, program: str, *, last: int, **config: object) -> bytes:
    """Let a program run to its end, and return the last lines of what it wrote: the engine's file and its answer say the same."""
    unit = new_name()
    docker.create(unit, program, **config)  # type: ignore[arg-type]  # the container's settings
    docker.start(unit)
    docker.call("POST", f"containers/{unit}/wait")
    async with engine_of(docker, unit).docker.connect(Path()) as api:
        seen = await inspect(api, unit)
        assert seen
        asked = replace(seen, log_path="")
        text = await read(api, asked, Wanted(last))
        stamped = await read(api, asked, Wanted(last, stamped=True))
        if seen.log_path and isinstance(docker, PrivateEngine):  # whose files we may read
            for wanted, answer in ((Wanted(last), text), (Wanted(last, stamped=True), stamped)):
                found = read_end(seen.log_path, last, None, wanted.stamped, seen.tty)
                assert found in {answer, None}
                assert (found is None) is rotated(seen.log_path)
                assert answer == await read(api, seen, replace(wanted, settled=True))
    assert [line[25:] for line in stamped.splitlines()[1:]] == text.splitlines()[1:]
    stamps = [line[:24] for line in stamped.splitlines()[1:]]  # the first may have been cut
    assert stamps == sorted(stamps)
    return text


BOTH = "for n in 1 2 3; do echo out $n; sleep 0.02; echo err $n >&2; sleep 0.02; done; printf end"


def in_order(text: bytes) -> bool:
    """Whether both streams are there in their own order. Which of two pipes an engine reads first is its own affair."""
    lines = text.splitlines()
    return [sorted(lines), [x for x in lines if x[:3] == b"out"], [x for x in lines if x[:3] == b"err"]] == [
        [b"end", b"err 1", b"err 2", b"err 3", b"out 1", b"out 2", b"out 3"],
        [b"out 1", b"out 2", b"out 3"],
        [b"err 1", b"err 2", b"err 3"],
    ]


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_both_streams_in_order(docker: Client, driver: str) -> None:
    text = await written(docker, BOTH, last=7, host={"LogConfig": {"Type": driver}})
    assert in_order(text)


async def test_a_rotated_log(docker: Client) -> None:
    config = {"Type": "json-file", "Config": {"max-size": "2k", "max-file": "2"}}
    assert await written(docker, "seq 40", last=38, host={"LogConfig": config}) == b"".join(
        b"%d\n" % n for n in range(3, 41)
    )


async def test_a_terminal(docker: Client) -> None:
    assert await written(docker, "echo one; echo two >&2; echo three", last=2, Tty=True) == b"two\nthree\n"


async def test_binary_garbage(docker: Client) -> None:
    text = await written(docker, r"printf '\000\377\n\200\001'; echo; echo end", last=10)
    assert text.endswith(b"end\n")
    assert text.count(b"\n") == 3


async def test_lines_of_a_megabyte(docker: Client) -> None:
    program = "for n in 1 2 3 4 5 6; do head -c 1000000 /dev/zero | tr '\\000' x; echo; done; echo end"
    text = await written(docker, program, last=3)
    assert text == b"x" * 1_000_000 + b"\n" + b"x" * 1_000_000 + b"\nend\n"


PIECES = (
    "for n in 1 2 3 4 5; do head -c 20000 /dev/zero | tr '\\000' x; echo err $n >&2; done; echo; printf end"
)
ERRORS = [b"err %d" % n for n in range(1, 6)]
LONG = b"x" * 100_000


async def test_a_long_line_with_lines_of_the_other_stream_in_its_middle(docker: Client) -> None:
    unit = new_name()
    docker.create(unit, PIECES)
    docker.start(unit)
    docker.call("POST", f"containers/{unit}/wait")
    live = {1: b"", 2: b""}

    def take(stream: int, text: bytes) -> bool:
        live[stream] += text
        return False

    async with engine_of(docker, unit).docker.connect(Path()) as api:
        seen = await inspect(api, unit)
        assert seen
        asked = replace(seen, log_path="")
        answers = [await read(api, asked, Wanted(last, stamped=True)) for last in (7, 100)]
        await follow(api, seen, 0, take)
    if isinstance(docker, PrivateEngine):
        answers.append(read_end(seen.log_path, 7, None, stamped=True, tty=False) or b"")
    for lines in (answer.splitlines() for answer in answers):
        assert all(re.match(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
        words = [line[25:] for line in lines]
        assert [word for word in words if word[:3] == b"err"] == ERRORS
        assert [word for word in words if word[:3] != b"err"] == [LONG, b"end"]
    assert live == {1: LONG + b"\nend\n", 2: b"\n".join([*ERRORS, b""])}


def frame(stream: int, second: int, text: bytes) -> bytes:
    """Write a record as an engine does."""
    text = b"2026-11-20T19:00:%02d.123456789Z " % second + text
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def stamped(second: int, text: bytes) -> bytes:
    return b"2026-11-20T19:00:%02d.123Z " % second + text


BOTH_LONG = [
    (1, 1, b"a" * WHOLE),
    (2, 2, b"b" * WHOLE),
    (1, 3, b"a" * WHOLE),
    (2, 4, b"b\n"),
    (2, 5, b"short\n"),
    (1, 1, b"\n"),
    (2, 6, b"c" * WHOLE),
    (1, 7, b"last words"),
]


def test_lines_of_both_streams_are_whole_and_stand_where_they_begin(tmp_path: Path) -> None:
    records = Records(plain=False, stamped=True)
    for record in BOTH_LONG:
        records.take(frame(record[0], record[1], record[2]))
    whole = [
        stamped(1, b"a" * 2 * WHOLE + b"\n"),
        stamped(2, b"b" * WHOLE + b"b\n"),
        stamped(5, b"short\n"),
        stamped(6, b"c" * WHOLE + b"\n"),
        stamped(7, b"last words\n"),
    ]
    assert records.text() == b"".join(whole)
    assert records.count == len(BOTH_LONG)
    entries = [
        {
            "log": text.decode(),
            "stream": ["stdout", "stderr"][stream - 1],
            "time": f"2026-11-20T19:00:{second:02}.123Z",
        }
        for stream, second, text in BOTH_LONG
    ]
    path = tmp_path / "json.log"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for last in (1, 3, 9):
        assert read_end(str(path), last, None, stamped=True, tty=False) == b"".join(whole[-last:])


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 30), st.booleans()), max_size=60), st.integers(0, 99)
)
def test_the_end_of_all_lines_is_kept_although_some_never_end(
    pieces: list[tuple[int, int, bool]], limit: int
) -> None:
    lines, whole, present = Lines(limit), list[bytes](), dict[int, int]()
    for number, (stream, size, ended) in enumerate(pieces):
        text = (b"%02d" % number * size)[:size] + b"\n" * ended
        assert lines.begins(stream) is (stream not in present)
        lines.add(stream, text, ended=ended)
        if stream not in present:
            present[stream] = len(whole)
            whole.append(b"")
        whole[present[stream]] += text
        if ended:
            del present[stream]
    text = b"\n".join(line.removesuffix(b"\n") for line in whole)
    text += b"\n" if whole and whole[-1].endswith(b"\n") else b""
    assert lines.text() == (text[-limit:] if limit else b"")


def test_the_rest_of_a_line_that_began_before_stands_first() -> None:
    """A line's records have the time of its first one: that of a rest is before all that has come."""
    records = Records(plain=False, stamped=True, shown=False)
    for stream, second, text in [
        (2, 5, b"short\n"),
        (1, 1, b"a" * WHOLE),
        (1, 1, b"\n"),
        (1, 4, b"set back\n"),
    ]:
        records.take(frame(stream, second, text))
    assert records.text() == b"a" * WHOLE + b"\nshort\nset back\n"


async def test_more_than_anybody_wants(docker: Client) -> None:
    program = "for n in 1 2 3 4 5 6; do head -c 1000000 /dev/zero | tr '\\000' x; echo; done; echo end"
    text = await written(docker, program, last=1000)
    assert len(text) <= ANSWER
    assert text.endswith(b"x\nend\n")


async def test_a_driver_without_reading_says_so(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    docker.create(unit, "echo lost", host={"LogConfig": {"Type": "none"}})
    async with soaking(journal, engine_of(docker, unit), watch=False) as soak:
        with pytest.raises(EngineError, match="its logging driver none keeps nothing to read"):
            await soak.fleet.logs(unit, last=1)


async def test_a_crash_without_a_log_has_a_file_that_says_so(docker: Client, journal: JournalWriter) -> None:
    unit = new_name()
    again = "if test -e /tmp/again; then exec sleep 1000; fi; touch /tmp/again; exit 9"
    docker.create(unit, again, host={"LogConfig": {"Type": "none"}})
    async with soaking(journal, engine_of(docker, unit, start=True, stop_timeout="1s")) as soak:
        crash = await soak.crashed(unit)
        assert not crash.captured
        assert "note: cannot read the log: the log of" in soak.crash_file(crash)


@pytest.mark.parametrize("readable", [True, False])
async def test_a_log_that_goes_to_a_syslog_server(
    docker: Client, journal: JournalWriter, readable: bool
) -> None:
    """An engine keeps a copy of what it sends away, unless it was told not to."""
    unit = new_name()
    again = "if test -e /tmp/again; then exec sleep 1000; fi; touch /tmp/again; echo last words; exit 9"
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        settings = {"syslog-address": address, "cache-disabled": "false" if readable else "true"}
        docker.create(unit, again, host={"LogConfig": {"Type": "syslog", "Config": settings}})
        async with soaking(journal, engine_of(docker, unit, start=True, stop_timeout="1s")) as soak:
            crash = await soak.crashed(unit)
            assert b"last words" in server.recv(1000)
    assert crash.captured is readable
    if readable:
        assert soak.last_words(crash) == ["last words"]
    else:
        assert "its logging driver syslog keeps nothing to read; use json-file" in soak.crash_file(crash)


async def test_journald(journal: JournalWriter, tmp_path: Path) -> None:
    if why := can_be_private() or missing():
        pytest.skip(f"no journald of our own: {why}")
    with engine_with_journald(tmp_path) as docker:
        host = {"LogConfig": {"Type": "journald"}}
        assert in_order(await written(docker, BOTH, last=7, host=host))
        unit = new_name()
        docker.create(unit, f"echo begin; {IDLE}", host={**host, "RestartPolicy": {"Name": "always"}})
        docker.start(unit)
        async with soaking(journal, engine_of(docker, unit, own_policy="adopt")) as soak:
            for times in (1, 2):
                await soak.until(lambda n=times: said(docker, unit, n))
                os.kill(docker.inspect(unit)["State"]["Pid"], signal.SIGKILL)
                assert soak.last_words(await soak.crashed(unit, times)) == ["begin", "up"] * times
        docker.remove(unit)


async def test_lines_across_restarts_and_between_times(
    docker: Client, journal: JournalWriter, tmp_path: Path
) -> None:
    del tmp_path
    unit = new_name()
    docker.create(unit, "echo one; echo two; printf 'last words'")
    for _ in range(3):
        docker.start(unit)
        docker.call("POST", f"containers/{unit}/wait")
    async with soaking(journal, engine_of(docker, unit), watch=False) as soak:
        assert await soak.fleet.logs(unit, last=4) == b"last words\none\ntwo\nlast words\n"


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50), st.integers(0, 400))
def test_records_are_taken_apart_however_they_arrive(texts: list[bytes], step: int, limit: int) -> None:
    stream = b"".join(bytes([1, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for text in texts)
    records = Records(plain=False, limit=limit)
    pieces = [piece for at in range(0, len(stream), step) for piece in records.take(stream[at : at + step])]
    taken = b"".join(text for _, text in pieces)
    whole = b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)
    assert taken == whole
    assert records.count == len(texts)
    assert records.text() == (whole[-limit:] if limit else b"")


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 60), st.sampled_from(["", "x" * 999]))
def test_the_last_lines_of_a_file_up_to_a_time(
    tmp_path_factory: pytest.TempPathFactory, written: int, last: int, until: int, words: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "json.log"
    entries = [
        {"log": f"{words}{n}\n", "stream": "stdout", "time": f"2026-11-20T19:00:{n:02}.5Z"}
        for n in range(written)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    expected = [f"{words}{n}\n".encode() for n in range(min(written, until))][-last:]
    at = calendar.timegm((2026, 11, 20, 19, 0, until))
    assert read_end(str(path), last, at, stamped=False, tty=False) == b"".join(expected)
