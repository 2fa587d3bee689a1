"""Looks whether the system is able to do its work."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import nats.errors
from nats.aio.client import Client

from supervisor.demo.system import BUCKET, HEALTH, QUEUES

SERVICES: Final = ("dispatcher", "listener", "prefill", "transformer")
TIMEOUT: Final = 1.0

log = logging.getLogger("demo.check")


async def check(nc: Client) -> bool:
    """Say whether every service answers and every stream has a leader."""
    js = nc.jetstream(timeout=TIMEOUT)

    async def answers(service: str) -> None:
        await nc.request(HEALTH + service, timeout=TIMEOUT)

    async def has_leader(stream: str) -> None:
        info = await js.stream_info(stream)
        if not (info.cluster and info.cluster.leader):
            raise nats.errors.Error(f"{stream} has no leader")

    looks = {service: answers(service) for service in SERVICES}
    looks |= {stream: has_leader(stream) for stream in (*QUEUES, f"KV_{BUCKET}")}
    results = dict(zip(looks, await asyncio.gather(*looks.values(), return_exceptions=True), strict=True))
    for name, trouble in results.items():
        if trouble is not None:
            log.error("%s: %s: %s", name, type(trouble).__name__, trouble)
    return not any(results.values())
