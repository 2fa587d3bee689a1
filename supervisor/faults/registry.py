"""The kinds of fault there are."""

from __future__ import annotations

from supervisor.faults.base import Fault
from supervisor.faults.lifecycle import Restart
from supervisor.kinds import Registry

FAULTS: Registry[Fault] = Registry("fault", "soakd.faults", Fault, [Restart])  # type: ignore[type-abstract]  # never instantiated
