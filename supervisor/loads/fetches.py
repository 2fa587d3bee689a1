"""Bounded fetches from pull consumers: so many messages or fewer, within a time, and never a wait for what is not there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio
from nats.aio.msg import Msg

from supervisor.loads.clients import LoadClient

EXPIRES: Final = 1.0
"""Seconds after which the server ends a fetch by itself."""
SPARE: Final = 0.5
"""Seconds by which that may come late."""


class Place(NamedTuple):
    """Where a delivered message stands."""

    consumer: str
    sequence: int
    """In the stream."""
    number: int
    """Among all that its consumer has delivered."""


def place(msg: Msg) -> Place:
    """Return where a message stands, as its reply subject has it."""
    tokens = msg.reply.split(".")
    shift = 2 if len(tokens) > 9 else 0  # with the domain and the account's hash
    return Place(tokens[3 + shift], int(tokens[5 + shift]), int(tokens[6 + shift]))


@dataclass(slots=True)
class _Fetch:
    wanted: int
    over: anyio.Event = field(default_factory=anyio.Event)
    messages: list[Msg] = field(default_factory=list)


class Fetches:
    """All fetches of a load, on one subscription."""

    def __init__(self, client: LoadClient, prefix: str) -> None:
        """`prefix` is where the JetStream API is."""
        self._client, self._prefix = client, prefix
        self._inbox = ""
        self._open: dict[str, _Fetch] = {}
        """By consumer: a message bears the subject that it was stored under, and only its reply subject says where it comes from."""

    async def open(self) -> None:
        """Subscribe."""
        self._inbox = self._client.nc.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", self._came)

    async def fetch(self, stream: str, consumer: str, count: int) -> list[Msg]:
        """Return up to `count` messages: fewer if there are no more, or the broker does not answer in time.

        One fetch at a time for each consumer; NotSentError of the client.
        """
        fetch = self._open[consumer] = _Fetch(count)
        body = json.dumps({"batch": count, "expires": int(EXPIRES * 1e9)}).encode()
        subject = f"{self._prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        try:
            with anyio.move_on_after(EXPIRES + SPARE):
                await self._client.publish(subject, body, f"{self._inbox}.{consumer}")
                await fetch.over.wait()
        finally:
            del self._open[consumer]
        return fetch.messages

    def _came(self, msg: Msg) -> None:
        delivered = bool(msg.reply)  # where it is acknowledged, which a status never is
        fetch = self._open.get(place(msg).consumer if delivered else msg.subject.rpartition(".")[2])
        if fetch is None:
            return  # it came too late, and is read again
        if not delivered:
            fetch.over.set()  # a status: there are no more, or nobody is there
            return
        fetch.messages.append(msg)
        if len(fetch.messages) >= fetch.wanted:
            fetch.over.set()
