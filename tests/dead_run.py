"""How a run begins that a test makes up: what the journal of one that died has in the first place."""

from __future__ import annotations

from typing import Any

from supervisor.journal.events import RunStarted


def started(run: str, **facts: Any) -> RunStarted:
    """Return the first event of a run; `facts` are what matters to the test."""
    usual: dict[str, Any] = {
        "soak": "small",
        "seed": 1,
        "soakd": "0",
        "host": "here",
        "pid": 1,
        "boot": "",
        "duration": None,
    }
    return RunStarted(run=run, **(usual | facts))
