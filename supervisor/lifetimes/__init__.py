"""The lifetimes of a run, from the outside in. Each is a context that starts a part and, on the way out, ends it in order.

What must outlive is outside: telemetry > links > units > watchdogs > broker > probes > loads > faults. The way out is the same list read
backwards: faults are undone while units and watchdogs live, loads stop, the system settles and is looked at once more.
"""

from supervisor.lifetimes.disturbing import faults
from supervisor.lifetimes.looking import probes, steady_probes
from supervisor.lifetimes.run import CannotStart, Run, facts
from supervisor.lifetimes.running import broker, links, units, watchdogs
from supervisor.lifetimes.showing import telemetry
from supervisor.lifetimes.using import loads, thresholds

__all__ = [
    "CannotStart",
    "Run",
    "broker",
    "facts",
    "faults",
    "links",
    "loads",
    "probes",
    "steady_probes",
    "telemetry",
    "thresholds",
    "units",
    "watchdogs",
]
