"""What can happen in a run: frozen typed records, the only thing the verdict is read from.

An event's `kind` never changes its meaning. A field may be added with a default; anything else is a new `version` of that kind,
and `decode` is where older ones would be lifted. Kinds this code does not know (a third party's, a newer soakd's) stay open JSON
as `OpenEvent`. Times inside events are seconds; clocks of the moment stand on the record (`Record`), not here.
"""

from __future__ import annotations

from supervisor.journal.events.base import KINDS, PART, Event, OpenEvent, Record, decode
from supervisor.journal.events.broker import (
    BrokerChanged,
    CleanedUp,
    ConsumerChanged,
    EntriesChanged,
    HealthChanged,
    LeaderChanged,
    StreamChanged,
    ViewChanged,
)
from supervisor.journal.events.faults import (
    BY_HAND,
    OPERATOR,
    DrawSkipped,
    EpisodeClosed,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    OperatorActed,
    Target,
    UndoFailed,
)
from supervisor.journal.events.loads import LoadStopped, LoadWindow, Sample, Slice
from supervisor.journal.events.looking import (
    Evidence,
    InvariantViolated,
    Observation,
    ProbeChanged,
    Reading,
    SteadyChanged,
)
from supervisor.journal.events.run import (
    EndReason,
    HookRan,
    JournalTrouble,
    Phase,
    PhaseEntered,
    RunEnded,
    RunStarted,
    TaskCrashed,
    VerdictReached,
)
from supervisor.journal.events.units import (
    Cause,
    UnitCrashed,
    UnitExited,
    UnitGivenUp,
    UnitReady,
    UnitRestarted,
    UnitStarted,
    UnitStartFailed,
)

__all__ = [
    "BY_HAND",
    "KINDS",
    "OPERATOR",
    "PART",
    "BrokerChanged",
    "Cause",
    "CleanedUp",
    "ConsumerChanged",
    "DrawSkipped",
    "EndReason",
    "EntriesChanged",
    "EpisodeClosed",
    "Event",
    "Evidence",
    "FaultFailed",
    "FaultInjected",
    "FaultIntent",
    "FaultUndone",
    "HealthChanged",
    "HookRan",
    "InvariantViolated",
    "JournalTrouble",
    "LeaderChanged",
    "LoadStopped",
    "LoadWindow",
    "Observation",
    "OpenEvent",
    "OperatorActed",
    "Phase",
    "PhaseEntered",
    "ProbeChanged",
    "Reading",
    "Record",
    "RunEnded",
    "RunStarted",
    "Sample",
    "Slice",
    "SteadyChanged",
    "StreamChanged",
    "Target",
    "TaskCrashed",
    "UndoFailed",
    "UnitCrashed",
    "UnitExited",
    "UnitGivenUp",
    "UnitReady",
    "UnitRestarted",
    "UnitStartFailed",
    "UnitStarted",
    "VerdictReached",
    "ViewChanged",
    "decode",
]
