"""The fault that resets connections."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from supervisor.faults.links import Chosen, Toxin
from supervisor.links import toxics


class Reset(Toxin):
    """Connections are reset, at both ends: those there are, and those that are made during `hold`."""

    key: ClassVar[str] = "reset"

    reset: Chosen = Field(description="The links whose connections are reset.")

    def toxic(self) -> toxics.Toxic:
        """Return what is put on each link."""
        return toxics.Reset()
