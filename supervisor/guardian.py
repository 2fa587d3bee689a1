"""The guardian: the small parent that outlives the daemon, reaps, and heals what a dead daemon left behind.

As parent and child subreaper it learns of the daemon's death at once, and whatever the daemon started becomes its own child
when the parents in between die, `setsid` and double forks included. It works as process 1 of a container. It imports nothing
but the standard library, so that nothing can go wrong here that went wrong there.

Signals are blocked and waited for one at a time, so there are no handlers and no races:

    SIGTERM, SIGINT   forwarded to the daemon (a second one makes it leave at once); the third ends it with SIGKILL
    SIGHUP            forwarded to the daemon, which reads its soak file again; not if it comes from the kernel, for a lost terminal
    SIGCHLD           somebody to reap: the daemon, or an orphan

The process of the links is spared until healing is over: clients outside of the run go on through it, and once the daemon is dead it
does nothing but relay.

The guardian's own death is told to the daemon by a pipe (`--guardian-fd`) whose write end nobody else holds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

PROGRAM: Final = (sys.executable, "-P", "-m", "supervisor")
"""-P: a folder or file of the user's that happens to be called like a module of ours must not be imported instead."""
IN_ORDER: Final = frozenset({0, 1, 2, 3})
"""Exit codes of a daemon that came to its own end: pass, fail, usage, inconclusive."""
INCONCLUSIVE: Final = 3
HEAL_TIMEOUT: Final = 180.0
"""Seconds for `recover`, and again for `report`. They take a few; but one attempt at undo may take a minute by default, and on a machine
ten times overloaded thirty containers were not put back within half a minute."""
END_TIMEOUT: Final = 10.0
"""Seconds after which a process that does not die of SIGKILL (it hangs in the kernel) is left to it."""

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_LINKS: Final = b"SOAKD_LINKS="
"""How the environment of the process of the links says that it is one (`links/marks.py`)."""
_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def main(argv: Sequence[str], program: Sequence[str] = PROGRAM) -> int:
    """Run the daemon with `argv` and stand by it to the end; return the exit code of the run.

    `program` is run as `program daemon --guardian-fd N --report-fd M *argv`, and after an abnormal death of that as
    `program recover RUN_DIR` and `program report RUN_DIR`. To be called early, before any thread exists. OSError if the
    daemon cannot be started at all.
    """
    return Guardian(program).run(argv)


