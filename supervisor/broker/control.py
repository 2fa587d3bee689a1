"""What a broker lets those do who disturb it: who leads, which clients there are, and how both are told to go.

Everything here is bounded in time by its own calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import nats.errors

from supervisor.broker.api import call
from supervisor.broker.connection import BrokerError, Connections, Handle
from supervisor.broker.health.system_account import ask_all
from supervisor.broker.options import SYSTEM

META: Final = "_meta_"
"""What nats-server itself calls the group that decides about streams and consumers."""
LOOK: Final = 3.0
"""Seconds that servers have for an answer; those that are well need milliseconds."""
PAGE: Final = 1024
"""Connections on one page; the server's own number."""


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A client of a server."""

    server: str
    """The server's id."""
    cid: int
    name: str
    user: str
    account: str


async def system(connections: Connections | None) -> Handle:
    """Return the connection of the system account; BrokerError if there is none, or it cannot be used."""
    if connections is None or SYSTEM not in connections.broker.names:
        raise BrokerError(
            "this needs the system account: add `system: {user: ..., password: ...}` to the section broker"
        )
    handle = await connections.handle(SYSTEM)
    await handle.wait_connected(LOOK)
    return handle


async def account(connections: Connections | None, name: str) -> Handle:
    """Return a named connection; BrokerError if there is none, or it cannot be used."""
    if connections is None:
        raise BrokerError("this needs a broker: add the section broker, with its servers")
    handle = await connections.handle(name)
    await handle.wait_connected(LOOK)
    return handle


async def _everyone(handle: Handle, what: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each server that answers says, by its id."""
    answers = await ask_all(handle, {what: (what, options)}, LOOK)
    if not answers:
        raise BrokerError(
            f"no server answers {what} in the system account: is that what its user belongs to?"
        )
    return {server: said[what] for server, said in answers.items() if what in said}


async def client_connections(handle: Handle) -> list[ClientConnection]:
    """Return all clients of all servers, seen through the system account."""
    found: list[ClientConnection] = []
    offset, more = 0, True
    while more:
        pages = await _everyone(handle, "CONNZ", {"auth": True, "limit": PAGE, "offset": offset})
        for server, page in pages.items():
            found += [
                ClientConnection(
                    server,
                    one["cid"],
                    one.get("name", ""),
                    one.get("authorized_user", ""),
                    one.get("account", ""),
                )
                for one in page.get("connections", ())
            ]
        offset += PAGE
        more = any(page.get("total", 0) > offset for page in pages.values())
    return found


async def tell_client(handle: Handle, what: str, server: str, cid: int) -> bool:
    """Kick a client (`KICK`) or tell it that its server is about to leave (`LDM`); False if it is gone already."""
    subject = f"$SYS.REQ.SERVER.{server}.{what}"
    try:
        answer = json.loads((await handle.request(subject, json.dumps({"cid": cid}).encode(), LOOK)).data)
    except (nats.errors.Error, ValueError) as error:
        raise BrokerError(
            f"cannot {what} client {cid} of {server}: {type(error).__name__}: {error}"
        ) from error
    problem = str(answer.get("error", {}).get("description", ""))
    if problem and "no such client" not in problem:
        raise BrokerError(f"cannot {what} client {cid} of {server}: {problem}")
    return not problem


async def unwell(handle: Handle, names: list[str]) -> dict[str, str]:
    """Return which of the servers are not well, and why: `/healthz` is well once all that they hold has caught up."""
    answers = await ask_all(handle, {"varz": ("VARZ", {}), "healthz": ("HEALTHZ", {})}, LOOK)
    health = {
        said["varz"].get("server_name", ""): said.get("healthz", {"error": "it does not say how it is"})
        for said in answers.values()
        if "varz" in said
    }
    said = {name: health.get(name, {"error": "it does not answer"}) for name in names}
    return {
        name: str(one.get("error") or one.get("status"))
        for name, one in said.items()
        if one.get("error") or one.get("status_code", 200) != 200
    }


# --- who leads ---------------------------------------------------------------------------------------------------------


async def meta_leader(handle: Handle) -> str:
    """Return the name of the server that leads the cluster, empty if there is none; seen through the system account."""
    groups = [said.get("meta_cluster") or {} for said in (await _everyone(handle, "JSZ", {})).values()]
    named = [str(group.get("leader") or "") for group in groups]
    return max(named, key=named.count, default="")


async def leader(handle: Handle, stream: str, consumer: str = "") -> str:
    """Return the name of the server that leads a stream or one of its consumers, empty if there is none."""
    subject = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
    return str((await call(handle, subject)).get("cluster", {}).get("leader") or "")


async def step_down(handle: Handle, stream: str = "", consumer: str = "") -> None:
    """Have the leader of the meta group, a stream or a consumer step down."""
    group, names = ("CONSUMER", f".{stream}.{consumer}") if consumer else ("STREAM", f".{stream}")
    if not stream:
        group, names = "META", ""
    await call(handle, f"{group}.LEADER.STEPDOWN{names}")


class Leaders:
    """Finds the unit that leads a stream, as soon as there are connections."""

    def __init__(self) -> None:
        self.connections: Connections | None = None

    async def unit(self, stream: str) -> str | None:
        """Return the unit whose server leads a stream, or the cluster (`_meta_`); None if it has no leader that is a unit."""
        if self.connections is None:
            return None
        try:
            if stream == META:
                name = await meta_leader(await system(self.connections))
            else:
                name = await leader(await account(self.connections, "default"), stream)
        except BrokerError:
            return None
        return self.connections.broker.node_of(name)


# --- how old -----------------------------------------------------------------------------------------------------------


def age(info: Mapping[str, Any]) -> float:
    """Return for how many seconds a stream or consumer had existed when its server gave this info.

    By the server's own clock (`ts`, from 2.10 on), else by ours.
    """
    now = _time(info["ts"]) if "ts" in info else datetime.now().astimezone()
    return (now - _time(info["created"])).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)  # 3.11 reads nanoseconds and Z
