"""Hands each message to every subscription that asked for its topic, and sets new subscriptions up."""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.aio.msg import Msg

from supervisor.demo.system import PREFILL, Message, Subscription, System, ensure_stream

log = logging.getLogger("demo.dispatcher")


async def serve(system: System) -> None:
    """Follow the subscriptions and dispatch what comes in."""
    subscriptions: dict[str, Subscription] = {}

    async def dispatch(incoming: Msg) -> None:
        message = Message.decode(incoming.data)
        receivers = [name for name, one in subscriptions.items() if message.topic in one.topics]
        for name in receivers:
            if not await system.deliver(name, "live", [message]):
                del subscriptions[name]
        log.info("dispatched %s to %d subscriptions", message.id, len(receivers))

    await asyncio.gather(
        follow(system, subscriptions), system.work("stream_incoming", "dispatcher", dispatch)
    )


async def follow(system: System, subscriptions: dict[str, Subscription]) -> None:
    """Keep the subscriptions as the bucket has them, and set up the ones that are new."""
    watcher = await system.subscriptions.watchall()
    while True:
        try:
            entry = await watcher.updates(timeout=5)  # type: ignore[no-untyped-call]  # it says nothing of its types
        except nats.errors.TimeoutError:
            continue
        if entry is None:  # the end of what was there before
            continue
        if entry.operation or not entry.value:
            subscriptions.pop(entry.key, None)
            log.info("subscription %s was removed", entry.key)
            continue
        subscription = Subscription.decode(entry.value)
        if subscription.status == "pending":
            await set_up(system, entry.key, subscription, entry.revision)
        subscriptions[entry.key] = subscription


async def set_up(system: System, name: str, subscription: Subscription, revision: int) -> None:
    """Create the stream of a new subscription and, if it asks for that, have it filled."""
    await ensure_stream(system.js, f"stream_{name}", [f"subscription.{name}.*"])
    if subscription.prefill:
        request = f"{name} {revision}"
        await system.publish(PREFILL, request.encode(), request)
    else:
        await system.finish(name, subscription, revision)
    log.info("set up subscription %s to %s", name, ", ".join(subscription.topics))
