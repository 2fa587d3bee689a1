"""The kinds of probe there are."""

from __future__ import annotations

from supervisor.kinds import Registry
from supervisor.probes.base import Probe
from supervisor.probes.broker import BrokerAnswers
from supervisor.probes.command import Command
from supervisor.probes.jetstream import JetStream
from supervisor.probes.logs import Log
from supervisor.probes.network import Http, Tcp
from supervisor.probes.units import Unit

_KINDS: list[type[Probe]] = [Http, Tcp, Command, Unit, BrokerAnswers, JetStream, Log]
PROBES: Registry[Probe] = Registry("probe", "soakd.probes", Probe, _KINDS)
