"""What a server's monitoring port says: `/varz`, `/jsz` and the variants of `/healthz`, all at once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread

from supervisor.broker.health import reports
from supervisor.broker.health.facts import Monitored, Server

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of an answer that are read."""
_PATHS: Final = {
    "varz": "varz",
    "jsz": "jsz",
    "plain": "healthz",
    "js-enabled-only": "healthz?js-enabled-only=true",
    "js-server-only": "healthz?js-server-only=true",
}
_DETAILS: Final = "jsz?accounts=true&streams=true&consumers=true&config=true"
_HERE: Final = ("127.0.0.1", "::1", "localhost")


async def look(http: aiohttp.ClientSession, unit: str, url: str, deadline: float) -> Monitored:
    """Ask the monitoring port at `url`, within `deadline` seconds; as long again where many consumers are to be counted."""
    began, took = time.monotonic(), 0.0
    error = f"no answer within {deadline:g}s"
    answers: dict[str, tuple[int, Any]] = {}

    async def ask(name: str, path: str) -> None:
        nonlocal error, took
        try:
            answers[name] = await _get(http, url, path)
            took = took or time.monotonic() - began
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = _why(failure)

    with anyio.move_on_after(deadline):
        async with anyio.create_task_group() as group:
            for name, path in _PATHS.items():
                group.start_soon(ask, name, path)
    seen = None
    if "varz" in answers and "jsz" in answers:
        try:
            seen = reports.server(answers["varz"][1], answers["jsz"][1])
        except reports.NoReport as failure:
            error = str(failure)
        else:
            checks = {name: reports.check(*answers[name]) for name in reports.CHECKS if name in answers}
            seen = seen.model_copy(update={"checks": checks})
            with anyio.move_on_after(deadline):
                seen = await _with_disk(seen, url)
            seen = await _with_consumers(http, seen, url, deadline)
    took = took or time.monotonic() - began
    return Monitored(unit=unit, url=url, took=took, server=seen, error="" if seen is not None else error)


async def _get(http: aiohttp.ClientSession, url: str, path: str) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    where, headers = f"{url.rstrip('/')}/{path}", {"Connection": "close"}
    async with http.get(where, allow_redirects=False, headers=headers) as answer:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > LARGEST:
                raise ValueError(f"/{path} answers with more than {LARGEST} bytes")
        return answer.status, json.loads(bytes(body))


async def _with_disk(seen: Server, url: str) -> Server:
    """Add what the file system of the store has left, if both are of this host."""
    if (
        seen.store is None
        or urlsplit(url).hostname not in _HERE
        or not Path(seen.store.directory).is_absolute()
    ):
        return seen
    try:
        disk = await anyio.to_thread.run_sync(os.statvfs, seen.store.directory, abandon_on_cancel=True)
    except OSError:
        return seen  # it lives in a container: its disk is not for us to see
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    store = seen.store.model_copy(update={"disk_free": free, "disk_size": size})
    return seen.model_copy(update={"store": store})


async def _with_consumers(http: aiohttp.ClientSession, seen: Server, url: str, deadline: float) -> Server:
    if not reports.worth_counting(seen):
        return seen
    try:
        with anyio.fail_after(deadline):
            _, details = await _get(http, url, _DETAILS)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return seen.model_copy(update={"uncounted": _why(error)})
    return reports.with_consumers(seen, details)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        return os.strerror(number).lower()
    return str(error) or type(error).__name__
