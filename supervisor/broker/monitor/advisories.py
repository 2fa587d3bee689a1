"""Events that JetStream publishes about itself, as far as they are worth having.

They may be late (a server that was paused tells what it did when it goes on) or missing (they are plain messages), so they only say
where to look. Never `ADVISORY.>`: every call to the API is an advisory, too, and a monitor would talk to itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from nats.aio.msg import Msg
from pydantic_core import from_json

from supervisor.broker.handle import Handle
from supervisor.broker.subscribed import Subscribed

PREFIX: Final = "$JS.EVENT.ADVISORY"
_STREAM: Final = ("CREATED", "DELETED", "LEADER_ELECTED", "QUORUM_LOST", "RESTORE_COMPLETE")
_CONSUMER: Final = ("CREATED", "DELETED", "LEADER_ELECTED", "QUORUM_LOST", "MAX_DELIVERIES")
SUBJECTS: Final = (
    *(f"{PREFIX}.STREAM.{what}.*" for what in _STREAM),
    *(f"{PREFIX}.CONSUMER.{what}.*.*" for what in _CONSUMER),
)
SYSTEM: Final = (f"{PREFIX}.DOMAIN.LEADER_ELECTED",)
"""Only the system account hears of the meta leader."""
CLOSE: Final = 1.0
"""Seconds to unsubscribe in; the connection is about to close."""

Tell = Callable[[str, str, tuple[str, ...], str], None]
"""Takes whom it is about (STREAM, CONSUMER, DOMAIN), what happened, the names in its subject, and the leader if it names one."""


@asynccontextmanager
async def told(handle: Handle, subjects: tuple[str, ...], tell: Tell) -> AsyncGenerator[None]:
    """Have advisories told as long as the context lasts."""

    async def hear(msg: Msg) -> None:
        group, what, *names = msg.subject.removeprefix(f"{PREFIX}.").split(".")
        tell(group, what, tuple(names), _leader(msg.data) if what == "LEADER_ELECTED" else "")

    subscribed: list[Subscribed] = []
    try:
        for subject in subjects:
            subscribed.append(await handle.subscribe(subject, hear))  # noqa: PERF401  # what is made is ended, even if the next fails
        yield
    finally:
        with anyio.move_on_after(CLOSE, shield=True):
            for each in subscribed:
                await each.unsubscribe()


def _leader(data: bytes) -> str:
    """Return the name of the leader; of the cluster's only its id is told, and names beside it."""
    try:
        said: Any = from_json(data)
        names = {peer["peer"]: peer["name"] for peer in said.get("replicas") or () if "peer" in peer}
        leader = str(said["leader"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return str(names.get(leader, leader))
