"""Streams and buckets that a load makes for itself: never one that was there before, and gone again unless something went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from supervisor.broker import api
from supervisor.broker.connection import BrokerError, Handle
from supervisor.loads.unworkable import ExistsError

if TYPE_CHECKING:
    from supervisor.loads.base import LoadContext


async def make(handle: Handle, run: str, config: Mapping[str, Any], *, existing: bool = False) -> bool:
    """Make a stream of this run; return False if it was there before, which ExistsError refuses unless `existing`.

    A stream that an earlier life of the load made in this run is taken on.
    """
    name, mark = config["name"], f"made by soakd, run {run}"
    try:
        info = await api.call(handle, f"STREAM.INFO.{name}")
    except api.ApiError as error:
        if error.err_code != api.STREAM_NOT_FOUND:
            raise
        await api.call(handle, f"STREAM.CREATE.{name}", {**config, "description": mark})
        return True
    found = str(info["config"].get("description", ""))
    if found == mark:
        return True
    if existing:
        return False
    whose = f" ({found}, which kept it as evidence)" if found.startswith("made by soakd") else ""
    raise ExistsError(
        f"the stream {name} exists already{whose}: remove it, choose another name, or say existing: true where "
        "the load has that"
    )


@dataclass
class Leftovers:
    """Streams that are to be removed at the end of the run, unless it failed: then they are evidence."""

    streams: list[tuple[Handle, str]] = field(default_factory=list)

    async def remove(self) -> None:
        """Remove them; a broker that is away keeps them."""
        for handle, name in self.streams:
            await _delete(handle, name)


async def remove(context: LoadContext, handle: Handle, name: str) -> None:
    """Remove a stream, once it is known that the run did not fail; a broker that is away keeps it."""
    if context.leftovers is not None:
        context.leftovers.streams.append((handle, name))
        return
    with anyio.CancelScope(shield=True):
        await _delete(handle, name)


async def _delete(handle: Handle, name: str) -> None:
    with anyio.move_on_after(1):
        try:
            await api.call(handle, f"STREAM.DELETE.{name}")
        except BrokerError:
            return


def bucket(
    name: str, *, replicas: int, history: int = 1, max_age: float = 0.0, storage: str = "file"
) -> dict[str, Any]:
    """Return the stream that is a key-value bucket, as nats-py and the other clients make it."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "num_replicas": replicas,
        "storage": storage,
        "max_msgs_per_subject": history,
        "max_age": int(max_age * 1e9),
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": int(min(max_age or 120.0, 120.0) * 1e9),
    }
