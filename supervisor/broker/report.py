"""What the journal is told of one connection: whether it can be used, and what happened to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from supervisor.broker.changes import Changes
from supervisor.broker.client import Client
from supervisor.journal.base import Emitter
from supervisor.journal.events import BrokerChanged

State = Literal["connected", "disconnected", "reconnected", "lame-duck", "discovered", "rejected", "closed"]


class Report:
    """The state of a connection; each change of it becomes a `broker.connection` event."""

    def __init__(self, title: str, journal: Emitter) -> None:
        self.up = False
        """Whether the last canary was answered, and nothing happened since."""
        self.reason = "no server has answered yet"
        """Why it is not up, or was not before."""
        self.listener: Callable[[str], None] = _nobody
        """Hears of every state at once, and `moved` when a new connection took over before its server left; it must not raise."""
        self._title, self._changes = title, Changes(journal.emit)
        self._ever = False
        self._down_since = time.monotonic()
        self._refusal = ""

    def mark_up(self, client: Client) -> None:
        """A canary was answered."""
        if not self.up:
            took = f", after {time.monotonic() - self._down_since:.1f}s" if self._ever else ""
            state: State = "reconnected" if self._ever else "connected"
            self.up, self._ever, self._refusal = True, True, ""
            self.tell(client, state, f"{client.server_title}{took}")

    def mark_down(self, client: Client, reason: str) -> None:
        """A canary was not answered, or the client lost its connection."""
        self.reason = reason
        if self.up:
            self.up, self._down_since = False, time.monotonic()
            self.tell(client, "disconnected", reason)

    def refused(self, client: Client | None, reason: str) -> None:
        """The servers refuse us; the same refusal is told once until the connection is up again."""
        self.reason = reason
        if reason != self._refusal:
            self._refusal = reason
            self.tell(client, "rejected", reason)

    def tell(self, client: Client | None, state: State, detail: str = "") -> None:
        """Tell of anything else."""
        self.listener(state)
        server = client.server if client is not None else ""
        self._changes.offer(BrokerChanged(connection=self._title, state=state, server=server, detail=detail))

    def tick(self) -> None:
        """Tell what was held back in a flood; called about once a second."""
        self._changes.tick()

    def close(self, client: Client | None) -> None:
        """Tell the end of a connection that once was up, and all that was held back."""
        self.up = False
        if self._ever:
            self.tell(client, "closed")
        self._changes.flush()


def _nobody(_: str) -> None:
    """Hear nothing."""