class Guardian:
    """One life of the daemon, and what comes after it."""

    def __init__(self, program: Sequence[str]) -> None:
        self._program = tuple(program)
        self._signals = 0
        """How often somebody asked for the end, counted anew for each stage."""
        self._spared = frozenset(_children())
        """`sh -c 'other & exec soakd run'` makes `other` our child: none of the daemon's, so none of our business."""

    def run(self, argv: Sequence[str]) -> int:
        """See `main`."""
        _become_subreaper()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no child could be waited for
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        _close_on_exec()
        alive, held = os.pipe()
        report, write_report = os.pipe()
        fds = (alive, write_report)
        daemon = self._spawn(
            "daemon", "--guardian-fd", str(alive), "--report-fd", str(write_report), *argv, fds=fds
        )
        for fd in fds:
            os.close(fd)
        code = self._stand_by(daemon, forward=True)
        left = self._end_descendants(links=code in IN_ORDER)
        directory = _read_run_directory(report)
        os.close(report)
        os.close(held)
        if code in IN_ORDER:
            return code
        try:
            return self._heal(_ending(code), left, directory)
        finally:
            self._end_descendants()

    def _heal(self, ending: str, left: int, directory: str | None) -> int:
        """After a death out of order: undo what the run's journal says is open, then judge it. Return the exit code."""
        _say(f"the daemon died ({ending}); {left} processes it left were ended")
        if directory is None:
            _say("it had no run directory yet, so there is nothing to undo")
            return INCONCLUSIVE
        undone = self._help("recover", directory)
        if undone == 0:
            _say(f"open faults are undone: {directory}")
        else:
            _say(f"cannot undo every open fault ({_ending(undone)}): run `soakd recover {directory}`")
        verdict = self._help("report", directory)
        if verdict not in IN_ORDER:
            _say(f"cannot judge the run ({_ending(verdict)}): run `soakd report {directory}`")
        else:
            _say(f"the verdict is {'fail' if verdict == 1 else 'inconclusive'}: {directory}")
        return 1 if verdict == 1 else INCONCLUSIVE

    def _help(self, command: str, directory: str) -> int | None:
        """Run a command on the run directory within its time; return its exit code, None if the time was up."""
        self._signals = 0
        code = self._stand_by(self._spawn(command, directory), forward=False, timeout=HEAL_TIMEOUT)
        self._end_descendants(links=False)
        return code

    def _spawn(self, *argv: str, fds: Sequence[int] = ()) -> int:
        """Start the program in a process group of its own (a terminal's Ctrl-C is for us), with only these descriptors."""
        for fd in fds:
            os.set_inheritable(fd, True)
        command = [*self._program, *argv]
        return os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=())

    def _stand_by(self, pid: int, *, forward: bool, timeout: float | None = None) -> int | None:
        """Reap and take signals until this child has ended; return its exit code (negative: the signal), None at the timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self._reap(pid)) is None:
            if deadline is None:
                info = signal.sigwaitinfo(_WATCHED)
            elif (got := signal.sigtimedwait(_WATCHED, max(deadline - time.monotonic(), 0))) is not None:
                info = got
            else:
                return None
            if info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._pass_on(info.si_signo, pid, forward=forward)
            elif (
                info.si_signo == signal.SIGHUP and info.si_code <= 0 and forward
            ):  # siginfo.h: sent by a process
                os.kill(pid, signal.SIGHUP)
        return code

    def _pass_on(self, number: int, pid: int, *, forward: bool) -> None:
        self._signals += 1
        if self._signals > 2:
            os.kill(pid, signal.SIGKILL)
        elif forward:
            os.kill(pid, number)
        else:
            _say(f"still healing; {3 - self._signals} more of these signals leave at once")

    def _reap(self, pid: int | None = None) -> int | None:
        """Collect everybody who has ended; return this child's exit code if it is among them."""
        code = None
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == pid:
                    code = os.waitstatus_to_exitcode(ended[1])
        return code

    def _end_descendants(self, *, links: bool = True) -> int:
        """SIGKILL our children, and theirs as they fall to us, until there are none; return how many. Without `links` these stay.

        A child's pid cannot become somebody else's before we reap it, so this never hits a stranger.
        """
        killed: set[int] = set()
        deadline = time.monotonic() + END_TIMEOUT
        while time.monotonic() < deadline:
            self._reap()
            stays = False
            found = []
            for child in _children():
                if child in self._spared or (not links and _relays(child)):
                    stays = True
                elif _kill(child):
                    found.append(child)
            if not found and (stays or _childless()):
                return len(killed)
            killed.update(found)
            signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        _say(
            f"cannot end every process within {END_TIMEOUT:.0f} s: look for the children of pid {os.getpid()}"
        )
        return len(killed)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot become the reaper of orphaned processes: {os.strerror(error)}")


def _close_on_exec() -> None:
    """Keep to ourselves whatever our own parent left open beyond the standard three."""
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > 2:
            with suppress(OSError):  # the listing's own descriptor is gone by now
                os.set_inheritable(fd, False)


def _children() -> Iterator[int]:
    """Yield our direct children; the newest first, so that one who flees by forking is met where it is."""
    me = os.getpid()
    for pid in sorted((int(entry.name) for entry in Path("/proc").glob("[0-9]*")), reverse=True):
        with suppress(OSError):  # it ended meanwhile
            stat = Path(f"/proc/{pid}/stat").read_bytes()
            if int(stat.rpartition(b")")[2].split()[1]) == me:
                yield pid


def _relays(child: int) -> bool:
    """Say whether a child is the process of the links."""
    with suppress(OSError):  # it ended meanwhile
        environ = Path(f"/proc/{child}/environ").read_bytes()
        return any(entry.startswith(_LINKS) for entry in environ.split(b"\0"))
    return False


def _kill(child: int) -> bool:
    with suppress(PermissionError):  # it became another user's; the deadline is for such as these
        os.kill(child, signal.SIGKILL)
    return True


def _childless() -> bool:
    """Ask the kernel, which cannot overlook anybody as a walk through /proc can."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _read_run_directory(report: int) -> str | None:
    """Return the last `run-dir <path>` line that the daemon wrote, if any."""
    os.set_blocking(report, False)
    with suppress(BlockingIOError):
        lines = os.read(report, 65536).split(b"\n")[:-1]
        found = [line.removeprefix(b"run-dir ") for line in lines if line.startswith(b"run-dir ")]
        return os.fsdecode(found[-1]) if found else None
    return None


def _ending(code: int | None) -> str:
    if code is None:
        return f"ended after {HEAL_TIMEOUT:.0f} s"
    if code >= 0:
        return f"exit code {code}"
    return next((known.name for known in signal.Signals if known == -code), f"signal {-code}")


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone must not keep us from healing
        os.write(2, f"soakd: {text}\n".encode(errors="replace"))
