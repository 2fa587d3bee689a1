"""Who holds a lock on an engine, and whether it still lives, as far as that can be told from here."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from anyio import to_thread

from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.container import read
from supervisor.engines.spawn import start_time
from supervisor.journal.runs import boot_id

_CONTAINER: Final = re.compile(r"[0-9a-f]{12}")
"""The host name that a container has unless somebody chose one: the beginning of its id."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of soakd: what names it on its own machine, and its machine among others."""

    run: str
    pid: int
    start: int
    """Its start time in clock ticks since boot: a pid is given again, not with the same time."""
    boot: str
    machine: str
    """Empty if the machine has no id."""
    namespace: str
    """Its pid namespace."""
    host: str
    container: str = ""
    """The container that it runs in, if that is one of this engine's."""
    container_begun: int = 0

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"the run {self.run} (pid {self.pid} on {self.host})"


async def ourselves(api: Api, run: str) -> Owner:
    """Return who we are."""
    owner = await to_thread.run_sync(_look, run)
    if not _CONTAINER.fullmatch(owner.host):
        return owner
    with suppress(ApiError):
        container = read(await api.call("GET", f"containers/{owner.host}/json"))
        return Owner(**asdict(owner) | {"container": container.id, "container_begun": container.begun})
    return owner


def _look(run: str) -> Owner:
    machine = Path("/etc/machine-id")
    return Owner(
        run=run,
        pid=os.getpid(),
        start=start_time(os.getpid()),
        boot=boot_id(),
        machine=machine.read_text().strip() if machine.exists() else "",
        namespace=str(Path("/proc/self/ns/pid").readlink()),
        host=socket.gethostname(),
    )


def parse(text: str) -> Owner | None:
    """Read an owner; None if it is not one."""
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


async def is_dead(api: Api, owner: Owner, us: Owner) -> bool:
    """Say whether the owner is known to be dead. False also if nobody here can tell: it may live on another machine."""
    if owner.boot == us.boot and owner.namespace == us.namespace:
        return await to_thread.run_sync(_is_gone, owner)
    if owner.container:
        try:
            container = read(await api.call("GET", f"containers/{owner.container}/json"))
        except ApiError as error:
            return error.status == 404  # not found
        return not container.running or container.begun != owner.container_begun
    return bool(owner.machine) and owner.machine == us.machine and owner.boot != us.boot


def _is_gone(owner: Owner) -> bool:
    try:
        return start_time(owner.pid) != owner.start
    except OSError:
        return True
