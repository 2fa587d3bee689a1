"""A short-lived push consumer that is read in order: it says when it went silent or lost something, and is never left behind.

It is ephemeral, in memory, without acknowledgements, and has a heartbeat every half second. Where deleting it fails, because the
cluster cannot at the moment, the server does it a few seconds after nobody listens any more.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import nats.errors
from nats.aio.msg import Msg

from supervisor.broker.api import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError, call
from supervisor.broker.client import BrokerError
from supervisor.broker.handle import Handle

OURS: Final = "soakd-"
"""How the names of our own consumers begin."""
HEARTBEAT: Final = 0.5
SILENCE: Final = 1.6
"""Seconds without a message or heartbeat after which a consumer counts as dead: three heartbeats."""
INACTIVE: Final = 5.0
"""Seconds without a listener after which the server deletes it: longer than a handle takes to reconnect."""
CREATE: Final = 2.0
DELETE: Final = 1.0
LEFT: Final = 32
"""Consumers that could not be deleted and are tried again; older ones have ended themselves."""

_NANO: Final = 1_000_000_000

Deliver = Callable[[str, int, Mapping[str, str] | None], None]
"""Takes subject, stream sequence and headers of a message. It must not raise."""


class Ordered:
    """One such consumer, from its creation on."""

    def __init__(self, handle: Handle, stream: str, deliver: Deliver) -> None:
        self.stream, self.name = stream, f"{OURS}{secrets.token_hex(8)}"
        self.broken = ""
        """Why it can no longer be relied on."""
        self.reached = 0
        """The stream's sequence up to which everything has been told."""
        self.caught_up = False
        """It has told everything there was when it was created."""
        self._handle, self._deliver = handle, deliver
        self._received = 0
        self._heard = time.monotonic()

    @property
    def heard(self) -> float:
        """When the server was last heard of, in monotonic seconds."""
        return self._heard

    def check(self) -> None:
        """Raise BrokerError if it is broken or silent."""
        if not self.broken and time.monotonic() - self._heard > SILENCE:
            self.broken = f"nothing was heard for {SILENCE}s"
        if self.broken:
            raise BrokerError(f"consumer {self.name} of {self.stream}: {self.broken}")

    async def create(self, subject: str, inbox: str, since: int | None) -> None:
        """Create it, to tell the last message of each subject, or all from the sequence `since` on, and then whatever follows."""
        begin: dict[str, str | int] = {"deliver_policy": "last_per_subject"}
        if since is not None:
            begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": since}
        config = {
            **begin,
            "name": self.name,
            "deliver_subject": inbox,
            "filter_subject": subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "headers_only": True,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * _NANO),
            "inactive_threshold": int(INACTIVE * _NANO),
            "num_replicas": 1,
            "mem_storage": True,
        }
        body = {"stream_name": self.stream, "config": config}
        await call(self._handle, f"CONSUMER.CREATE.{self.stream}.{self.name}", body, deadline=CREATE)
        self._heard = time.monotonic()

    async def receive(self, msg: Msg) -> None:
        """Take a message from its inbox."""
        self._heard = time.monotonic()
        headers = msg.headers
        if headers is not None and "Status" in headers:
            await self._heed(headers, msg.reply)
            return
        tokens = msg.reply.split(".")
        first = (
            5 if len(tokens) < 11 else 7
        )  # a domain and an account come in between, since 2.9 as an option
        sequence, number, pending = int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3])
        self._received += 1
        if number != self._received:
            self.broken = f"message {self._received} of it was lost"
            return
        self.caught_up = self.caught_up or not pending
        self.reached = sequence
        self._deliver(msg.subject, sequence, headers)

    async def _heed(self, headers: Mapping[str, str], reply: str) -> None:
        """Answer flow control, and learn from a heartbeat that nothing is missing."""
        if wanted := reply or headers.get("Nats-Consumer-Stalled"):
            try:
                await self._handle.nc.publish(wanted)
            except (nats.errors.Error, OSError, BrokerError) as error:
                self.broken = f"flow control could not be answered: {error}"
        elif last := headers.get("Nats-Last-Consumer"):
            if int(last) != self._received:
                self.broken = f"message {self._received + 1} of it was lost"
                return
            self.caught_up = True
            self.reached = max(self.reached, int(headers.get("Nats-Last-Stream", 0)))


class OrderedConsumers:
    """Opens consumers, and sees to it that none is left."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._left: list[tuple[str, str]] = []

    @asynccontextmanager
    async def open(
        self, stream: str, subject: str, deliver: Deliver, since: int | None = None
    ) -> AsyncGenerator[Ordered]:
        """Have all last messages of a stream's subjects told, or all from a sequence on, and what follows.

        BrokerError if that cannot be.
        """
        consumer = Ordered(self._handle, stream, deliver)
        inbox = self._handle.nc.new_inbox()
        subscribed = await self._handle.subscribe(inbox, consumer.receive)
        self._left.append((stream, consumer.name))
        del self._left[:-LEFT]
        try:
            await consumer.create(subject, inbox, since)
            yield consumer
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(DELETE):
                await subscribed.unsubscribe()
                await self.sweep()

    async def sweep(self) -> None:
        """Delete what is left, as far as the cluster can at the moment."""
        for stream, name in list(self._left) if self._handle.connected else ():
            try:
                await call(self._handle, f"CONSUMER.DELETE.{stream}.{name}", deadline=DELETE)
            except ApiError as error:
                if error.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                    return
            except BrokerError:
                return
            self._left.remove((stream, name))
