"""How each kind of fault is disturbed in the middle: the one place where a new kind gets its line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

BOTH = ("process", "docker")
LIMITABLE = BOTH if os.geteuid() == 0 else ("docker",)
"""Local processes are limited by control groups, which takes root."""


@dataclass(frozen=True)
class Case:
    """One kind, as a soak file has it. `{one}` and `{two}` stand for two units of its own."""

    fault: dict[str, Any]
    on: tuple[str, ...] = BOTH
    """The worlds in which it is tried (`death_worlds.py`). Faults of the broker touch no engine, so one world is enough for them."""
    adds: dict[str, Any] = field(default_factory=dict)
    """What else the soak file needs for it: further sections."""


CASES: dict[str, Case] = {
    "restart": Case({"restart": ["{one}", "{two}"]}),
    "rolling_restart": Case({"rolling_restart": ["{one}", "{two}"], "pause_between": "100ms"}),
    "stop": Case({"stop": ["{one}", "{two}"], "hold": "300ms"}),
    "kill": Case({"kill": ["{one}", "{two}"]}),
    "crash_loop": Case({"crash_loop": ["{one}"], "crashes": 3, "uptime": "100ms"}),
    "pause": Case({"pause": ["{one}", "{two}"], "hold": "300ms"}),
    "partition": Case({"partition": ["{one}"], "hold": "300ms"}, on=("docker",)),
    "disconnect": Case({"disconnect": ["{one}"], "hold": "300ms"}, on=("docker",)),
    "cpu_squeeze": Case({"cpu_squeeze": ["{one}", "{two}"], "cpus": 0.5, "hold": "300ms"}, on=LIMITABLE),
    "memory_squeeze": Case({"memory_squeeze": ["{one}"], "memory": "50MB", "hold": "300ms"}, on=LIMITABLE),
    "fill_disk": Case(
        {"fill_disk": "{one}", "path": "/data", "share": "90%", "hold": "300ms"}, on=("docker",)
    ),
    "command": Case(
        {
            "command": ["sh", "-c", "sleep 0.1; touch broken; sleep 0.1"],
            "undo": ["sh", "-c", "sleep 0.1; rm -f broken"],
            "units": ["{one}"],
            "hold": "300ms",
        }
    ),
    "latency": Case({"latency": "db", "delay": "50ms", "jitter": "20ms", "hold": "300ms"}, on=("links",)),
    "bandwidth": Case({"bandwidth": "db", "rate": "1kB/s", "hold": "300ms"}, on=("links",)),
    "blackhole": Case({"blackhole": "db", "hold": "300ms"}, on=("links",)),
    "slice": Case({"slice": "db", "size": "1B", "hold": "300ms"}, on=("links",)),
    "reset": Case({"reset": "other", "hold": "300ms"}, on=("links",)),
    "refuse": Case({"refuse": "other", "hold": "300ms"}, on=("links",)),
    "connection_kill": Case({"connection_kill": "db", "share": "50%"}, on=("links",)),
    "rolling_lame_duck": Case({"rolling_lame_duck": ["nats1"]}, on=("embedded",)),
    "lame_duck": Case({"lame_duck": "worker"}, on=("broker",)),
    "kick": Case({"kick": "worker"}, on=("broker",)),
    "corrupt": Case(
        {"corrupt": {"change": {"bucket": "CONFIG", "key": ".*"}}, "existing": True, "hold": "300ms"},
        on=("broker",),
    ),
    "stepdown": Case({"stepdown": {"stream": "S"}}, on=("broker",)),
    "purge": Case({"purge": {"stream": "S"}, "undo": "none", "existing": True}, on=("broker",)),
    "delete_consumer": Case(
        {
            "delete_consumer": {"stream": "S", "consumer": "worker-.*"},
            "undo": "none",
            "existing": True,
        },
        on=("broker",),
    ),
}
