"""What an operator is shown and told of a run: what comes when, what is open, who holds which unit, what became of an episode."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.engines.base import Observed
from supervisor.engines.fleet import UnitStatus
from supervisor.faults.episode import Episode
from supervisor.faults.scheduler import Scheduler

Shown = dict[str, Any]
"""JSON."""


def overview(scheduler: Scheduler, by_hand: Mapping[str, int]) -> Shown:
    """Return the faults, what is open, and who holds which unit. `by_hand` says how often each fault was injected by an operator."""
    fleet = scheduler.scene.world.fleet
    status = {unit: fleet.status(unit) for unit in fleet.ids}
    return {
        "paused": _finite(scheduler.gate.left) if scheduler.gate.left else False,
        "faults": [_fault(scheduler, name, by_hand.get(name, 0)) for name in scheduler.lines],
        "open": [_shown(episode) for episode in scheduler.episodes() if not episode.closed],
        "broken": [_shown(episode) for episode in scheduler.episodes() if episode.broken],
        "held": [_held(unit, one) for unit, one in status.items() if one.holder],
    }


def _fault(scheduler: Scheduler, name: str, by_hand: int) -> Shown:
    line = scheduler.lines[name]
    state = "open" if line.episode and not line.episode.closed else "over" if line.over else "waiting"
    return {
        "fault": name,
        "type": line.fault.key,
        "state": "broken" if line.broken else state,
        "episodes": line.episodes,
        "drawn": line.drawn,
        "due": None if line.due is None else round(max(line.due - time.monotonic(), 0.0), 1),
        "scheduled": line.fault.scheduled,
        "by_hand": by_hand,
        "paused": bool(scheduler.gate.left),
    }


def _finite(seconds: float) -> float | None:
    return round(seconds, 1) if math.isfinite(seconds) else None


def _shown(episode: Episode) -> Shown:
    return {
        "episode": episode.intent.episode,
        "type": episode.intent.type,
        "targets": [target.unit for target in episode.intent.targets],
        "stage": episode.stage,
        "for": round(time.monotonic() - episode.since, 1),
    }


def _held(unit: str, status: UnitStatus) -> Shown:
    observed: Observed = status.observed
    return {"unit": unit, "by": status.holder, "desired": status.desired, "state": observed.state}


def near(name: str, known: Iterable[str]) -> str:
    """Say which of the names there are may be meant."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {close[0]}?" if close else f": there are {', '.join(known) or 'none'}"


def became(episode: Episode, patience: float) -> str:
    """Say whether an episode is undone, to somebody who has waited `patience` seconds for it."""
    name = episode.intent.episode
    if episode.undone:
        return f"{name} is undone"
    if episode.settled.is_set():
        return f"{name} could not be undone and is tried again at the end of the run: its journal says what is broken"
    return f"{name} is being undone, which takes longer than {patience:.0f}s: see `soakd fault list`"
