"""The fault in which links refuse new connections."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.faults.links import Chosen, Toxin
from supervisor.links import toxics


class Refuse(Toxin):
    """New connections are refused during `hold`, as if nobody listened; those there are go on."""

    key: ClassVar[str] = "refuse"

    refuse: Chosen = Field(description="The links that take no new connections.")

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Refuse()
