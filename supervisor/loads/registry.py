"""The kinds of load, in the order in which messages and docs list them."""

from __future__ import annotations

from typing import Final

from supervisor.kinds import Registry
from supervisor.loads.base import Load
from supervisor.loads.command import CommandLoad
from supervisor.loads.events import EventsLoad
from supervisor.loads.request import RequestLoad

LOADS: Final[Registry[Load]] = Registry("load", "soakd.loads", Load, [CommandLoad, RequestLoad, EventsLoad])  # type: ignore[type-abstract]  # never instantiated
