"""What every engine promises, whatever its kind (see `engines.base`)."""

from __future__ import annotations

import re
import signal
import time
from itertools import pairwise

import anyio
import pytest
from harness import PATIENCE, Harness, Program, opened

from supervisor.engines.base import EngineError, UnitState
from supervisor.engines.capabilities import CanExecute, CanPause
from supervisor.engines.output import since, stamp
from supervisor.engines.process import ProcessEngine
from supervisor.journal.writer import JournalWriter
from supervisor.watch.crashes import signature


async def test_a_unit_starts_and_stops(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        assert (await bench.units.observe())["idle"].state is UnitState.DOWN
        before = time.monotonic()
        up = await bench.units.start("idle")
        assert up.state is UnitState.UP
        assert up.incarnation
        assert up.started
        assert before <= up.started <= time.monotonic()
        assert up.labels["program"] == "IDLE"
        assert (await bench.units.observe())["idle"] == up

        await bench.logs_have("idle", b"up\n")  # a process 1 that does not listen yet ignores what it is told
        await bench.units.stop("idle", timeout=10)
        down = (await bench.units.observe())["idle"]
        assert (down.state, down.incarnation, down.pid) == (UnitState.DOWN, None, None)
        assert down.labels == up.labels
        gone = await bench.exit()
        assert (gone.unit, gone.incarnation, gone.signal, gone.oom) == (
            "idle",
            up.incarnation,
            "SIGTERM",
            False,
        )
        assert gone.code is None
        assert gone.uptime is not None
        assert up.started <= gone.mono == pytest.approx(up.started + gone.uptime)


async def test_each_life_has_an_incarnation_and_an_exit_of_its_own(
    harness: Harness, journal: JournalWriter
) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.FAILING]) as bench:
        lives, ends = [], []
        for _ in range(5):
            lives.append((await bench.units.start("failing")).incarnation)
            ends.append(await bench.exit())
        assert [end.incarnation for end in ends] == lives
        assert len(set(lives)) == 5
        assert {end.code for end in ends} == {3}
        with pytest.raises(anyio.WouldBlock):
            bench.exits.receive_nowait()


async def test_what_was_written_before_the_end_is_there_when_the_exit_is_told(
    harness: Harness, journal: JournalWriter
) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.FAILING]) as bench:
        for life in range(1, 4):
            await bench.units.start("failing")
            await bench.exit()
            lines = (await bench.units.logs("failing", last=200)).decode().splitlines()
            assert lines == ["one", "two", "last words"] * life


async def test_each_line_with_its_time(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.FAILING]) as bench:
        before = time.time()
        for _ in range(2):
            await bench.units.start("failing")
            await bench.exit()
        for text in (
            await bench.units.logs("failing", last=6, stamped=True),
            await bench.units.logs("failing", since=before, stamped=True),
        ):
            stamps, lines = zip(*(line.split(b" ", 1) for line in text.splitlines()), strict=True)
            assert lines == (b"one", b"two", b"last words") * 2
            assert list(stamps) == sorted(stamps)
            assert stamp(before)[:-1] <= stamps[0]
            assert stamps[-1] <= stamp(time.time())[:-1]
        assert since(text, time.time() + 1) == b""
        assert since(text, before) == text


async def test_starting_what_is_up_changes_nothing(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        assert await bench.units.start("idle") == await bench.units.start("idle")


async def test_stopping_what_is_down_is_no_error(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        await bench.units.stop("idle")


async def test_stopping_in_order_lets_the_unit_say_goodbye(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.GRACEFUL]) as bench:
        await bench.units.start("graceful")
        await bench.logs_have("graceful", b"up")
        await bench.units.stop("graceful", timeout=10)
        gone = await bench.exit()
        assert (gone.code, gone.signal) == (0, None)
        assert await bench.units.logs("graceful", last=1) == b"bye\n"


async def test_who_does_not_stop_is_killed(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.STUBBORN]) as bench:
        await bench.units.start("stubborn")
        await bench.logs_have("stubborn", b"up")
        await bench.units.stop("stubborn", timeout=0.1)
        assert (await bench.exit()).signal == "SIGKILL"
        await bench.units.start("stubborn")
        await bench.logs_have("stubborn", b"up\nup\n")
        await bench.units.stop("stubborn", timeout=PATIENCE, signal=signal.SIGUSR1)
        assert (await bench.exit()).signal == "SIGUSR1", "which was sent in place of its own"


