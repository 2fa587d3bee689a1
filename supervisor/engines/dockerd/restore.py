"""Putting units back as they were found: by the run at its end, or by whoever comes after its death."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.container import NO_POLICY, Container, read
from supervisor.engines.dockerd.locks import Found

STOP: Final = 20.0
"""Seconds that the engine may take to end a container, beyond the container's own time."""
_NOT_FOUND: Final = 404


async def restore(api: Api, found: Found, *, dead: bool = True) -> list[str]:
    """Put a unit back as it was; return what was done, in words. Idempotent. A container that was removed is left at that.

    `dead`: the run has ended without a word, so a crash may have come after its end, with nobody to restart what crashed.
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
        if dead and found.running and _is_down(container) and container.would_restart():
            await api.insist("POST", f"containers/{container.id}/start", deadline=60)
            done.append(f"started {found.unit}, which its own restart policy would have done")
    if found.ours and not found.running and not _is_down(container):
        patience = math.ceil(found.patience)
        path = f"containers/{container.id}/stop"
        await api.insist("POST", path, params={"t": patience}, deadline=patience + STOP)
        done.append(f"stopped {found.unit}, which was down before the run")
    return done


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
