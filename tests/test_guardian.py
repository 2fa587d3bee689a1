"""The guardian with real processes: a small program stands in for the daemon, and its stdout tells who is still alive.

Every process of a test inherits that one pipe, so end of file on it is the proof that nobody is left, without a look at the clock.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 20.0
"""Seconds until all is ended and undone, far less than what is left behind would live (30 s)."""

PROGRAM = '''
import os, signal, sys, time

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def child(run, *args):
    pid = os.fork()
    if pid == 0:
        try:
            run(*args)
        finally:
            os._exit(0)
    return pid

def sleeper(name):
    say(name, os.getpid())
    while True:
        signal.pause()

def stopped(name):
    say(name, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)

def session(name):
    os.setsid()
    sleeper(name)

def twice(name):
    os.setsid()
    child(sleeper, name)

def stubborn(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper(name)

def breeder(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(name, os.getpid())
    for _ in range(400):
        child(time.sleep, 60)
        time.sleep(0.001)
    time.sleep(60)

def runner(name):
    """Flee by forking: each life is a few hundred microseconds long."""
    os.setsid()
    say(name, os.getpid())
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)

def daemon(guardian, report, how, *rest):
    if how == "exit":
        say("ready", os.getpid())
        sys.exit(int(rest[0]))
    if how == "leave":
        child(session, "left")
        child(twice, "left")
        sys.exit(int(rest[0]))
    if how == "fds":
        links = {int(fd): os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)}
        say("fds", *sorted(set(links) - {guardian, report}))
        say("groups", os.getpgid(0) == os.getpid(), os.getpgid(os.getppid()) == os.getpid())
        say("blocked", *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if how == "eof":
        say("ready", os.getpid())
        say("eof", os.read(guardian, 1))
    if how == "signals":
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        say("ready", os.getpid())
        while True:
            say("got", signal.sigwaitinfo((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)).si_signo)
    if how == "orphan":
        child(child, sleeper, "orphan")
        os.wait()
        signal.pause()
    if how == "family":
        if rest:
            os.write(report, b"run-dir " + os.fsencode(rest[0]) + b"\\nhalf a li")
        for kind in (stopped, sleeper, session, twice, stubborn, breeder, runner):
            child(kind, kind.__name__)
        say("daemon", os.getpid())
        signal.pause()

if sys.argv[1] == "daemon":
    assert (sys.argv[2], sys.argv[4]) == ("--guardian-fd", "--report-fd"), sys.argv
    daemon(int(sys.argv[3]), int(sys.argv[5]), *sys.argv[6:])
else:
    say(*sys.argv[1:])
    script = os.path.join(sys.argv[2], sys.argv[1] + ".py")
    if os.path.exists(script):
        exec(open(script).read())
'''

GUARD = "import sys; from supervisor import guardian; sys.exit(guardian.main(sys.argv[2:], (sys.executable, sys.argv[1])))"

Start = Callable[..., "Guarded"]


class Guarded:
    """A guardian with its family, as seen from the other end of their pipes."""

    def __init__(self, program: Path, *argv: str, **options: object) -> None:
        command = [sys.executable, "-c", GUARD, str(program), *argv]
        self.process = subprocess.Popen(  # type: ignore[call-overload]  # options of the one test that has some
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
        self.pid: int = self.process.pid
        self._text = b""

    def read(self, until: Callable[[list[str]], bool] | None = None) -> list[str]:
        """Return all lines so far once `until` says yes of them, or at the end of file."""
        deadline = time.monotonic() + PATIENCE
        while not (until and until(self.lines)):
            assert select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0], (
                self.lines
            )
            if not (data := os.read(self.process.stdout.fileno(), 65536)):
                assert until is None, self.lines
                break
            self._text += data
        return self.lines

    @property
    def lines(self) -> list[str]:
        return self._text.decode().split("\n")[:-1]

    def pid_of(self, name: str) -> int:
        """Return the pid in the line `<name> <pid>`."""
        lines = self.read(lambda lines: any(line.startswith(f"{name} ") for line in lines))
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def end(self) -> tuple[int, str]:
        """Wait for the end of everybody; return the guardian's exit code and what it said."""
        self.read()
        return self.process.wait(PATIENCE), self.process.stderr.read().decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started: list[Guarded] = []

    def begin(*argv: str, **options: object) -> Guarded:
        started.append(Guarded(program, *argv, **options))
        return started[-1]

    yield begin
    for guarded in started:
        if guarded.process.poll() is None:
            guarded.process.kill()
        guarded.process.wait()
        guarded.process.stdout.close()
        guarded.process.stderr.close()


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_an_end_in_order_keeps_its_code(start: Start, code: int) -> None:
    assert start("exit", str(code)).end() == (code, "")


def test_an_end_in_order_leaves_nobody(start: Start) -> None:
    assert start("leave", "1").end() == (1, "")


@pytest.mark.parametrize("code", [4, 70, 255])
def test_any_other_code_is_a_death(start: Start, code: int) -> None:
    ended, said = start("exit", str(code)).end()
    assert ended == 3
    assert f"the daemon died (exit code {code})" in said
    assert "nothing to undo" in said


