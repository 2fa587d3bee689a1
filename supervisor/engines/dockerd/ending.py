"""Whether a container that is down ought to run, found out afterwards: nobody has followed its end, since the run was dead by then."""

from __future__ import annotations

import json
from collections.abc import Mapping

from supervisor.engines.dockerd.api import Api
from supervisor.engines.dockerd.container import Container, ended
from supervisor.engines.dockerd.follower import events
from supervisor.engines.dockerd.life import Unit
from supervisor.journal.events import Cause


class Unknown(Exception):  # noqa: N818  # a state of affairs that the caller handles, not a defect
    """Nobody knows any more whether a person has stopped it."""


async def ought_to_run(api: Api, container: Container, causes: Mapping[str, Cause]) -> bool:
    """Say whether a container ran, and would still if it had been kept up: no person has stopped it, nor did it end in peace.

    `causes` has what is on record of ends, by incarnation. What is not was told by the engine, which remembers 256 events: Unknown
    raised if it has forgotten this end, and the exit code could be anybody's. Where it was Docker that kept it up, it would have done so.
    """
    if cause := causes.get(container.incarnation):
        return cause not in {Cause.OUTSIDE, Cause.DONE}
    outside = await _by_somebody(api, container)
    if outside:
        return False
    if container.has_policy:
        return container.would_restart()
    if outside is None and ended(container.code)[1] and not container.oom:
        raise Unknown
    return container.code != 0


async def _by_somebody(api: Api, container: Container) -> bool | None:
    """Say whether somebody has ended the last life of a container; None if the engine has forgotten its end."""
    unit = Unit(container.name, api.ago)
    unit.begin(container, container.begun)
    filters = {"type": ["container"], "container": [container.id], "event": ["kill", "die"]}
    async for event in events(api, {"filters": json.dumps(filters)}, container.begun, api.now()):
        if event.action == "kill":
            unit.signalled(event.signal, event.at)
        elif unit.life:
            return unit.end(container.code, event.at, None, live=True).outside
    return None
