"""The worlds in which soakd dies, by their names: what units run on, what they speak to, and links beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from death_brokers import Embedded, Nodes, brokers
from death_cases import Case
from death_units import Containers, Processes
from deaths import World
from docker_client import Client
from link_harness import Echo

from supervisor.broker.ports import free_ports

TALKER = """
import socket, sys, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2) as client:
            while True:
                client.sendall(b"x")
                client.recv(1)
                time.sleep(0.01)
    except OSError:
        time.sleep(0.02)
"""


class Linked:
    """A server of somebody else's behind two links, with a client for each that talks to it all the time; beside it another world."""

    def __init__(self, beside: Processes | Containers) -> None:
        ports = free_ports()
        self._beside = beside
        self._server = socket.create_server(("127.0.0.1", next(ports)), backlog=512)
        self._echo = Echo(self._server)
        to = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._ports = {name: next(ports) for name in ("db", "other")}
        self._links = {name: {"listen": f"127.0.0.1:{port}", "to": to} for name, port in self._ports.items()}
        self._talkers = [
            subprocess.Popen([sys.executable, "-c", TALKER, str(port)], start_new_session=True)
            for port in self._ports.values()
        ]

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        return self._beside.soak(cases) | {"links": self._links}

    def look(self) -> Any:
        """Return what is beside, and on which links somebody listens, whose process was not found."""
        return {"beside": self._beside.look(), "listening": [*filter(_listens, self._ports.values())]}

    def dead(self) -> list[str]:
        """Bytes have to go through every link as if it were none: nobody has healed yet, but the daemon is dead."""
        return [why for name, port in self._ports.items() if (why := _goes_through(name, port))]

    def close(self) -> None:
        for talker in self._talkers:
            talker.kill()
            talker.wait()
        self._echo.close()
        self._beside.close()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _goes_through(name: str, port: int) -> str:
    """Say why 1 kB does not come back through a link at once; one that is still being made plain has a moment for it."""
    data, deadline, why = os.urandom(1000), time.monotonic() + 5, ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(data)
                got = b""
                while len(got) < len(data) and (more := client.recv(1000)):
                    got += more
            if got == data:
                return ""
            why = f"{len(got)} bytes came back"
        except OSError as error:
            why = str(error)
    return f"link {name} is no plain relay after the death of its daemon: {why}"


@contextmanager
def world_of(name: str, labels: list[str], folder: Path, client: Client | None) -> Iterator[World]:
    """Open a world by its name; `client` is the engine, for those that need one."""
    with ExitStack() as stack:
        if name == "broker":
            yield stack.enter_context(brokers(folder))
            return
        world: World | Processes | Containers | Nodes | Embedded | Linked
        if name == "process":
            world = Processes(folder, labels)
        elif name == "embedded":
            world = Embedded(folder, labels)
        elif name == "links":
            world = Linked(Processes(folder, labels))
        else:
            assert client is not None, f"the world {name} needs an engine"
            if name == "nodes":
                world = Nodes(client, folder)
            else:
                world = Containers(client, folder, labels)
                world = Linked(world) if name == "links-docker" else world
        yield stack.enter_context(closing(world))  # type: ignore[type-var]


ENGINE_OF = {
    "process": "process",
    "embedded": "process",
    "links": "process",
    "broker": "process",
    "docker": "docker",
    "nodes": "docker",
    "links-docker": "docker",
}
"""The worlds, and the engine of each. `broker` has its servers outside of the soak."""
