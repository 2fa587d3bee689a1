"""Types of the fixtures, and the way to make a probe from an entry of the soak file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from aiohttp import web

from supervisor.journal.events import Reading
from supervisor.probes.base import Probe, View
from supervisor.probes.registry import PROBES

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Serve = Callable[[Answer], Awaitable[str]]
Watch = Callable[..., AbstractAsyncContextManager[View]]

PATIENCE = 30.0
"""Seconds after which a test that waits for something fails."""


def probe(**entry: Any) -> Probe:
    """Make the probe that an entry asks for."""
    kind, keys = PROBES.find(entry, Path())
    return kind.model_validate(keys)


async def look(view: View, **entry: Any) -> Reading:
    """Look once through the probe that an entry asks for."""
    return await probe(**entry).look(view)
