"""A Docker engine for tests: the one there is, or a private one that touches nothing of the user's and is gone afterwards.

A private engine has its own containerd, data root, exec root, pid file and socket in a temporary directory, makes no bridge and
writes no packet filter rules: containers have no network but those that tests make, which are internal ones.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from docker_client import PATIENCE, Client, reached

CAP_SYS_ADMIN = 21
ELF_HEADERS = 4096
"""Bytes of a program in which it names its dynamic linker, if it has one."""
LISTENS = re.compile(r"API listen on (127\.0\.0\.1:\d+)")


class PrivateEngine(Client):
    """An engine of our own, which may be killed and started again. It listens on a TCP port of 127.0.0.1 as well, with TLS."""

    def __init__(self, root: Path, *inside: str, apart: bool = False) -> None:
        """`inside`: a command that runs others, such as `nsenter` with its arguments. `apart`: signals to our process group spare it."""
        self.path = root / "docker.sock"
        super().__init__(f"unix://{self.path}")
        self._root, self._inside, self._apart = root, inside, apart
        self.certificates = root / "tls"
        make_certificates(self.certificates)
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._environ = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(root / "tmp")}
        (root / "tmp").mkdir()
        (root / "daemon.json").write_text("{}")
        (root / "containerd.toml").write_text(
            f'version = 2\nroot = "{root}/containerd"\nstate = "{root}/containerd-state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
            f'[grpc]\naddress = "{root}/containerd.sock"\n'
        )

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._root / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(
                (*self._inside, *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=self._apart,
            )

    def up(self) -> None:
        """Start what is not running, and wait for its answer."""
        root = self._root
        if self._containerd is None:
            self._containerd = self._spawn("containerd", "--config", str(root / "containerd.toml"))
            deadline = time.monotonic() + PATIENCE
            while not (root / "containerd.sock").exists():
                assert time.monotonic() < deadline, "containerd does not start"
                time.sleep(0.01)
        if self._dockerd is None:
            self._dockerd = self._spawn(
                *("dockerd", "--config-file", str(root / "daemon.json"), "--host", self.url),
                *("--containerd", str(root / "containerd.sock"), "--pidfile", str(root / "dockerd.pid")),
                *("--host", "tcp://127.0.0.1:0", *self._tls()),
                *("--data-root", str(root / "data"), "--exec-root", str(root / "exec")),
                *(
                    "--bridge=none",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-forward=false",
                    "--ip-masq=false",
                ),
            )
        self.wait()

    def _tls(self) -> tuple[str, ...]:
        files = {"tlscacert": "ca.pem", "tlscert": "server.pem", "tlskey": "server-key.pem"}
        return "--tlsverify", *(f"--{option}={self.certificates / file}" for option, file in files.items())

    @property
    def tcp(self) -> str:
        """Where it listens with TLS."""
        return f"tcp://{LISTENS.findall((self._root / 'dockerd.log').read_text())[-1]}"

    def down(self, number: int = signal.SIGTERM) -> None:
        """End dockerd alone. SIGKILL leaves its containers running, SIGTERM stops them."""
        if self._dockerd:
            self._dockerd.send_signal(number)
            self._dockerd.send_signal(signal.SIGCONT)  # it may be frozen
            self._dockerd.wait(PATIENCE)
            self._dockerd = None
            (self._root / "dockerd.pid").unlink(missing_ok=True)

    @contextmanager
    def live_restore(self) -> Iterator[None]:
        """Let containers live on while dockerd is away, as its setting of that name has it."""
        self._configure(live=True)
        try:
            yield
        finally:
            self._configure(live=False)

    def _configure(self, *, live: bool) -> None:
        assert self._dockerd
        (self._root / "daemon.json").write_text(json.dumps({"live-restore": live}))
        self._dockerd.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while self.call("GET", "info")["LiveRestoreEnabled"] is not live:
            assert time.monotonic() < deadline, "dockerd does not read its settings again"
            time.sleep(0.01)

    def end(self, *names: str) -> None:
        """Let SIGKILL end the processes of these containers, without a word to the engine, which need not be there."""
        for pid in [self.inspect(name)["State"]["Pid"] for name in names]:
            os.kill(pid, signal.SIGKILL)

    def freeze(self, *, frozen: bool) -> None:
        """Let dockerd hang."""
        assert self._dockerd
        self._dockerd.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)
        threads = Path(f"/proc/{self._dockerd.pid}/task")
        while frozen and not all(_is_stopped(thread) for thread in threads.iterdir()):
            time.sleep(0.001)  # the kernel stops them one by one, and one that runs on answers

    def close(self) -> None:
        """End everything, and see that nothing is left: no process, no mount."""
        if self._dockerd:
            self.freeze(frozen=False)
            with suppress(OSError, RuntimeError, http.client.HTTPException):
                self.clean()
            self.down()
        if self._containerd:
            self._containerd.terminate()
            self._containerd.wait(PATIENCE)
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in self._mounts():
            subprocess.run(["umount", "--lazy", mount], check=False)
        assert not self._mounts(), f"mounts were left behind: {self._mounts()}"
        assert not self._processes(), f"processes were left behind: {self._processes()}"

    def _ours(self, locks: list[dict[str, Any]]) -> list[str]:
        """Nobody else is on this engine."""
        return [lock["Name"] for lock in locks]

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(f"{self._root}/")][::-1]

    def _processes(self) -> list[int]:
        """Processes that carry our directory in their command line: shims of containers that could not be removed."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str(self._root).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found


