"""Root causes, signatures and crash files. `tails/` holds the ends of real logs, most of them as the programs printed them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.journal.events import UnitCrashed
from supervisor.watch import crashes
from supervisor.watch.crashes import file_name, header, how_it_ended, parse, signature, stable, summarize

TAILS = Path(__file__).parent / "tails"
EXPECTED = {
    "dotnet": "System.InvalidOperationException: queue <n> is closed [Worker.cs in Shop.Worker.Handle]",
    "go-deadlock": "fatal error: all goroutines are asleep - deadlock! [a.go in main.main]",
    "go-index": "panic: runtime error: index out of range [<n>] with length <n> [a.go in main.main.func2]",
    "go-nil-map": "panic: assignment to entry in nil map [a.go in main.(*S).handle]",
    "go-panic-while-panicking": "panic: cannot publish to stream.<n>: nats: timeout [a.go in main.deep]",
    "go-repanicked": "panic: cannot publish to stream.<n>: nats: timeout [a.go in main.deep]",
    "java-caused-by": "java.net.ConnectException: Connection refused [App.java in App.connect]",
    "json-pino": "Error: connect ECONNREFUSED <n> [broker.js in connect]",
    "json-structlog": "cannot publish: nats: no response from stream",
    "json-structured-trace": "ConnectionResetError: [Errno 104] Connection reset by peer [listener.py in poll]",
    "json-with-trace": "TimeoutError: no changes within <n>s [listener.py in poll]",
    "last-words": "giving up after <n> attempts",
    "logfmt": 'level=fatal msg="cannot open store" path=/var/lib/x/<n>.db',
    "nats-config": 'nats-server: bad.conf:<n>: unknown field "foo"',
    "nats-port": '[FTL] Error listening on port: <n>, "listen tcp: address <n>: invalid port"',
    "nats-storage": "[FTL] Can't start JetStream: could not create storage directory - "
    "mkdir /proc/nope: no such file or directory",
    "node-cause": "TypeError: socket <n> hung up [x.js in connect]",
    "node-rejection": "Error: nope <n>",
    "python-cut-off": "FATAL dispatcher: no broker at <n> after <n>s",
    "python-group": "TimeoutError [g.py in a]",
    "python-journald": "ConnectionError: udm answered <n> [prefill.py in fetch]",
    "python-logged-then-died": "nats.js.errors.KeyNotFoundError: nats: key not found: "
    "code=None err_code=None description='None' [service.py in handle]",
    "python-nats": "nats.errors.NoServersError: nats: no servers available for connection [h.py in m]",
    "python-syntax": "SyntaxError: '(' was never closed",
    "rust-backtrace": 'panic: called `Result::unwrap()` on an `Err` value: "connection refused (os error 111)" [a.rs]',
    "rust-before-1.73": "panic: called `Option::unwrap()` on a `None` value, id <n> [consumer.rs]",
    "rust-error": 'Error: Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }',
    "rust-poisoned": "panic: queue of <n> is full [a.rs]",
}


def test_every_tail_has_its_expectation() -> None:
    assert {path.stem for path in TAILS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_root_cause_of(name: str) -> None:
    assert signature((TAILS / f"{name}.txt").read_bytes()) == EXPECTED[name]


CHAIN = """
import asyncio

def connect():
    raise ConnectionError("no broker at 127.0.0.1:4222")

def publish():
    try:
        connect()
    except ConnectionError as error:
        raise RuntimeError("cannot publish message 17") from error

async def worker():
    try:
        publish()
    except RuntimeError:
        {}["fallback"]

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(worker())

asyncio.run(main())
"""


TRACES = [
    name
    for name in EXPECTED
    if name.startswith(("go-", "java-", "node-", "dotnet", "python-", "rust-"))
    and name not in {"python-cut-off", "python-journald", "python-syntax", "rust-error"}
]
LOGGED = [
    *("INFO: order 18 is placed", "2026-11-20 19:52:01,123 INFO shop: order 19"),
    *('{"level": "info", "event": "order 20"}', "[2026-11-20T19:52:01Z] ok"),
]
ANY = ["order 17 is done", "  indented, for once", "Worker: done"]
BETWEEN = [(name, other) for name in TRACES for other in LOGGED + ANY * name.startswith("python")]


@pytest.mark.parametrize(("name", "other"), BETWEEN)
def test_the_root_cause_between_lines_of_another_stream(name: str, other: str) -> None:
    """Between any two lines of a trace there may be one that standard output had meanwhile; in Python's it may be any."""
    lines = (TAILS / f"{name}.txt").read_text().splitlines()
    for between in range(1, len(lines)):
        assert signature("\n".join([*lines[:between], other, *lines[between:]]).encode()) == EXPECTED[name]
    everywhere = "".join(f"{line}\n{other}\n" for line in lines)
    assert signature(everywhere.encode()) == EXPECTED[name]


