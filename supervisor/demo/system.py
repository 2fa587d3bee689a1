"""What the services of the demo share: their connection, streams and bucket, and the shape of what passes through."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, KeyValueConfig, RetentionPolicy, StreamConfig
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError, NoStreamResponseError
from nats.js.kv import KeyValue

REPLICAS: Final = 3
BUCKET: Final = "SUBSCRIPTIONS"
CHANGES: Final = "directory.changed"
"""Requests to the listener: a change of the directory, answered once it is stored."""
HEALTH: Final = "demo.health."
"""Requests to a service that is at work, by its name."""
RAW: Final = "demo.raw"
INCOMING: Final = "demo.incoming"
PREFILL: Final = "demo.prefill"
QUEUES: Final = {"stream_ldif": RAW, "stream_incoming": INCOMING, "stream_prefill": PREFILL}
"""Work queues by the name of their stream. Streams of subscriptions have names with a number at the end."""
NO_LEADER: Final = 30.0
"""Seconds that a cluster may take to elect its leaders."""

log = logging.getLogger("demo.system")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """What subscribers get: the state of an object of the directory."""

    id: str
    topic: str
    body: dict[str, str]

    def encode(self) -> bytes:
        """Return it as it goes over the wire."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read what `encode` wrote."""
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class Subscription:
    """An entry of the bucket, by the name of its subscriber."""

    topics: tuple[str, ...]
    prefill: bool
    status: str = "pending"
    """`done` once the subscriber's stream is there, and filled if that was asked for."""

    def encode(self) -> bytes:
        """Return it as it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Subscription:
        """Read what `encode` wrote."""
        entry = json.loads(data)
        return cls(tuple(entry["topics"]), entry["prefill"], entry["status"])


@dataclass(frozen=True, slots=True)
class System:
    """What a service works with."""

    nc: Client
    js: JetStreamContext
    subscriptions: KeyValue

    async def publish(self, subject: str, data: bytes, message_id: str) -> None:
        """Publish into a stream; a message that is there already, from before a crash, is not stored twice."""
        await self.js.publish(subject, data, timeout=2, headers={"Nats-Msg-Id": message_id})

    async def deliver(self, name: str, how: str, messages: Iterable[Message]) -> bool:
        """Put messages into a subscriber's stream; False if the subscription has been removed meanwhile."""
        try:
            for message in messages:
                message_id = f"{name}-{how}-{message.id}"
                await self.publish(f"subscription.{name}.{how}", message.encode(), message_id)
        except NoStreamResponseError:
            try:
                await self.subscriptions.get(name)
            except KeyNotFoundError:
                log.info("subscription %s is gone", name)
                return False
            raise
        return True

    async def finish(self, name: str, subscription: Subscription, revision: int) -> None:
        """Mark a subscription as done, unless somebody changed or removed it meanwhile."""
        done = Subscription(subscription.topics, subscription.prefill, "done")
        try:
            await self.subscriptions.update(name, done.encode(), last=revision)
        except KeyWrongLastSequenceError:
            log.info("subscription %s has changed meanwhile", name)

    async def ready(self, service: str) -> None:
        """Say that a service is at work, in its log and to whoever asks."""

        async def answer(request: Msg) -> None:
            await request.respond(b"ok")

        await self.nc.subscribe(HEALTH + service, cb=answer)
        logging.getLogger(f"demo.{service}").info("%s is ready", service)

    async def work(self, queue: str, worker: str, handle: Callable[[Msg], Awaitable[None]]) -> None:
        """Handle the messages of a work queue one after the other, each until it is acknowledged."""
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=5, max_ack_pending=1)
        pull = await with_leader(
            lambda: self.js.pull_subscribe(QUEUES[queue], durable=worker, stream=queue, config=config)
        )
        await self.ready(worker)
        while True:
            try:
                messages = await pull.fetch(1, timeout=5)
            except nats.errors.TimeoutError:
                continue
            for message in messages:
                await handle(message)
                await message.ack()


async def connect(servers: list[str], name: str, wait: float = 0.0) -> Client:
    """Connect the way services often do: one that loses its connection gives up, and somebody else starts it again.

    Only at the start is a broker waited for, up to `wait` seconds: containers of one project are started side by side.
    A client that reconnected would not be better off: its watch of the bucket stays blind for up to 17 seconds then (nats-py 2.16).
    """
    deadline = asyncio.get_running_loop().time() + wait
    while True:
        try:
            return await nats.connect(
                servers,
                name=name,
                user=os.environ.get("SOAKD_NATS_USER"),
                password=os.environ.get("SOAKD_NATS_PASSWORD"),
                connect_timeout=1,
                max_reconnect_attempts=1,
                reconnect_time_wait=0.1,
                allow_reconnect=False,
            )
        except (nats.errors.Error, OSError) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("waiting for the broker: %s", error)
            await asyncio.sleep(0.5)


async def prepare(nc: Client) -> System:
    """Create the queues and the bucket unless they are there."""
    js = nc.jetstream(timeout=2)
    for name, subject in QUEUES.items():
        await ensure_stream(js, name, [subject], RetentionPolicy.WORK_QUEUE)
    bucket = KeyValueConfig(bucket=BUCKET, replicas=REPLICAS)
    return System(nc, js, await with_leader(lambda: js.create_key_value(bucket)))


async def ensure_stream(
    js: JetStreamContext,
    name: str,
    subjects: list[str],
    retention: RetentionPolicy = RetentionPolicy.LIMITS,
) -> None:
    """Create a stream unless it is there."""
    config = StreamConfig(name=name, subjects=subjects, retention=retention, num_replicas=REPLICAS)
    await with_leader(lambda: js.add_stream(config))


async def with_leader(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, and again while nobody can answer it: a cluster that has just started has no leader yet."""
    deadline = asyncio.get_running_loop().time() + NO_LEADER
    while True:
        try:
            return await call()
        except (APIError, nats.errors.TimeoutError, nats.errors.NoRespondersError) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("waiting for a leader: %s", error)
            await asyncio.sleep(0.5)
