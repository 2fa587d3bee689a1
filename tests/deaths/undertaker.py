"""Clears away what a proof leaves that is killed: undertaker.py FOLDER. Standard library only.

It waits for the end of its standard input, which nobody but the proof holds open, in a session of its own. Whatever still has the
folder in its command line or as its `SOAKD_PROOF` is ended then, containers of a private engine in it first, what is mounted in it is
taken away, and the folder is removed. After an end in order none of that is there.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROOF = "SOAKD_PROOF"
PATIENCE = 20.0


@contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Have what is in a folder, and whatever is started meanwhile, cleared away even after SIGKILL."""
    os.environ[PROOF] = str(folder)
    command = [sys.executable, "-P", __file__, str(folder)]
    environ = {"PATH": os.environ.get("PATH", os.defpath)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environ, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            del os.environ[PROOF]
            assert process.stdin
            process.stdin.close()


def empty_engine(path: Path) -> None:
    """Remove containers and networks of a private engine, as far as it answers."""

    def call(method: str, what: str) -> Any:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(PATIENCE)
            end.connect(str(path))
            connection = http.client.HTTPConnection("docker")
            connection.sock = end
            connection.request(method, what)
            answer = connection.getresponse().read()
        return json.loads(answer) if answer.strip() else None

    with suppress(OSError, ValueError, http.client.HTTPException):
        for one in call("GET", "/containers/json?all=1"):
            call("DELETE", f"/containers/{one['Id']}?force=1&v=1")
        for one in call("GET", "/networks"):
            call("DELETE", f"/networks/{one['Id']}")


def ours(folder: str) -> Iterator[int]:
    mark = f"{PROOF}={folder}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = (entry / "cmdline").read_bytes()
                inside = f"{folder}/".encode() in command
                if inside or mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def end(folder: str, number: int) -> bool:
    """Send a signal to all that is ours; say whether there is nobody."""
    nobody = True
    for pid in ours(folder):
        nobody = False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return nobody


def mounts(folder: str) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in lines]
    return [place for place in reversed(places) if place == folder or place.startswith(f"{folder}/")]


def main(folder: str) -> None:
    sys.stdin.read()
    for path in Path(folder).glob("*/docker.sock"):
        empty_engine(path)
    deadline = time.monotonic() + PATIENCE
    while not end(folder, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.05)
    for place in mounts(folder):
        subprocess.run(["umount", "--lazy", place], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
