"""What each replica of a stream holds at one place: asked of every server, since only the leader answers the JetStream API for all.

The system account's JSZ gives each server's own first and last sequence and how many are deleted in between. What stands at the place
itself, a direct get says, put to each server over a connection of its own. Any replica may answer it (`allow_direct`): a server that has
one does so itself, as a rule, and passes it on otherwise. So it is traced (`Nats-Trace-Dest`, nats-server 2.11 or later), and the
answer belongs to whom the trace names. What nobody answered is unknown, and is said to be.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final, Literal, NamedTuple

import anyio
import anyio.to_thread
import nats.errors
from nats.aio.msg import Msg

from supervisor.broker.connection import BrokerError, Client, Connections
from supervisor.broker.credentials import CredentialsError, arguments
from supervisor.broker.health.system_account import ask_all
from supervisor.broker.options import SYSTEM

ANSWERS: Final = 1.0
"""Seconds for the servers' answers; those that are well need milliseconds."""
ID: Final = "Nats-Msg-Id"
_JSZ: Final = {"jsz": ("JSZ", {"accounts": True, "streams": True})}
_ROUTER: Final = 1
"""nats-server's kind of a connection to another server of its cluster."""

Holds = Literal["yes", "no", "another", "unknown"]


class Replica(NamedTuple):
    """What one server has of a stream at one place."""

    holds: Holds
    """Whether it has the message; `another` stands there, or nobody can say."""
    why: str
    """How that is known, or why it is not."""
    state: Mapping[str, int] = {}
    """`first`, `last`, `messages` and `deleted` by its own word; empty if it did not answer."""


async def replicas(
    connections: Connections, connection: str, stream: str, created: str, messages: Mapping[int, str]
) -> dict[int, dict[str, Replica]]:
    """Return for each place what each server says of the message whose id is given; within about 2 s.

    `created` is the stream's, which tells it from one of the same name in another account. `connection` is named in the soak file,
    and of the stream's account. Servers that say nothing of the stream are left out.
    """
    states, why, read = dict[str, Mapping[str, int]](), "", dict[str, dict[int, str]]()
    async with anyio.create_task_group() as group:

        async def ask_states() -> None:
            nonlocal states, why
            states, why = await _states(connections, stream, created)

        group.start_soon(ask_states)
        group.start_soon(_read, connections, connection, stream, tuple(messages), read)
    return {
        sequence: {
            server: _judge(states.get(server), read.get(server, {}).get(sequence), sequence, name, why)
            for server in sorted(states.keys() | read.keys())
        }
        for sequence, name in messages.items()
    }


async def _states(
    connections: Connections, stream: str, created: str
) -> tuple[dict[str, Mapping[str, int]], str]:
    """Return each server's own numbers of the stream, and why there are none."""
    if SYSTEM not in connections.broker.names:
        return {}, "replicas are asked through the system account: add `system` to the section broker"
    try:
        handle = await connections.handle(SYSTEM)
        await handle.wait_connected(ANSWERS)
        answers = await ask_all(handle, _JSZ, ANSWERS, named=True)
    except (BrokerError, nats.errors.Error, OSError) as error:
        return {}, str(error)
    found: dict[str, Mapping[str, int]] = {}
    for server, said in answers.items():
        for account in said["jsz"].get("account_details") or ():
            for one in account.get("stream_detail") or ():
                if one.get("name") == stream and one.get("created") == created:
                    state = one["state"]
                    found[server] = {
                        "first": state["first_seq"],
                        "last": state["last_seq"],
                        "messages": state["messages"],
                        "deleted": state.get("num_deleted", 0),
                    }
    return found, "" if answers else "no server answers in the system account"


async def _read(
    connections: Connections,
    name: str,
    stream: str,
    sequences: Collection[int],
    found: dict[str, dict[int, str]],
) -> None:
    """Add to what is found, by server, the id of the message at each place, empty where there is none; only what could be told."""
    options = connections.broker.options(name)
    try:
        given = await anyio.to_thread.run_sync(arguments, options, abandon_on_cancel=True)
    except CredentialsError:
        return
    subject = f"$JS.{options.domain}.API" if options.domain else "$JS.API"

    async def ask(address: str) -> None:
        client = Client(lambda _: None)
        try:
            with anyio.move_on_after(ANSWERS):
                await client.open({**given, "servers": [address]})
                for sequence in sequences:
                    server, said = await _traced(client, f"{subject}.DIRECT.GET.{stream}", sequence)
                    found.setdefault(server, {})[sequence] = said
        except (BrokerError, nats.errors.Error, OSError, ValueError, LookupError):
            return  # it is unknown what this one has
        finally:
            await client.end(0)

    async with anyio.create_task_group() as group:
        for address in options.servers:
            group.start_soon(ask, address)


async def _traced(client: Client, subject: str, sequence: int) -> tuple[str, str]:
    """Return which server answered a direct get, and the id of the message; ValueError if it was no answer about a message."""
    inbox, heard = client.new_inbox(), anyio.Event()
    said: dict[str, Msg] = {}

    async def take(msg: Msg) -> None:
        said.setdefault(msg.subject.rpartition(".")[2], msg)
        if len(said) == 2:
            heard.set()

    await client.subscribe(f"{inbox}.*", cb=take)
    headers = {"Nats-Trace-Dest": f"{inbox}.trace"}
    await client.publish(subject, b'{"seq": %d}' % sequence, f"{inbox}.read", headers)
    await heard.wait()
    trace, read = json.loads(said["trace"].data), said["read"].headers or {}
    if read.get("Status") not in (None, "404"):
        raise ValueError(read.get("Status"))
    gone = next((event for event in trace["events"] if event.get("kind") == _ROUTER), None)
    server = str(gone["name"] if gone else trace["server"]["name"])
    return server, "" if read.get("Status") else read.get(ID, "a message without id")


def _judge(state: Mapping[str, int] | None, read: str | None, sequence: int, name: str, why: str) -> Replica:
    """Say what a replica holds, from its own numbers and what it answered to a direct get."""
    said = None if read is None else _by_reading(read, name)
    if state is None:
        return said or Replica("unknown", why)
    if sequence < state["first"]:
        return Replica("no", f"it begins at {state['first']}", state)
    if sequence > state["last"]:
        return Replica("no", f"it ends at {state['last']}", state)
    if said:
        return said._replace(state=state)
    if not state["deleted"]:
        return Replica("unknown", "it has a message there and does not show it", state)
    return Replica(
        "unknown", f"it lacks {state['deleted']:,} messages and does not show whether this is one", state
    )


def _by_reading(read: str, name: str) -> Replica:
    if read == name:
        return Replica("yes", "it shows it")
    return Replica("another", f"it shows {read}") if read else Replica("no", "it has no message there")
