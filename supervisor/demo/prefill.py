"""Fills the stream of a new subscription with what the directory held before."""

from __future__ import annotations

import logging
from typing import Final

from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError

from supervisor.demo.system import Message, Subscription, System

DIRECTORY: Final = {
    "users/user": tuple({"name": f"user{n}", "mail": f"user{n}@example.org"} for n in range(8)),
    "groups/group": tuple({"name": f"group{n}"} for n in range(4)),
}
"""What the directory holds, by topic."""

log = logging.getLogger("demo.prefill")


async def serve(system: System) -> None:
    """Fill one subscription after the other."""

    async def fill(request: Msg) -> None:
        name, revision = request.data.decode().split()
        try:
            entry = await system.subscriptions.get(name)
        except KeyNotFoundError:
            log.info("subscription %s is gone", name)
            return
        subscription = Subscription.decode(entry.value or b"")
        await system.deliver(name, "prefill", contents(subscription.topics))
        await system.finish(name, subscription, int(revision))
        log.info("filled subscription %s", name)

    await system.work("stream_prefill", "prefill", fill)


def contents(topics: tuple[str, ...]) -> list[Message]:
    """Return all objects of some topics, in the order of the topics."""
    return [
        Message(f"{topic}-{body['name']}", topic, body)
        for topic in topics
        for body in DIRECTORY.get(topic, ())
    ]
