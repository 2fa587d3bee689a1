"""The probe of the broker: it answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator, Field

from supervisor.broker.connection import BrokerError
from supervisor.kinds import Strict
from supervisor.probes.base import CannotSee, Probe, Seen, Timeout, View
from supervisor.values import format_duration

SLACK: Final = 0.5
"""Seconds beyond the canary's own time before the look is ended from outside."""


class Canary(Strict):
    """A message to ourselves through the broker."""

    canary: Timeout = Field(1.0, description="How long its round trip may take.")
    connection: str = Field(
        "default", min_length=1, description="The connection of the broker section to use."
    )


def _lift(written: object) -> object:
    if isinstance(written, str):
        if written != "canary":
            raise ValueError("expected canary, or {canary: 1s, connection: default}")
        return {}
    return written


class BrokerAnswers(Probe):
    """The broker answers a canary in time."""

    key: ClassVar[str] = "broker"

    broker: Annotated[Canary, BeforeValidator(_lift, json_schema_input_type=str | Canary)]

    @property
    def title(self) -> str:
        """The canary and its time."""
        of = "" if self.broker.connection == "default" else f" of {self.broker.connection}"
        return f"broker canary{of} < {format_duration(self.broker.canary)}"

    @property
    def deadline(self) -> float:
        """Seconds for the canary, and a little more."""
        return self.broker.canary + SLACK

    async def see(self, view: View) -> Seen:
        """Send one canary. The value is its round trip in seconds."""
        if view.connections is None:
            raise CannotSee("there is no broker section in the soak file")
        try:
            handle = await view.connections.handle(self.broker.connection)
            return Seen(True, await handle.canary(self.broker.canary))
        except BrokerError as error:
            raise CannotSee(str(error)) from error
