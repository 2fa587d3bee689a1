"""How each kind of fault is disturbed in the middle: the one place where a new kind gets its line."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from supervisor.faults.registry import FAULTS

BOTH = ("process", "docker")
ROOT = os.geteuid() == 0
LIMITABLE = BOTH if ROOT else ("docker",)
"""Local processes are limited by control groups, which takes root; so does a disk of their own."""
LINKS = ("links", "links-docker")
NATS = ("broker", "nodes")
HOLD = "unit-hold"
"""What the operator's hold of a unit is called here; in the soak file it has no name."""


@dataclass(frozen=True)
class Case:
    """One kind, as a soak file has it. `{one}` and `{two}` stand for two units of its own, `{data}` for a directory on a disk of its own."""

    fault: dict[str, Any]
    on: tuple[str, ...] = BOTH
    """The worlds in which it is tried (`death_worlds.py`)."""
    adds: dict[str, Any] = field(default_factory=dict)
    """What else the soak file needs for it: further sections."""
    asked: Literal["", "inject", "hold"] = ""
    """It does not come by itself: an operator asks for it again and again."""

    @property
    def kind(self) -> str:
        return next((key for key in self.fault if key in FAULTS.kinds), HOLD)

    @property
    def units(self) -> tuple[str, ...]:
        """Which of `one` and `two` it needs."""
        text = json.dumps(self.fault)
        return tuple(number for number in ("one", "two") if f"{{{number}}}" in text)

    def has(self, phase: str) -> bool:
        return phase != "hold" or "hold" in self.fault


CASES: dict[str, Case] = {
    "restart": Case({"restart": ["{one}", "{two}"]}),
    "rolling_restart": Case({"rolling_restart": ["{one}", "{two}"], "pause_between": "100ms"}),
    "stop": Case({"stop": ["{one}", "{two}"], "hold": "300ms"}),
    "kill": Case({"kill": ["{one}", "{two}"]}),
    "crash_loop": Case({"crash_loop": ["{one}"], "crashes": 3, "uptime": "100ms"}),
    "pause": Case({"pause": ["{one}"], "hold": "300ms"}),
    "partition": Case({"partition": ["{one}"], "hold": "300ms"}, on=("docker",)),
    "disconnect": Case({"disconnect": ["{one}"], "hold": "300ms"}, on=("docker",)),
    "cpu_squeeze": Case({"cpu_squeeze": ["{one}"], "cpus": 0.5, "hold": "300ms"}, on=LIMITABLE),
    "memory_squeeze": Case({"memory_squeeze": ["{one}"], "memory": "50MB", "hold": "300ms"}, on=LIMITABLE),
    "fill_disk": Case(
        {"fill_disk": "{one}", "path": "{data}", "share": "90%", "hold": "300ms"}, on=LIMITABLE
    ),
    "command": Case(
        {
            "command": ["sh", "-c", "sleep 0.1; touch broken; sleep 0.1"],
            "undo": ["sh", "-c", "sleep 0.1; rm -f broken"],
            "units": ["{one}"],
            "hold": "300ms",
        }
    ),
    "exec": Case(
        {
            "exec": ["{one}"],
            "run": ["sh", "-c", "sleep 0.1; touch /tmp/broken; sleep 0.1"],
            "undo": ["sh", "-c", "sleep 0.1; rm -f /tmp/broken"],
            "hold": "300ms",
        },
        on=("docker",),
    ),
    "by-hand": Case({"pause": ["{one}"], "hold": "300ms"}, asked="inject"),
    HOLD: Case({"unit_hold": "{one}", "hold": "300ms"}, asked="hold"),
    "latency": Case({"latency": "db", "delay": "50ms", "jitter": "20ms", "hold": "300ms"}, on=LINKS),
    "bandwidth": Case({"bandwidth": "db", "rate": "1kB/s", "hold": "300ms"}, on=LINKS),
    "blackhole": Case({"blackhole": "db", "hold": "300ms"}, on=LINKS),
    "slice": Case({"slice": "db", "size": "1B", "hold": "300ms"}, on=LINKS),
    "reset": Case({"reset": "other", "hold": "300ms"}, on=LINKS),
    "refuse": Case({"refuse": "other", "hold": "300ms"}, on=LINKS),
    "connection_kill": Case({"connection_kill": "db", "share": "50%"}, on=LINKS),
    "rolling_lame_duck": Case({"rolling_lame_duck": "{nodes}"}, on=("embedded", "nodes")),
    "lame_duck": Case({"lame_duck": "worker"}, on=NATS),
    "kick": Case({"kick": "worker"}, on=NATS),
    "stepdown": Case({"stepdown": {"stream": "S"}}, on=NATS),
    "stepdown-meta": Case({"stepdown": "meta"}, on=NATS),
    "stepdown-consumer": Case({"stepdown": {"stream": "S", "consumer": "steady"}}, on=NATS),
    "purge": Case({"purge": {"stream": "S"}, "undo": "none", "existing": True}, on=NATS),
    "delete_consumer": Case(
        {
            "delete_consumer": {"stream": "S", "consumer": "worker-.*"},
            "undo": "none",
            "existing": True,
        },
        on=NATS,
    ),
    "corrupt": Case(
        {"corrupt": {"change": {"bucket": "CONFIG", "key": "colour"}}, "existing": True, "hold": "300ms"},
        on=NATS,
    ),
    "corrupt-delete": Case(
        {"corrupt": {"delete": {"bucket": "CONFIG", "key": "size"}}, "existing": True, "hold": "300ms"},
        on=NATS,
    ),
    "corrupt-put": Case(
        {"corrupt": {"put": {"bucket": "CONFIG", "key": "extra"}}, "existing": True, "hold": "300ms"},
        on=NATS,
    ),
    "corrupt-publish": Case(
        {"corrupt": {"publish": {"subject": "s", "count": 3}}, "existing": True, "undo": "none"}, on=NATS
    ),
    "corrupt-duplicate": Case(
        {"corrupt": {"duplicate": {"stream": "S", "count": 3}}, "existing": True, "undo": "none"}, on=NATS
    ),
    "corrupt-command": Case(
        {
            "corrupt": {"command": ["sh", "-c", "sleep 0.1; touch damaged; sleep 0.1"]},
            "undo": ["sh", "-c", "sleep 0.1; rm -f damaged"],
            "hold": "300ms",
        },
        on=NATS,
    ),
}
"""By the name that the fault has in the soak file, but for the underscores: its kind, and what tells several of one kind apart."""