def make_certificates(folder: Path) -> None:
    """Make an authority, and certificates of it for a server on 127.0.0.1 and a client: ca.pem, server.pem, cert.pem, and their keys."""
    folder.mkdir()
    new = (
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-days",
        "2",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    )
    authority = ("-CA", "ca.pem", "-CAkey", "ca-key.pem")
    for name, subject, extra in (
        ("ca", "authority", ()),
        ("server", "server", (*authority, "-addext", "subjectAltName=IP:127.0.0.1")),
        ("cert", "client", (*authority, "-addext", "extendedKeyUsage=clientAuth")),
    ):
        key = "key.pem" if name == "cert" else f"{name}-key.pem"
        leaf = ("-addext", "basicConstraints=critical,CA:false") if extra else ()
        command = (
            *new,
            "-subj",
            f"/CN=soakd test {subject}",
            "-keyout",
            key,
            "-out",
            f"{name}.pem",
            *extra,
            *leaf,
        )
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _is_stopped(thread: Path) -> bool:
    try:
        stat = (thread / "stat").read_bytes()
    except OSError:
        return True
    return stat[stat.rindex(b")") + 2 :].split()[0] == b"T"


def want(why: str) -> NoReturn:
    """Skip the test; tests/conftest.py makes a failure of it where that may not be."""
    pytest.skip(f"no Docker engine: {why}")


@cache  # every test is asked about at collection
def can_be_private() -> str:
    """Say why there can be no private engine here; empty if there can."""
    if os.geteuid() != 0:
        return "a private one needs root"
    effective = re.search(r"^CapEff:\t(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if effective and not int(effective[1], 16) >> CAP_SYS_ADMIN & 1:
        return "a private one needs to mount, which root may not in this container"
    missing = [
        program for program in ("dockerd", "containerd", "runc", "openssl") if not shutil.which(program)
    ]
    return f"{', '.join(missing)} missing; scripts/test installs them on Debian" if missing else no_shell()


def no_shell() -> str:
    """Say why there is no shell for containers, into which a program goes alone, without libraries; empty if there is one."""
    busybox = shutil.which("busybox")
    if busybox and b"/ld-" not in Path(busybox).read_bytes()[:ELF_HEADERS]:
        return ""
    return "no static busybox; scripts/test installs busybox-static on Debian"


@contextmanager
def private_engine(root: Path, *inside: str, apart: bool = False) -> Iterator[PrivateEngine]:
    """Run a private engine with the shell's image."""
    engine = PrivateEngine(root, *inside, apart=apart)
    try:
        engine.up()
        engine.import_shell()
        yield engine
    finally:
        engine.close()


@contextmanager
def any_engine(root: Path) -> Iterator[Client]:
    """Take a private engine if there can be one, else the one there is."""
    if not (why := can_be_private()):
        with private_engine(root) as private:
            yield private
        return
    if useless := no_users_engine() or no_shell():
        want(f"{why}; {useless}" if useless not in why else why)
    client = users_engine()
    client.import_shell()
    try:
        yield client
    finally:
        client.clean_up()


def users_engine() -> Client:
    """Return the engine that Docker's own commands would use."""
    return Client(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")


def no_users_engine() -> str:
    """Say why the tests cannot use the engine that Docker's own commands would use; empty if they can."""
    client = users_engine()
    try:
        place = reached(client.url)
    except ValueError as error:
        return f"DOCKER_HOST is of no use to the tests: {error}"
    if isinstance(place, tuple) and place[0] not in {"127.0.0.1", "localhost", "::1"}:
        return f"{client.url} may be another machine: the tests mount folders of this one, and speak to 127.0.0.1 alone"
    return "" if client.answers() else f"nobody answers at {client.url}"
