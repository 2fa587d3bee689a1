"""Putting units back as they were found: by the run at its end, or by whoever comes after its death."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from supervisor.engines.dockerd.api import Api, ApiError, AwayError
from supervisor.engines.dockerd.container import NO_POLICY, Container, read
from supervisor.engines.dockerd.ending import Unknown, ought_to_run
from supervisor.engines.dockerd.locks import Found
from supervisor.journal.events import Cause

STOP: Final = 20.0
"""Seconds that the engine may take to end a container, beyond the container's own time."""
START: Final = 60.0
"""Seconds that it may take to start one."""
_NOT_FOUND: Final = 404


async def restore(api: Api, found: Found, *, causes: Mapping[str, Cause] = MappingProxyType({})) -> list[str]:
    """Put a unit back as it was; return what was done, in words. Idempotent. A container that was removed is left at that.

    What crashed shortly before the end of its run, or since, had nobody to restart it. `causes` says why lives ended that are on
    record (see `ought_to_run`).
    """
    container = await inspect(api, found.container) or await inspect(api, found.name)
    done: list[str] = []
    if container is None:
        return done
    # One that took its place has been noted with its own policy, if it had one.
    same = container.id == found.container
    if same and found.policy and not container.has_policy and found.policy != NO_POLICY:
        await set_policy(api, container, found.policy)
        done.append(f"gave {found.unit} its restart policy {found.policy['Name']} back")
        container = await inspect(api, container.id) or container
    kept = bool(found.policy) or not container.has_policy  # otherwise Docker has kept it up, or has not
    if kept and found.running and _is_down(container) and container.begun:
        done += await _start(api, found.unit, container, causes)
    if found.ours and not found.running and not _is_down(container):
        patience = math.ceil(found.patience)
        path = f"containers/{container.id}/stop"
        await api.insist("POST", path, params={"t": patience}, deadline=patience + STOP)
        done.append(f"stopped {found.unit}, which was down before the run")
    return done


async def _start(api: Api, unit: str, container: Container, causes: Mapping[str, Cause]) -> list[str]:
    """Start a unit that ran before the run, unless it is down by somebody's will, or its own; return what was done, in words."""
    try:
        if not await ought_to_run(api, container, causes):
            return []
        await api.insist("POST", f"containers/{container.id}/start", deadline=START)
    except Unknown:
        return [f"left {unit} down, which may have been stopped by somebody: nobody remembers"]
    except AwayError:
        raise
    except ApiError as error:  # that is how it is now: no reason to keep it locked for ever
        return [f"could not start {unit}, which ran before the run: {error}"]
    return [f"started {unit}, which ran before the run"]


async def set_policy(api: Api, container: Container, policy: Mapping[str, Any]) -> None:
    """Give a container a restart policy. One that ends in that moment has it all the same: an engine fails after it has taken note."""
    try:
        await api.insist("POST", f"containers/{container.id}/update", body={"RestartPolicy": dict(policy)})
    except ApiError:
        seen = await inspect(api, container.id)
        if seen and seen.policy.get("Name", "no") != policy["Name"]:
            raise


async def inspect(api: Api, container: str) -> Container | None:
    """Look at a container; None if it is not there."""
    try:
        return read(await api.insist("GET", f"containers/{container}/json"))
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def _is_down(container: Container) -> bool:
    return not container.running and not container.restarting
