"""Where the control endpoint of a run is found: what the run opens, and whoever asks looks for. Light: commands import it."""

from __future__ import annotations

from typing import Final

SOCKET: Final = "control.sock"
"""The file of a run directory that is the control endpoint, as long as it is open."""
ADDRESS: Final = "control"
"""The file that has the URL instead, where the endpoint is a port."""
TOKEN: Final = "SOAKD_CONTROL_TOKEN"  # noqa: S105  # the name of the variable
ANSWER: Final = 30.0
"""Seconds until a request is answered, done or not."""
