"""The service manager's protocol: one datagram to `$NOTIFY_SOCKET` (sd_notify(3)). Without one, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

import anyio


def notify(state: str) -> bool:
    """Send `READY=1`, `STOPPING=1`, `STATUS=...` or `WATCHDOG=1`; say whether somebody listens. Never raises, never blocks."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
    ):
        sender.sendto(state.encode(), address)
        return True
    return False


async def keep_alive(progress: Callable[[], int]) -> None:
    """Ping the watchdog of the service manager, but only while `progress()` grows: a stuck daemon must be restarted.

    `WatchdogSec=` arrives as `$WATCHDOG_USEC`; a third of it is a safe interval (sd_watchdog_enabled(3) advises half).
    """
    micros = os.environ.get("WATCHDOG_USEC", "")
    if not micros.isdigit() or not int(micros):
        return
    seen = -1
    while True:
        if (now := progress()) != seen:
            seen = now
            notify("WATCHDOG=1")
        await anyio.sleep(int(micros) / 3e6)
