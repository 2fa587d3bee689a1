"""The kinds of load, in the order in which messages and docs list them."""

from __future__ import annotations

from typing import Final

from supervisor.kinds import Registry
from supervisor.loads.base import Load
from supervisor.loads.claim import ClaimLoad
from supervisor.loads.command import CommandLoad
from supervisor.loads.event_store import EventStoreLoad
from supervisor.loads.events import EventsLoad
from supervisor.loads.http import HttpLoad
from supervisor.loads.jetstream import JetStreamLoad
from supervisor.loads.kv import KvLoad
from supervisor.loads.request import RequestLoad

_KINDS: Final[list[type[Load]]] = [
    CommandLoad,
    RequestLoad,
    EventsLoad,
    JetStreamLoad,
    EventStoreLoad,
    HttpLoad,
    ClaimLoad,
    KvLoad,
]
LOADS: Final[Registry[Load]] = Registry("load", "soakd.loads", Load, _KINDS)
