"""soakd as it is, but for its death: SIGKILL at a random instant of one phase of one kind of fault; and but for its birth.

    dying.py    reads what to run from standard input, a line of JSON each: {"argv", "cwd", "env", "output"}

Every process of it is forked from one that has all its modules in memory, since importing them, three times for each death, takes
several times as long as everything else. For each line two are written: the pid, and in the end the exit code.

`SOAKD_DEATH` says when: `{"names", "name", "phase", "nth", "share", "both"}`: at this share of the nth time that the phase begins,
measured by how long it took the time before; `both`: the guardian a moment before. `SOAKD_PHASES` is a file in which each fault leaves
its phase.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from supervisor import cli, guardian

WIDTH = 64
"""Bytes of a fault's line in the file of phases."""
HOLD = "unit-hold"
MODULES = ("supervisor.daemon", "supervisor.recover", "supervisor.judge.report", "supervisor.cli.report")


class Death:
    def __init__(
        self, names: list[str], *, name: str, phase: str, nth: int, share: float, both: bool
    ) -> None:
        self._file = os.open(os.environ["SOAKD_PHASES"], os.O_WRONLY | os.O_CREAT)
        self._names, self._when, self._nth, self._share, self._both = names, (name, phase), nth, share, both
        self._began: dict[str, tuple[str, float]] = {}
        self._took = 0.0

    def enter(self, fault: str, phase: str) -> None:
        """A fault enters a phase; SIGKILL leaves what is written here, since it is the kernel's."""
        if fault not in self._names:
            return
        before, at = self._began.get(fault, ("", 0.0))
        now = time.monotonic()
        if (fault, before) == self._when:
            self._took = now - at
        self._began[fault] = phase, now
        line = f"{fault} {phase}".ljust(WIDTH - 1).encode() + b"\n"
        os.pwrite(self._file, line, self._names.index(fault) * WIDTH)
        if (fault, phase) == self._when:
            self._nth -= 1
            if not self._nth:
                threading.Thread(target=self._die, args=(self._share * self._took,), daemon=True).start()

    def _die(self, delay: float) -> None:
        time.sleep(delay)
        if self._both:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Watch the phases of every fault: those that are drawn, those injected by hand, and units that are held."""
    from supervisor.faults.aiming import Aiming  # noqa: PLC0415
    from supervisor.faults.hold import Hold  # noqa: PLC0415  # in memory already, but not where this file is run to say what it is
    from supervisor.faults.operator import Operator  # noqa: PLC0415
    from supervisor.faults.registry import FAULTS  # noqa: PLC0415
    from supervisor.journal.events import OPERATOR  # noqa: PLC0415

    death = Death(**json.loads(os.environ["SOAKD_DEATH"]))

    def of(intent: Any) -> str:
        return HOLD if intent.fault == OPERATOR else str(intent.written)

    def drawn(_aiming: Any, _fault: Any, draw: Any) -> str:
        return str(draw.fault.removesuffix("@operator"))

    watched: list[tuple[type, str, Callable[..., str], str, str]] = [
        (Aiming, "choose", drawn, "aim", "aim"),
        (Operator, "hold", lambda *_: HOLD, "aim", ""),
    ]
    for kind in (*FAULTS.kinds.values(), Hold):
        watched.append((kind, "inject", lambda _fault, _world, intent: of(intent), "inject", "hold"))
        watched.append((kind, "undo", lambda _fault, _world, intent: of(intent), "undo", "-"))
    originals = [getattr(owner, name) for owner, name, *_ in watched]
    for (owner, name, named, during, after), original in zip(watched, originals, strict=True):
        setattr(owner, name, _watched(death, original, named, during, after))


def _watched(
    death: Death, original: Callable[..., Any], named: Callable[..., str], during: str, after: str
) -> Callable[..., Any]:
    async def method(*args: Any, **rest: Any) -> Any:
        fault = named(*args)
        death.enter(fault, during)
        try:
            result = await original(*args, **rest)
        except BaseException:
            death.enter(fault, "-")
            raise
        if after and after != during:
            death.enter(fault, after)
        return result

    return method


class Forking(guardian.Guardian):
    """The guardian, whose children are forked where it would spawn them."""

    def _spawn(self, *argv: str, fds: Sequence[int] = ()) -> int:
        if pid := os.fork():
            return pid
        with _ending():
            os.setpgid(0, 0)
            for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208  # a hot path, of sorts
                if fd > 2 and fd not in fds:
                    with suppress(OSError):
                        os.close(fd)
            for fd in fds:
                os.set_inheritable(fd, True)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if argv[0] == "daemon":
                arm()
            sys.exit(cli.main(argv))


@contextmanager
def _ending() -> Iterator[None]:
    """A forked process ends here, whatever it does, as one of its own would: it never gets back to whoever forked it."""
    code: object = 0
    try:
        yield
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        code = 70
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def become(argv: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    """Be soakd, forked just now."""
    with _ending():
        os.setsid()
        os.chdir(cwd)
        os.environ.update(env)
        for path, flags, fds in (
            (os.devnull, os.O_RDONLY, (0,)),
            (output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, (1, 2)),
        ):
            opened = os.open(path, flags, 0o600)
            for fd in fds:
                os.dup2(opened, fd)
            os.close(opened)
        sys.exit(Forking(("soakd",)).run(argv[1:]) if argv[0] == "run" else cli.main(argv))


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    if threading.active_count() > 1:
        sys.exit("an import has started a thread: that cannot be forked")
    gc.freeze()
    for line in sys.stdin:
        if not (pid := os.fork()):
            become(**json.loads(line))
        os.write(1, f"{pid}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())


if __name__ == "__main__":
    sys.setswitchinterval(1e-4)
    main()