def test_sigkill_of_the_daemon_ends_all_it_started_and_heals(start: Start, tmp_path: Path) -> None:
    guarded = start("family", str(tmp_path))
    names = ("stopped", "sleeper", "session", "twice", "stubborn", "breeder", "runner")
    for name in names:
        guarded.pid_of(name)
    os.kill(guarded.pid_of("daemon"), signal.SIGKILL)
    code, said = guarded.end()
    assert code == 3
    assert guarded.lines[-2:] == [f"recover {tmp_path}", f"report {tmp_path}"]
    assert "the daemon died (SIGKILL)" in said
    assert "open faults are undone" in said
    assert "the verdict is inconclusive" in said


def test_what_it_left_is_ended_before_recovery_begins(start: Start, tmp_path: Path) -> None:
    guarded = start("family", str(tmp_path))
    pids = [guarded.pid_of(name) for name in ("stopped", "session", "twice", "stubborn")]
    alive = f"import os; say('alive', *[pid for pid in {pids} if os.path.exists('/proc/%d' % pid)])"
    (tmp_path / "recover.py").write_text(alive)
    os.kill(guarded.pid_of("daemon"), signal.SIGKILL)
    guarded.end()
    assert "alive" in guarded.lines


def test_a_failed_verdict_of_the_report_is_passed_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text("sys.exit(1)")
    guarded = start("family", str(tmp_path))
    os.kill(guarded.pid_of("daemon"), signal.SIGKILL)
    code, said = guarded.end()
    assert code == 1
    assert "the verdict is fail" in said


def test_a_failed_recovery_says_what_to_do_and_the_report_is_made_all_the_same(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "recover.py").write_text("child(session, 'strayed'); sys.exit(1)")
    (tmp_path / "report.py").write_text("os.kill(os.getpid(), 11)")
    guarded = start("family", str(tmp_path))
    os.kill(guarded.pid_of("daemon"), signal.SIGKILL)
    code, said = guarded.end()
    assert code == 3
    assert f"cannot undo every open fault (exit code 1): run `soakd recover {tmp_path}`" in said
    assert f"cannot judge the run (SIGSEGV): run `soakd report {tmp_path}`" in said


def test_signals_while_healing_are_answered_and_the_third_leaves(start: Start, tmp_path: Path) -> None:
    (tmp_path / "recover.py").write_text("say('recovering', os.getpid())\nwhile True: signal.pause()")
    guarded = start("family", str(tmp_path))
    os.kill(guarded.pid_of("daemon"), signal.SIGKILL)
    guarded.pid_of("recovering")
    said = b""
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(guarded.pid, number)
        while said.count(b"still healing") < (1 if number == signal.SIGTERM else 2):
            said += os.read(guarded.process.stderr.fileno(), 4096)
    os.kill(guarded.pid, signal.SIGTERM)
    code, rest = guarded.end()
    assert code == 3
    assert "cannot undo every open fault (SIGKILL)" in rest
    assert f"report {tmp_path}" in guarded.lines


def test_signals_are_forwarded_once_each(start: Start) -> None:
    guarded = start("signals")
    daemon = guarded.pid_of("ready")
    os.kill(guarded.pid, signal.SIGHUP)
    guarded.pid_of("got")
    os.kill(guarded.pid, signal.SIGINT)
    guarded.read(lambda lines: len(lines) > 2)
    os.kill(guarded.pid, signal.SIGTERM)
    got = [f"got {number:d}" for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
    assert guarded.read(lambda lines: len(lines) > 3)[1:] == got
    os.kill(guarded.pid, signal.SIGTERM)  # the third: nobody waits for this daemon any longer
    code, said = guarded.end()
    assert code == 3
    assert guarded.lines == [f"ready {daemon}", *got]
    assert "the daemon died (SIGKILL)" in said


def test_sigkill_of_the_guardian_is_end_of_file_to_the_daemon(start: Start) -> None:
    guarded = start("eof")
    guarded.pid_of("ready")
    guarded.process.kill()
    assert guarded.read()[-1] == "eof b''"


def test_the_daemon_gets_two_descriptors_its_own_group_and_no_blocked_signal(
    start: Start, tmp_path: Path
) -> None:
    with (tmp_path / "inherited").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        guarded = start("fds", pass_fds=(file.fileno(),))
        assert guarded.end() == (0, "")
    assert guarded.lines == ["fds 0 1 2", "groups True False", "blocked"]


def test_orphans_are_reaped_while_the_daemon_lives(start: Start) -> None:
    guarded = start("orphan")
    orphan = os.pidfd_open(guarded.pid_of("orphan"))
    try:
        signal.pidfd_send_signal(orphan, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{guarded.pid_of('orphan')}").exists():
            assert time.monotonic() < deadline
            select.select([], [], [], 0.005)
    finally:
        os.close(orphan)
    os.kill(guarded.pid, signal.SIGTERM)
    assert guarded.end()[0] == 3


def test_children_it_had_before_are_spared(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    shell = f'sleep 60 & echo other $!; exec "{sys.executable}" -c "{GUARD}" "{program}" leave 0'
    with subprocess.Popen(["/bin/sh", "-c", shell], stdout=subprocess.PIPE) as process:
        assert process.stdout
        other = int(process.stdout.readline().split()[1])
        assert process.wait(PATIENCE) == 0
        assert Path(f"/proc/{other}/stat").read_text().split()[2] == "S"
        os.kill(other, signal.SIGKILL)
