"""Makes messages of raw changes."""

from __future__ import annotations

import logging

from nats.aio.msg import Msg

from supervisor.demo.system import INCOMING, Message, System

log = logging.getLogger("demo.transformer")


async def serve(system: System) -> None:
    """Transform one change after the other."""

    async def transform(change: Msg) -> None:
        raw = Message.decode(change.data)
        body = {key.lower(): value.strip() for key, value in raw.body.items()}
        await system.publish(INCOMING, Message(raw.id, raw.topic, body).encode(), raw.id)
        log.info("transformed %s", raw.id)

    await system.work("stream_ldif", "transformer", transform)
