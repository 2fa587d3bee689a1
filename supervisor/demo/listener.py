"""Takes changes of the directory and publishes them raw."""

from __future__ import annotations

import logging

import nats.errors

from supervisor.demo.system import CHANGES, RAW, Message, System

log = logging.getLogger("demo.listener")


async def serve(system: System) -> None:
    """Store each change before it is acknowledged to whoever made it."""
    changes = await system.nc.subscribe(CHANGES, queue="listener")
    await system.ready("listener")
    while True:
        try:
            change = await changes.next_msg(timeout=5)
        except nats.errors.TimeoutError:
            continue
        message_id = Message.decode(change.data).id
        await system.publish(RAW, change.data, message_id)
        await change.respond(b"stored")
        log.info("stored change %s", message_id)
