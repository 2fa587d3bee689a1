"""The kinds of fault there are."""

from __future__ import annotations

from supervisor.faults.base import Fault
from supervisor.faults.command import Command
from supervisor.faults.crash_loop import CrashLoop
from supervisor.faults.kill import Kill
from supervisor.faults.pause import Pause
from supervisor.faults.restart import Restart
from supervisor.faults.rolling import RollingRestart
from supervisor.faults.stop import Stop
from supervisor.kinds import Registry

FAULTS: Registry[Fault] = Registry(
    "fault",
    "soakd.faults",
    Fault,  # type: ignore[type-abstract]  # never instantiated
    [Restart, RollingRestart, Stop, Kill, CrashLoop, Pause, Command],
)