def test_a_chain_inside_a_group_as_this_python_prints_it(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(CHAIN)
    died = subprocess.run([sys.executable, str(program)], capture_output=True, check=False, timeout=30)
    assert signature(died.stderr) == "ConnectionError: no broker at <n> [service.py in connect]"


def test_a_timeout_is_not_called_a_cancellation(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(
        "import asyncio\nasync def fetch():\n    await asyncio.wait_for(asyncio.Event().wait(), 0.01)\nasyncio.run(fetch())\n"
    )
    died = subprocess.run([sys.executable, str(program)], capture_output=True, check=False, timeout=30)
    assert signature(died.stderr) == "TimeoutError [service.py in fetch]"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"ERROR pid 17: lost 127.0.0.1:4222 after 3s", b"ERROR pid 4711: lost 10.0.0.7:50001 after 12.75s"),
        (b"2025-11-20 19:52:12,1 ERROR x: no", b"2026-01-01 00:00:00,99 ERROR x: no"),
        (b"Nov  2 19:52:12 h ERROR at 09:00:01", b"Dec 20 01:02:03 h ERROR at 23:59:59.123"),
        (b"ERROR <S object at 0x7f00aa>", b"ERROR <S object at 0x55d3f2c1>"),
        (b"ERROR in /tmp/tmpab12cd/run/nats.conf: x", b"ERROR in /tmp/tmpzz99/run/nats.conf: x"),
        (b"ERROR in /tmp/tmpab12cd: x", b"ERROR in /tmp/tmpzz99: x"),
        (
            b"ERROR id 3fa85f64-5717-4562-b3fc-2c963f66afa6",
            b"ERROR id 00000000-5717-4562-b3fc-aaaaaaaaaaaa",
        ),
        (b"ERROR reply _INBOX.ab.cd1", b"ERROR reply _INBOX.zz99.Y.Z"),
        (b"ERROR server NCH5FRGDSCOPLU2H2LEGHFSHEY7MVK", b"ERROR server NB2QF3LJUQVXAKTI2EU2VL72OR5GSC"),
        (b"ERROR container 4f1d2a9b77aa", b"ERROR container b2fd3ef00012"),
        (b"\x1b[31mERROR\x1b[0m no", b"ERROR no"),
        (b"worker-2  | ERROR no", b"worker-17  | ERROR no"),
    ],
)
def test_two_of_a_kind_have_one_signature(first: bytes, second: bytes) -> None:
    assert signature(first) == signature(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"ERROR err_code=10008", b"ERROR err_code=10059"),
        (b"OSError: [Errno 111] x", b"OSError: [Errno 104] x"),
        (b"ERROR status 503", b"ERROR status 404"),
        (b"ERROR nats1 is away", b"ERROR nats2 is away"),
    ],
)
def test_what_tells_causes_apart_is_kept(first: bytes, second: bytes) -> None:
    assert signature(first) != signature(second)


def test_a_log_without_a_word() -> None:
    assert signature(b"") == signature(b" \n\r\n \x00\n") == ""


GARBAGE = st.one_of(
    st.binary(max_size=2000),
    st.lists(
        st.sampled_from(
            [
                "Traceback (most recent call last):",
                "  + Exception Group Traceback (most recent call last):",
                '  File "/app/x.py", line 3, in f',
                "    x()",
                "ValueError: no",
                "  | ExceptionGroup: x (2 sub-exceptions)",
                "    +---------------- 2 ----------------",
                "During handling of the above exception, another exception occurred:",
                "panic: x [recovered]",
                "goroutine 1 [running]:",
                "panic({0x1, 0x2})",
                "main.f()",
                "\t/app/x.go:1 +0x1",
                "[1] 2025/11/20 19:52:12 [FTL] no",
                "thread 'main' panicked at 'x', y.rs:1:2",
                "thread 'main' panicked at y.rs:1:2:",
                "Caused by: a.B: c",
                "\tat a.B.c(B.java:1)",
                "    at f (/app/x.js:1:2) {",
                '{"level": "error", "exception": "Traceback\\n"}',
                '{"level": 60, "err": {"stack": 1}}',
                '{"exception": [{"exc_type": 1, "frames": [1, {}]}]}',
                '{"level": "fatal", "msg": "\\ud800"}',
                "{}",
                "",
                "ERROR: x",
            ]
        ),
        max_size=30,
    ).map(lambda lines: "\n".join(lines).encode()),
)


@settings(deadline=None)
@given(GARBAGE)
@example(b'{"level":"error","msg":"' + b"9" * 5000 + b'","x":' + b"1" * 5000 + b"}")
@example(b'{"a":' + b"[" * 100_000 + b"}")
@example(b"Traceback (most recent call last):\n  File " * 3000)
@example(b"panic: x [recovered " * 6000)
@example(b"    at " + b"(" * 120_000)
@example(b'Exception in thread "' * 6000)
@example(b"\n" * 200_000)
def test_nothing_makes_it_raise_and_a_signature_is_one_printable_bounded_line(tail: bytes) -> None:
    found = signature(tail)
    assert found.isprintable()
    assert len(found) <= 3 * crashes.LONGEST + 10
    found.encode()


