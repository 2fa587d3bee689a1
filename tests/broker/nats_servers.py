"""Real nats-servers for these tests, each with a generated configuration, on ports that stay theirs across restarts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio

from supervisor.engines.spawn import stopped

Start = Callable[..., Awaitable["NatsServer"]]
BINARY = Path(sys.executable).with_name("nats-server")


def reserve() -> socket.socket:
    """Bind a free port without listening: a server may listen on it, but nobody else is given it while that server is down."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def port_of(holder: socket.socket) -> int:
    return int(holder.getsockname()[1])


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something holds; TimeoutError if it takes too long."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # most of what is waited for tells nobody
            await anyio.sleep(0.01)


class NatsServer:
    """One server; `config` is added to its configuration and can be changed with `reload`."""

    def __init__(
        self, directory: Path, config: str = "", name: str = "solo", *, cluster: str = "", jetstream: str = ""
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.config, self.name, self.cluster = directory, config, name, cluster
        self.jetstream = jetstream
        self._holder = reserve()
        self.port = port_of(self._holder)
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def _write(self) -> Path:
        file = self.directory / "nats.conf"
        file.write_text(
            f'server_name: {self.name}\nlisten: "{self.address}"\npid_file: "{self.directory}/pid"\n'
            f'jetstream {{ store_dir: "{self.directory}/store", {self.jetstream} }}\n{self.cluster}\n{self.config}\n'
        )
        return file

    async def start(self) -> NatsServer:
        """Start it and wait until it greets a client."""
        command = [str(BINARY), "-c", str(self._write()), "-l", str(self.directory / "log")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        await until(self._greets)
        return self

    def _greets(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"nats-server did not start: {self.log}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                return "handshake_first" in self.config or client.recv(4) == b"INFO"
        except OSError:
            return False

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Send SIGSTOP and wait until every thread stands still: one that does not yet would answer."""
        self.send(signal.SIGSTOP)
        assert self._process is not None
        while not stopped(self._process.pid):
            time.sleep(0.001)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        self.send(number)
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None)

    async def kill(self) -> None:
        await self.stop(signal.SIGKILL)

    async def ended(self, seconds: float = 10.0) -> int | None:
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, seconds)
        return process.returncode

    async def reload(self, config: str) -> None:
        """Change the configuration of the running server."""
        self.config = config
        before = self.log.count("Reloaded server configuration")
        self._write()
        self.send(signal.SIGHUP)
        await until(lambda: self.log.count("Reloaded server configuration") > before)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._holder.close()


@contextlib.contextmanager
def make_cluster(directory: Path, size: int = 3, config: str = "") -> Iterator[list[NatsServer]]:
    """Servers that know each other, not started yet."""
    holders = [reserve() for _ in range(size)]
    routes = ", ".join(f'"nats://127.0.0.1:{port_of(holder)}"' for holder in holders)
    servers = [
        NatsServer(
            directory / f"n{n}",
            config,
            f"n{n}",
            cluster=f'cluster {{ name: trio, listen: "127.0.0.1:{port_of(holder)}", routes: [{routes}] }}',
        )
        for n, holder in enumerate(holders, 1)
    ]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()
        for holder in holders:
            holder.close()