async def test_kill_sends_the_signal_that_was_asked_for(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        for times, number in enumerate((signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM), 1):
            await bench.units.start("idle")
            await bench.logs_have("idle", b"up\n" * times)  # see above
            await bench.units.kill("idle", number)
            gone = await bench.exit()
            assert gone.signal == number.name
            assert not gone.oom


async def test_nothing_can_be_sent_to_what_is_down(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        with pytest.raises(EngineError, match="idle is not running"):
            await bench.units.kill("idle", signal.SIGKILL)


async def test_ready_once_its_output_says_so(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.SOON_READY]) as bench:
        for _ in range(2):
            await bench.units.start("soon-ready")
            with anyio.fail_after(PATIENCE):
                await bench.units.ready("soon-ready")
            assert (await bench.units.logs("soon-ready", last=1)) == b"ready now\n"
            await bench.units.stop("soon-ready")


async def test_not_ready_in_time(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.NEVER_READY]) as bench:
        await bench.units.start("never-ready")
        await bench.logs_have("never-ready", b"still thinking")
        with pytest.raises(EngineError, match=r"(?s)never-ready.*300ms.*still thinking"):
            await bench.units.ready("never-ready")
        assert (await bench.units.observe())["never-ready"].state is UnitState.UP


async def test_who_exits_before_it_is_ready_is_told_at_once(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.DIES_UNREADY]) as bench:
        await bench.units.start("dies-unready")
        with (
            anyio.fail_after(PATIENCE),
            pytest.raises(EngineError, match=r"(?s)dies-unready.*code 4.*cannot go on"),
        ):
            await bench.units.ready("dies-unready")


async def test_ready_without_a_check_means_running(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        with pytest.raises(EngineError, match="idle"):
            await bench.units.ready("idle")
        await bench.units.start("idle")
        await bench.units.ready("idle")


async def test_a_start_that_fails_says_what_and_where(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.UNSTARTABLE]) as bench:
        with pytest.raises(EngineError, match=re.escape("cannot start unstartable")):
            await bench.units.start("unstartable")
        assert (await bench.units.observe())["unstartable"].state is UnitState.DOWN


async def test_a_frozen_unit_does_nothing_until_it_goes_on(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.TICKING]) as bench:
        if not isinstance(bench.units, CanPause):
            assert harness.engine({}).key != ProcessEngine.key, "processes can be frozen"
            return
        await bench.units.start("ticking")
        await bench.logs_have("ticking", b"tick\ntick\n")
        await bench.units.pause("ticking")
        await bench.units.pause("ticking")
        assert (await bench.units.observe())["ticking"].state is UnitState.PAUSED
        frozen = b""
        with anyio.fail_after(PATIENCE):  # what it had said before is still on its way
            while (said := await bench.units.logs("ticking")) != frozen:
                frozen = said
                await anyio.sleep(0.1)  # five ticks

        await bench.units.resume("ticking")
        await bench.units.resume("ticking")
        assert (await bench.units.observe())["ticking"].state is UnitState.UP
        await bench.logs_have("ticking", frozen + b"tick\n")


async def test_a_frozen_unit_can_be_stopped_and_killed(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        if isinstance(bench.units, CanPause):
            await bench.units.start("idle")
            await bench.logs_have("idle", b"up\n")
            await bench.units.pause("idle")
            await bench.units.stop("idle", timeout=10)
            assert (await bench.exit()).signal == "SIGTERM"
            assert (await bench.units.start("idle")).state is UnitState.UP
            await bench.units.pause("idle")
            await bench.units.kill("idle", signal.SIGKILL)
            assert (await bench.exit()).signal == "SIGKILL"


async def test_logs_between_two_times(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.FAILING]) as bench:
        edges = [time.time()]
        for _ in range(3):
            await anyio.sleep(0.01)  # times are told to the millisecond
            await bench.units.start("failing")
            await bench.exit()
            await anyio.sleep(0.01)
            edges.append(time.time())
        once = b"one\ntwo\nlast words\n"
        for since, until in pairwise(edges):
            assert await bench.units.logs("failing", since=since, until=until) == once
        assert await bench.units.logs("failing", since=edges[1]) == once * 2
        assert await bench.units.logs("failing", until=edges[1]) == once
        assert await bench.units.logs("failing", since=edges[-1]) == b""


