"""Whether the runs of this host live, for whoever restarts what does not: the health check of a container."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Final

from supervisor.journal.runs import RunIndex
from supervisor.live.target import ENDPOINT

ANSWER: Final = 5.0
"""Seconds that an endpoint may take: the daemon's event loop has been stuck for longer otherwise."""
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy the environment names: it does not lead back here."""


def lifeless(index: RunIndex, answer: float = ANSWER) -> str | None:
    """Ask the `/healthz` of every run that goes on here; None if each answers within `answer` seconds, else what is wrong. Blocks."""
    runs = index.living()
    if not runs:
        return "no run goes on here"
    return next((wrong for directory in runs if (wrong := _ask(directory, answer))), None)


def _ask(directory: Path, answer: float) -> str | None:
    try:
        url = (directory / ENDPOINT).read_text().strip()
    except OSError:
        return f"the run {directory} has no endpoint: it is about to begin, or to end"
    try:
        with _DIRECT.open(f"{url}/healthz", timeout=answer):
            return None
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        return f"{url}/healthz of the run {directory} does not answer: {error}"
