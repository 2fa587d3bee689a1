"""The kinds of fault there are."""

from __future__ import annotations

from supervisor.faults.bandwidth import Bandwidth
from supervisor.faults.base import Fault
from supervisor.faults.blackhole import Blackhole
from supervisor.faults.clients import Kick, LameDuck
from supervisor.faults.command import Command
from supervisor.faults.connection_kill import ConnectionKill
from supervisor.faults.corrupt import Corrupt
from supervisor.faults.crash_loop import CrashLoop
from supervisor.faults.delete_consumer import DeleteConsumer
from supervisor.faults.disconnect import Disconnect
from supervisor.faults.execute import Execute
from supervisor.faults.fill_disk import FillDisk
from supervisor.faults.kill import Kill
from supervisor.faults.latency import Latency
from supervisor.faults.partition import Partition
from supervisor.faults.pause import Pause
from supervisor.faults.purge import Purge
from supervisor.faults.refuse import Refuse
from supervisor.faults.reset import Reset
from supervisor.faults.restart import Restart
from supervisor.faults.rolling import RollingRestart
from supervisor.faults.rolling_lame_duck import RollingLameDuck
from supervisor.faults.slice import Slice
from supervisor.faults.squeeze import CpuSqueeze, MemorySqueeze
from supervisor.faults.stepdown import Stepdown
from supervisor.faults.stop import Stop
from supervisor.kinds import Registry

FAULTS: Registry[Fault] = Registry(
    "fault",
    "soakd.faults",
    Fault,
    [
        *(Restart, RollingRestart, Stop, Kill, CrashLoop, Pause),
        *(Partition, Disconnect, CpuSqueeze, MemorySqueeze, FillDisk),
        *(Latency, Bandwidth, Blackhole, Slice, Reset, Refuse, ConnectionKill),
        *(RollingLameDuck, LameDuck, Stepdown, Kick, Purge, DeleteConsumer),
        *(Corrupt, Command, Execute),
    ],
)
