"""Where on this machine the volumes of a container are."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from supervisor.engines.base import EngineError
from supervisor.engines.dockerd.container import Container


def find(container: Container, path: str) -> str:
    """Return where in the container the volume is that has a path; EngineError if there is none that is on a disk."""
    wanted = PurePosixPath("/") / path
    holding = [place for place in container.mounts if wanted.is_relative_to(place)]
    if not holding:
        known = f"there are {', '.join(container.mounts)}" if container.mounts else "it has none"
        raise EngineError(f"{path} is on no volume of {container.name}: {known}")
    place = max(holding, key=len)
    if not container.mounts[place]:
        raise EngineError(f"{place} of {container.name} is in memory only: there is no disk to fill")
    return place


def locate(container: Container, path: str) -> Path:
    """Return the directory of this machine that is the volume which has a path of a container that runs.

    EngineError if there is none, or it cannot be known that it is the same one: an engine may be on another machine, or see other
    files than we do. Blocks.
    """
    place = find(container, path)
    source = container.mounts[place]
    if not container.running or not container.pid:
        raise EngineError(f"{container.name} is not running: start it first")
    inside = Path(f"/proc/{container.pid}/root") / place.lstrip("/")
    try:
        there, here = inside.stat(), Path(source).stat()
    except OSError as error:
        raise EngineError(
            f"cannot see {source}, the volume of {container.name}: {error.strerror}; run soakd as root on the engine's machine"
        ) from error
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        raise EngineError(
            f"{source} is not the volume of {container.name} here: run soakd on the engine's machine"
        )
    return Path(source)
