"""Programs in any language that tell their operations line by line."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from load_bench import Bench, until
from pydantic import ValidationError

from supervisor.histogram import Histogram
from supervisor.journal.events import CUT_OFF, LoadStopped, LoadWindow
from supervisor.journal.timeline import Timeline
from supervisor.loads.books import Books
from supervisor.loads.command import CommandLoad
from supervisor.loads.lines import LONGEST, Counts, MalformedError, Operation, Splitter, read
from supervisor.loads.recorder import Recorder

RUN_ON = "exec sleep 60"


def line(op: str = "rpc", outcome: str = "ok", **more: Any) -> str:
    return json.dumps({"op": op, "outcome": outcome, **more})


def told(*lines: str) -> str:
    """Return a script that tells these lines."""
    return "".join(f"echo '{one}'\n" for one in lines)


# --- bytes to lines, lines to what they say ----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_lines_are_the_same_however_the_stream_is_cut(parts: list[bytes], size: int) -> None:
    stream = b"\n".join(parts)
    splitter, found = Splitter(), list[bytes]()
    for at in range(0, len(stream), size):
        found += splitter.lines(stream[at : at + size])
    found += splitter.end()
    assert [one for one in found if one] == [one for one in stream.split(b"\n") if one]


def test_a_line_that_is_too_long_is_one_line_and_not_kept() -> None:
    splitter = Splitter()
    found = [one for _ in range(1000) for one in splitter.lines(b"x" * 8192)]
    assert [len(one) for one in found] == [LONGEST + 1]
    assert not splitter._rest
    assert list(splitter.lines(b'xx\n{"a"')) == []
    assert list(splitter.lines(b":1}\n")) == [b'{"a":1}']


@given(st.one_of(st.binary(), st.text().map(str.encode)))
@example(b"1" * 5000)
@example(b'{"op":"a","outcome":"ok","ms":1e999}')
@example(b'{"op":"a","outcome":"ok","ms":NaN}')
@example(b'{"count":{"a":' + b"9" * 400 + b"}}")
@example(b"[" * LONGEST)
def test_garbage_is_malformed_and_nothing_worse(garbage: bytes) -> None:
    with pytest.raises(MalformedError):
        read(garbage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("op", "outcome", "ms", "service_ms", "id", "error", "detail", "count"), JSON)
        | {"outcome": st.sampled_from(["ok", "failed", "started", "oK"])},
    )
)
def test_any_object_says_something_or_is_malformed(said: dict[str, Any]) -> None:
    try:
        found = read(json.dumps(said).encode())
    except MalformedError:
        return
    assert isinstance(found, Operation | Counts)
    assert not isinstance(found, Operation) or (found.op and (found.took is None or found.took >= 0))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[]", "a JSON object"),
        ("{}", "expected op and outcome, or count"),
        ('{"op": "rpc"}', "outcome: expected one of ok, failed"),
        ('{"outcome": "ok"}', "op: expected a text"),
        (line(outcome="OK"), "outcome: expected one of"),
        (line(ms=-1), "ms: expected milliseconds"),
        (line(ms="12"), "ms: expected milliseconds"),
        (line(ms=True), "ms: expected milliseconds"),
        (line(id=["a"]), "id: expected a text"),
        (line(id="x" * 101), "id: expected a text"),
        ('{"count": {"lost": -1}}', "count lost: expected a number"),
    ],
)
def test_a_malformed_line_says_why(text: str, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        read(text.encode())


def heard(*lines: str) -> tuple[dict[str, float], list[str]]:
    """Return what was counted of the lines of a program that was just started, and why some say nothing."""
    windows, timeline = Windows(), Timeline()
    recorder = Recorder("client", windows, timeline)
    books = Books(recorder, 30.0)
    wrong = [why for one in lines if (why := books.take(one.encode()))]
    recorder.close()
    (window,) = windows
    return {**window.counters, "scheduled": window.scheduled}, wrong


class Windows(list[LoadWindow]):
    """A sink that keeps what it gets."""

    def emit(self, event: LoadWindow) -> None:
        self.append(event)


@pytest.mark.parametrize("announced", [False, True])
def test_no_operation_is_older_than_its_program(announced: bool) -> None:
    """Else a failure told with microseconds for milliseconds would have been under way in each episode before it."""
    start = [line(outcome="started", id=1)] if announced else []
    counts, wrong = heard(
        *start, line(outcome="failed", ms=20_000, id=1), line(outcome="failed", ms=20, id=1)
    )
    assert wrong == ["ms: expected milliseconds, and no more than the 0 since the program was started"]
    assert (counts["rpc.failed"], counts["malformed_lines"], counts["scheduled"]) == (1, 1, 2)


@pytest.mark.parametrize(
    "name", ["lost", "duplicates", "program_crashes", "skipped", "rpc.ok", "rpc.started"]
)
def test_a_program_does_not_add_to_what_soakd_counts(name: str) -> None:
    counts, wrong = heard(f'{{"count": {{"forks": 1, "{name}": 5}}}}')
    assert wrong == [f"count {name}: soakd counts that itself; expected another name"]
    assert counts == {"malformed_lines": 1, "scheduled": 1}, "all of a line counts, or nothing"


# --- the examples of the page -------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "soak-file.md").read_text()


def example_in(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


async def test_the_pages_program_in_python_works(bench: Bench) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nobody else gets the port either
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        text = example_in("python").replace("127.0.0.1:9000", address).replace("sleep(0.1)", "sleep(0)")
        (bench.base / "client.py").write_text(text)
        await bench.run(command=[sys.executable, "client.py"], operations="stdout", times=1)
    assert bench.counts["get.failed"] == bench.counts["URLError"] == 20 == bench.counts["scheduled"]


async def test_the_pages_program_in_shell_works(bench: Bench) -> None:
    (bench.base / "curl").write_text("#!/bin/sh\necho an answer\n")
    (bench.base / "curl").chmod(0o755)
    path = f"{bench.base}:{os.environ['PATH']}"
    await bench.script(example_in("sh").replace("sleep 0.1", ""), operations=3, times=1, env={"PATH": path})
    assert bench.counts["get.ok"] == 20 == bench.counts["scheduled"]


def test_the_pages_lines_say_something() -> None:
    assert [type(read(one.encode())) for one in example_in("json").splitlines()] == [
        Operation,
        Operation,
        Counts,
    ]


# --- real programs -----------------------------------------------------------------------------------------------------


async def test_operations_of_a_program_count_like_any_others(bench: Bench) -> None:
    lines = [
        "\ufeff" + line(ms=50, service_ms=10),
        line(ms=50.5),
        line("event", ms=1),
        line("event", "failed", ms=3, error="refused", detail="nobody there", id=7),
        line("event", "indeterminate", ms=50, error="timeout"),
        line(outcome="dropped"),
        '{"count": {"forks": 2, "double_claims": 0}}',
    ]
    await bench.script(told(*lines) + "echo plain output; echo and errors >&2", operations="stdout", times=1)
    assert bench.counts == {
        "scheduled": 6,
        "started": 5,
        "ok": 3,
        "failed": 1,
        "indeterminate": 1,
        "refused": 1,
        "timeout": 1,
        "forks": 2,
        "rpc.ok": 2,
        "event.ok": 1,
        "event.failed": 1,
        "event.indeterminate": 1,
        "program_ends": 1,
    }
    assert sum(window.dropped for window in bench.windows) == 1
    counters = {name for window in bench.windows for name in window.counters}
    assert {"double_claims", "duplicates", "program_crashes"} <= counters, "looked at, and zero"
    assert "lost" not in counters, "nothing was announced, so nothing can be missed"
    response, service = Histogram(), Histogram()
    for window in bench.windows:
        for piece in window.slices:
            response.merge(Histogram.unpack(piece.response))
            service.merge(Histogram.unpack(piece.service))
    assert response.quantile(1.0) == pytest.approx(0.05, rel=0.05)
    assert service.quantile(0.5) == pytest.approx(0.01, rel=0.05)
    sample = next(one for one in bench.samples if one.error == "refused")
    assert (sample.name, sample.detail) == ("event 7", "nobody there")
    logged = bench.log().splitlines()
    assert {"plain output", "and errors"} <= set(logged)
    assert not [one for one in logged if one.startswith('{"op')], "what was counted is not logged as well"


async def test_lines_may_have_a_descriptor_of_their_own(bench: Bench) -> None:
    script = "echo {; echo '" + line(ms=1) + "' >&5; echo '" + line(ms=1) + "' >&5"
    await bench.script(script, operations=5, times=1)
    assert bench.counts["ok"] == 2
    assert "malformed_lines" not in bench.counts
    assert "{" in bench.log().splitlines()


async def test_garbage_is_counted_and_shown_and_does_no_harm(bench: Bench) -> None:
    script = """
        head -c 2000000 /dev/urandom
        head -c 3000000 /dev/zero | tr '\\0' '{'; echo
        echo '{"op": "rpc", "outcome": "OK", "ms": 1}'
        echo '{"op": "rpc", "outcome": "ok"}'
        """
    await bench.script(script + told(line(ms=1)), operations=3, times=1)
    assert bench.counts == {
        "scheduled": 1,
        "started": 1,
        "failed": 1,
        "no operations": 1,
        "program_crashes": 1,
    }
    await bench.script(f"({script}\n{told(line(ms=1))}) >&3", operations=3, times=1)
    assert bench.counts["ok"] == 1
    malformed = bench.counts["malformed_lines"]
    assert malformed > 1000
    assert bench.counts["indeterminate"] == bench.counts["malformed line"] == malformed, (
        "any may have been a failure"
    )
    assert "outcome: expected one of ok" in bench.log()
    assert "ms: expected how long it took" in bench.log()


async def test_an_id_that_comes_again_is_a_duplicate(bench: Bench) -> None:
    lines = [line(ms=1, id=n % 5) for n in range(8)] + [line("event", ms=1, id=0)]
    await bench.script(told(*lines), operations="stdout", times=2)
    assert bench.counts["ok"] == 12, "the second life begins its ids anew"
    assert bench.counts["duplicates"] == 6


async def test_what_was_announced_and_never_ends_is_lost(bench: Bench) -> None:
    at_once = [
        line("event", "started", id="a"),
        line("event", "started", id="b"),
        line("event", "started", id="a"),
        line("event", "ok", id="b"),
    ]
    script = f"printf '%s\\n' {shlex.join(at_once)}\nwhile ! test -e given_up; do sleep 0.02; done\n"
    late = told(line("event", "ok", id="a"))
    entry = {"command": script + late + RUN_ON, "shell": True, "operations": "stdout", "timeout": "200ms"}
    async with bench.running(**entry) as context:
        await bench.until_counted(context, "lost")
        (bench.base / "given_up").touch()
        await bench.until_counted(context, "late_outcomes")
    assert bench.counts["ok"] == bench.counts["event.ok"] == 1
    assert bench.counts["lost"] == bench.counts["no outcome"] == 1
    assert bench.counts["malformed_lines"] == 1, "one cannot be under way twice"
    assert bench.counts["scheduled"] == 3


async def test_a_program_that_crashes_is_started_again_with_backoff(bench: Bench) -> None:
    script = "test -e once && kill -SEGV $$; touch once\n" + told(
        line(ms=1), line(outcome="started", id=1), line(outcome="started", id=2)
    )
    await bench.script(script + "exit 3", operations="stdout", times=3)
    assert bench.counts == {
        "scheduled": 6,
        "started": 6,
        "ok": 1,
        "rpc.ok": 1,
        "failed": 3,
        "indeterminate": 2,
        "exit 3": 3,
        "SIGSEGV": 2,
        "program_crashes": 3,
    }
    starts = [one.split()[1:3] for one in bench.log().splitlines() if "=== " in one and " after " not in one]
    assert len(starts) == 3
    assert {sample.name for sample in bench.samples} >= {"rpc 1", "program 2"}


async def test_a_program_that_says_nothing_hangs(bench: Bench) -> None:
    await bench.script(told(line(ms=1)) + RUN_ON, operations="stdout", silence="300ms", times=1)
    assert bench.counts["silent"] == bench.counts["failed"] == bench.counts["program_crashes"] == 1
    assert "taken to hang" in bench.log()


async def test_a_program_that_cannot_be_started_is_a_crash(bench: Bench) -> None:
    script = bench.base / "program"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    await bench.run(command="./program", operations="stdout", times=1)
    assert bench.counts["cannot be started"] == bench.counts["program_crashes"] == 1


async def test_what_is_under_way_at_the_end_of_the_run_is_cut_off_and_the_rest_is_heard(bench: Bench) -> None:
    program = bench.base / "client.py"
    program.write_text(
        textwrap.dedent("""
        import json, signal, sys, time

        def tell(**said):
            print(json.dumps(said), flush=True)

        def stop(*_):
            tell(op="rpc", outcome="ok", id=1)
            print('{"op": "rpc", "outc', end="", flush=True)
            sys.exit(0)

        signal.signal(signal.SIGTERM, stop)
        tell(op="rpc", outcome="started", id=1)
        tell(op="rpc", outcome="started", id=2)
        while True:
            time.sleep(1)
        """)
    )
    async with bench.running(command=[sys.executable, "client.py"], operations="stdout") as context:
        await until(lambda: context.recorder._window.started == 2)
    assert bench.counts == {
        "scheduled": 2,
        "started": 2,
        "ok": 1,
        "rpc.ok": 1,
        "indeterminate": 1,
        CUT_OFF: 1,
    }
    assert bench.events[-2] == LoadStopped(load="e2e", open=1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"operations": "stderr"}, "stdout"),
        ({"operations": 2}, "greater than or equal to 3"),
        ({"silence": "1m"}, "add operations: stdout"),
        ({"operations": 3, "junit": True}, "leave operations or junit out"),
    ],
)
def test_what_cannot_be(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CommandLoad.model_validate({"command": "true", **entry})


def test_a_pytest_that_tells_its_operations_itself_has_no_report() -> None:
    assert not CommandLoad.model_validate({"command": "pytest", "operations": 3}).counts_tests
