"""What keeps local processes from starting, in words for the user: before it is tried, and after."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.engines.base import Exit

if TYPE_CHECKING:
    from supervisor.engines.process import ProcessUnit


def problems(unit: ProcessUnit, base: Path, listening: set[int]) -> list[str]:
    """Return what would go wrong with a unit, looking only; `listening` are the ports that are taken."""
    found = []
    program, cwd = unit.command[0], base / (unit.cwd or "")
    path = unit.env.get("PATH", os.environ.get("PATH", os.defpath))
    if unit.cwd and not cwd.is_dir():
        found.append(f"its working directory {cwd} is not there; make it, or correct `cwd`")
    elif "/" in program and not os.access(cwd / program, os.X_OK) and not (unit.files and not unit.cwd):
        found.append(
            f"its command {cwd / program} is not there or not executable; correct the path, or `chmod +x` it"
        )
    if "/" not in program and shutil.which(program, path=path) is None:
        found.append(f"its command {program} is not on PATH; install it, or write its path")
    if unit.ready and unit.ready.port in listening:
        found.append(
            f"port {unit.ready.port} is in use already; stop who listens there (`ss -tlnp`), or change the port"
        )
    return found


def listening_ports() -> set[int]:
    """Return the TCP ports that somebody on this machine listens on, without touching them (proc(5): state 0A)."""
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}
    return ports


def explain(error: Exception, program: str, cwd: Path) -> str:
    """Say why a process could not be started, and what to do."""
    what = str(error.filename if isinstance(error, OSError) and error.filename else program)
    match error:
        case FileNotFoundError() | NotADirectoryError() if what == str(cwd):
            return f"its working directory {what} is not there; make it, or correct `cwd`"
        case FileNotFoundError():
            return f"the command {program} was not found; install it, or write its path"
        case PermissionError():
            return f"{what} may not be executed; see its permissions (`chmod +x`)"
        case OSError(errno=errno.ENOEXEC):
            return f"{program} is neither a program nor a script with a #! line; name its interpreter first"
        case OSError():
            return f"{error.strerror}: {what}"
    return str(error)


def how(last: Exit | None) -> str:
    """Say how a process ended."""
    if last is None:
        return "was not started"
    return f"was ended by {last.signal}" if last.signal else f"exited with code {last.code}"
