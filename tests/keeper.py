"""Tidies up after a test session that could not: a process of its own, which waits for the end of the one that started it.

A worker that is killed, as by the time limit of a test, runs no `finally`. What it leaves is known by its mark and by its folder:

    keeper.py MARK FOLDER [LABEL]  processes with MARK in their environment or a path below FOLDER in their command line, mounts below
                                   FOLDER, and what carries LABEL on somebody's Docker engine, where the tests have none of their own
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

DEADLINE = 30.0
"""Seconds for what is killed to be gone."""


@contextmanager
def kept(mark: str, folder: Path, label: str) -> Iterator[None]:
    """Let a keeper stand by; AssertionError if at the end in order it still finds something."""
    command = [sys.executable, __file__, mark, str(folder), *([label] if label else [])]
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    host = {name: value for name, value in os.environ.items() if name == "DOCKER_HOST"}
    # In a session of its own: Ctrl-C is not for it.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment | host, start_new_session=True
    ) as keeper:
        try:
            yield
        finally:
            left, _ = keeper.communicate(timeout=4 * DEADLINE)
    assert not left, f"the tests left behind: {left.decode(errors='replace')}"


def main(mark: str, folder: str, label: str = "") -> None:
    sys.stdin.read()  # to its end, which comes with the end of the session
    sockets = [str(path) for path in Path(folder).glob("*/docker.sock")] if _processes(mark, folder) else []
    if sockets or label:
        _clean_engines(sockets, label)
    deadline, found = time.monotonic() + DEADLINE, list[str]()
    while (left := _processes(mark, folder)) and time.monotonic() < deadline:
        found += left.values()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for mount in _mounts(folder):
        found.append(mount)
        subprocess.run(["umount", "--lazy", mount], check=False)
    with suppress(BrokenPipeError):  # nobody is there to be told
        os.write(1, "\n".join(found).encode())


def _processes(mark: str, folder: str) -> dict[int, str]:
    """Return what is ours with its command lines, and the children of that: those of a container carry nothing."""
    found, parents = dict[int, str](), dict[int, int]()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(entry.name)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parents[pid] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            ours = f"{folder}/" in command or mark.encode() in (entry / "environ").read_bytes()
            if ours and pid != os.getpid():
                found[pid] = command
    shims = [pid for pid, command in found.items() if "containerd-shim" in command]
    return found | {pid: "in a container" for pid, parent in parents.items() if parent in shims}


def _mounts(folder: str) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [mount for mount in reversed(mounts) if f"{mount}/".startswith(f"{folder}/")]


def _clean_engines(sockets: list[str], label: str) -> None:
    """Let engines remove what there is on them: all on those of the session, which have bridges among the machine's own."""
    os.environ["SOAKD_TEST_LABEL"] = label or "nobody's"
    sys.path.insert(0, str(Path(__file__).parent / "engines" / "docker"))
    from docker_client import Client  # noqa: PLC0415  # seldom needed
    from docker_engine import no_users_engine, users_engine  # noqa: PLC0415  # seldom needed

    for socket in sockets:
        with suppress(OSError, RuntimeError, HTTPException):
            Client(f"unix://{socket}").clear()
    if label and not no_users_engine():
        users_engine().clean_up()


if __name__ == "__main__":
    main(*sys.argv[1:])
