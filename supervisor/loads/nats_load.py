"""What all loads on NATS have in common: which client, as whom, and how big its messages are."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from supervisor.broker.options import DEFAULT
from supervisor.kinds import Name
from supervisor.loads.clients import Mode
from supervisor.loads.pace import Paced
from supervisor.values import Duration

_SUBJECT: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
LARGEST: Final = 1_000_000
"""Bytes of a message: servers take 1 MiB unless they are told otherwise."""


def check_subject(text: str) -> str:
    """Return a subject that one can publish to; ValueError for any other."""
    if _SUBJECT.fullmatch(text):
        return text
    raise ValueError(
        f"cannot publish to {text[:80]!r}: expected a subject such as orders.new, without wildcards"
    )


Subject = Annotated[str, AfterValidator(check_subject)]


class NatsLoad(Paced):
    """A load on NATS."""

    client: Mode = Field(
        "reconnect",
        description="How much the client does to survive: nats-py's `default`, a quick `reconnect` for ever, or "
        "`make_before_break`, which also leaves a server in lame-duck mode before that one goes.",
    )
    connection: Name = Field(
        DEFAULT, alias="as", description="The connection of the broker section whose credentials it takes."
    )
    timeout: Duration = Field(5.0, gt=0, description="How long an operation may take.")
    size: int = Field(
        128, ge=0, le=LARGEST, description="Bytes of a message, at least those that say which it is."
    )

    @property
    def on_nats(self) -> bool:
        """Whether it needs the broker: there are kinds that can do without."""
        return True