async def test_units_are_independent(harness: Harness, journal: JournalWriter) -> None:
    programs = {f"unit-{n}": Program.IDLE for n in range(8)}
    async with opened(harness, journal, journal.run_dir, programs) as bench:
        async with anyio.create_task_group() as group:
            for unit in programs:
                group.start_soon(bench.units.start, unit)
        async with anyio.create_task_group() as group:
            for unit in list(programs)[::2]:
                group.start_soon(bench.units.stop, unit)
        states = {unit: seen.state for unit, seen in (await bench.units.observe()).items()}
        assert states == {unit: UnitState.UP if int(unit[-1]) % 2 else UnitState.DOWN for unit in programs}


async def test_leaving_the_engine_ends_everything_it_started(
    harness: Harness, journal: JournalWriter
) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.STUBBORN, Program.IDLE]) as bench:
        for unit in bench.engine.unit_names():
            await bench.units.start(unit)
    assert await bench.engine.recover(bench.context) == [], "recovery would have found what was left"


async def test_recovery_ends_what_a_run_left_and_finds_nothing_the_second_time(
    harness: Harness, journal: JournalWriter
) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.STUBBORN, Program.IDLE]) as bench:
        for unit in bench.engine.unit_names():
            await bench.units.start(unit)
        did = await bench.engine.recover(bench.context)
        assert any("idle" in line for line in did)
        assert any("stubborn" in line for line in did)
        assert {(await bench.exit()).unit, (await bench.exit()).unit} == {"idle", "stubborn"}
        assert await bench.engine.recover(bench.context) == []


async def test_recovery_of_one_run_leaves_another_alone(harness: Harness, journal: JournalWriter) -> None:
    run_dir = journal.run_dir
    async with (
        opened(harness, journal, run_dir / "1", {"left": Program.IDLE}) as first,
        opened(harness, journal, run_dir / "2", {"right": Program.IDLE}) as second,
    ):
        await first.units.start("left")
        up = await second.units.start("right")
        await first.engine.recover(first.context)
        await first.exit()
        assert (await second.units.observe())["right"] == up


async def test_the_root_cause_between_the_lines_of_the_other_stream(
    harness: Harness, journal: JournalWriter
) -> None:
    """A traceback goes to standard error; what other threads log meanwhile stands between its lines."""
    async with opened(harness, journal, journal.run_dir, [Program.INTERLEAVED]) as bench:
        await bench.units.start("interleaved")
        gone = await bench.exit()
        log = await bench.units.logs("interleaved", last=100, until=gone.wall, stamped=True)
    assert log.count(b"\n") == 13, log.decode()
    assert signature(log) == "KeyError: <n> [shop.py in main]"


async def test_a_program_runs_inside_a_unit(harness: Harness, journal: JournalWriter) -> None:
    async with opened(harness, journal, journal.run_dir, [Program.IDLE]) as bench:
        assert isinstance(bench.units, CanExecute)
        with pytest.raises(EngineError, match="idle is not running"):
            await bench.units.execute("idle", ["sh"], PATIENCE)
        await bench.units.start("idle")
        program = ["sh", "-c", "echo $SOAKD_EPISODE; echo two >&2; exit 7"]
        code, said = await bench.units.execute("idle", program, PATIENCE, {"SOAKD_EPISODE": "a#1"})
        assert (code, sorted(said.split())) == (7, [b"a#1", b"two"])
        code, said = await bench.units.execute("idle", ["sh", "-c", "kill -9 $$"], PATIENCE)
        assert (code, said) == (128 + signal.SIGKILL, b"")
        with pytest.raises(EngineError, match=r"sleep in idle did not end within 0\.2 s"):
            await bench.units.execute("idle", ["sleep", "1000"], 0.2)
