"""A soak file whose broker can be spoken with from outside of a run: an embedded one is only there while a run is."""

from __future__ import annotations

from pathlib import Path

from supervisor.broker.embedded import LISTENS, ports_in_use
from supervisor.journal.runs import RunIndex
from supervisor.soakfile.errors import NotRunning
from supervisor.soakfile.load import Loaded, load
from supervisor.soakfile.sugar import SOURCE


def load_running(path: Path, index: RunIndex) -> Loaded:
    """Read a soak file; an embedded broker's addresses are those of the run of this soak that goes on.

    SoakFileError for a soak file that is wrong, NotRunning if there is no such run, or its servers were not started yet.
    """
    loaded = load(path)
    if not loaded.document.has(SOURCE):
        return loaded
    name, nodes = loaded.soak.soak, len(loaded.soak.broker.nodes if loaded.soak.broker else ())
    for directory in index.living(name):
        ports = ports_in_use(directory)
        if len(ports) >= nodes * len(LISTENS):
            return load(path, ports=iter(ports))
        if ports:  # they are made one after the other
            raise NotRunning(
                f"{path}: the broker of {name} is embedded, and the run of {name} has made {len(ports) // len(LISTENS)} of its {nodes} "
                "nodes so far: try again in a moment. If the file has more nodes by now than the run was started with, end that run first"
            )
    raise NotRunning(
        f"{path}: the broker of {name} is embedded: it runs only during a soak, and no run of {name} goes on. "
        f"Start one with `soakd run {path}` and look from another terminal"
    )