@given(st.text(max_size=300))
def test_what_is_stable_stays_so(text: str) -> None:
    assert stable(stable(text)) == stable(text)


CRASHES = st.builds(
    UnitCrashed,
    unit=st.text("abc-/1", min_size=1),
    incarnation=st.text("0123456789:"),
    code=st.none() | st.integers(0, 255),
    signal=st.none() | st.just("SIGKILL"),
    oom=st.booleans(),
    uptime=st.none() | st.floats(0, 1e6),
    signature=st.text(max_size=50),
    consecutive=st.integers(1, 99),
    episodes=st.lists(st.just("restart-nats#7:during"), max_size=2),
)


@given(CRASHES, st.floats(0, 4e9), st.binary(max_size=200))
def test_a_header_is_read_back_whatever_follows_it(crash: UnitCrashed, wall: float, tail: bytes) -> None:
    read = parse(header(crash, wall, tail.count(b"\n"), note="no log") + tail)
    assert read is not None
    fields, rest = read
    assert rest == tail
    assert fields["unit"] == crash.unit
    assert fields["exit code"] == ("none" if crash.code is None else str(crash.code))
    assert fields["signal"] == (crash.signal or "none")
    assert fields["out of memory"] == ("yes" if crash.oom else "no")
    assert fields["consecutive"] == str(crash.consecutive)
    assert fields["open episodes"] == (" ".join(crash.episodes) or "none")
    assert fields["signature"] == " ".join(crash.signature.split())
    assert fields["lines"] == str(tail.count(b"\n"))
    assert fields["note"] == "no log"


@given(st.binary(max_size=500))
def test_any_other_file_is_no_crash_file(data: bytes) -> None:
    assert parse(data) is None


def test_a_header_as_it_is_read_by_a_person() -> None:
    crash = UnitCrashed(
        unit="dispatcher",
        incarnation="4711:90210",
        code=1,
        uptime=12.3456,
        signature="KeyError: 'x' [service.py in handle]",
        consecutive=3,
        episodes=("restart-nats#7:during",),
    )
    assert header(crash, 1763668332.5, 200).decode() == (
        "# soakd crash file 1\n"
        "# unit: dispatcher\n"
        "# incarnation: 4711:90210\n"
        "# time: 2025-11-20T19:52:12.500Z\n"
        "# exit code: 1\n"
        "# signal: none\n"
        "# out of memory: no\n"
        "# cause: crash\n"
        "# uptime: 12.346 s\n"
        "# consecutive: 3\n"
        "# open episodes: restart-nats#7:during\n"
        "# signature: KeyError: 'x' [service.py in handle]\n"
        "# lines: 200\n"
        "\n"
    )


def test_file_names_sort_by_time_and_stay_in_the_run_directory() -> None:
    names = [file_name("compose/nats1", wall) for wall in (1763668332.5, 1763668332.501, 1763668333.0, 2e9)]
    assert names == sorted(names)
    assert names[0] == "compose.nats1.crash.20251120T195212.500Z.log"


def test_how_it_ended() -> None:
    assert how_it_ended(3, None, oom=False) == "exit code 3"
    assert how_it_ended(None, "SIGKILL", oom=True) == "SIGKILL (out of memory)"


def test_a_summary_over_crash_files_and_logs_from_elsewhere(tmp_path: Path) -> None:
    def write(unit: str, wall: float, cause: str) -> Path:
        crash = UnitCrashed(unit=unit, incarnation="1:2", code=1, signature=cause)
        path = tmp_path / file_name(unit, wall)
        path.write_bytes(header(crash, wall, 1) + b"some line\n")
        return path

    late, early = write("prefill", 2e9, "KeyError: 'x'"), write("dispatcher", 1e9, "KeyError: 'x'")
    silent = write("listener", 1e9, "")
    foreign = tmp_path / "udm-listener.crash.2025.log"
    foreign.write_text("x\n" * 200_000 + "KeyError: 'x'\n")
    plain = tmp_path / "worker.log"
    plain.write_text("Traceback (most recent call last):\n  File \"/a.py\", line 1, in f\nKeyError: 'y'\n")
    groups = summarize([late, early, silent, foreign, plain])
    assert [(g.signature, g.count, dict(g.units)) for g in groups] == [
        ("KeyError: 'x'", 3, {"udm-listener": 1, "dispatcher": 1, "prefill": 1}),
        ("KeyError: 'y' [a.py in f]", 1, {"worker": 1}),
        ("nothing in the log", 1, {"listener": 1}),
    ]
    assert groups[0].files == [foreign, early, late]


def test_a_summary_of_a_file_that_is_gone_says_which(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.log"):
        summarize([tmp_path / "gone.log"])
