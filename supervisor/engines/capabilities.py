"""What engines may offer beside the life of units: small protocols, one for each thing that a fault wants done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class CanPause(Protocol):
    """Capability: freeze a unit and let it go on."""

    async def pause(self, unit: str) -> None:
        """Freeze all of the unit's processes. Paused already: no error."""

    async def resume(self, unit: str) -> None:
        """Let them go on. Running already: no error."""


@runtime_checkable
class CanDisconnect(Protocol):
    """Capability: take a unit off a network and put it back, which is a partition that needs no privilege."""

    async def networks(self, unit: str) -> Mapping[str, Any]:
        """Return the networks a unit is on, each with what `connect` needs to put it back as it was (JSON)."""

    async def disconnect(self, unit: str, network: str) -> None:
        """Take the unit off a network. Off already: no error."""

    async def connect(self, unit: str, network: str, settings: Any) -> None:
        """Put it back, with what `networks` said before. On it already: no error."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a unit is on its networks. Addresses are written as IP addresses are, networks as `10.0.0.0/24`."""

    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    """Whatever comes from outside of the networks seems to come from here, or has an address that is in none of them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which packets of a unit are dropped: those from and to `peers`, except `spare`, both addresses or networks."""

    peers: Sequence[str]
    spare: Sequence[str]
    inbound: bool
    outbound: bool


@runtime_checkable
class CanPartition(Protocol):
    """Capability: drop packets between a unit and others, without a word to either."""

    async def reach(self, unit: str) -> Reach:
        """Say where the unit is."""

    async def cut_off(self, unit: str, name: str, cut: Cut) -> None:
        """Drop packets. Done already under this name: no error."""

    async def let_through(self, unit: str, name: str) -> None:
        """Take back what was done under a name. There is nothing of it, the unit is down or gone: no error."""


@runtime_checkable
class CanLimit(Protocol):
    """Capability: change how much of the machine a unit may use, while it runs."""

    async def limits(self, unit: str) -> Mapping[str, int]:
        """Return the limits as they are, in the engine's own words; `limit` with the same takes a change back."""

    async def limit(self, unit: str, limits: Mapping[str, int]) -> None:
        """Set some of the limits. A unit that uses more memory loses what the kernel can take back, or is killed, or this is refused."""

    async def tightened(
        self, unit: str, *, cpus: float | None = None, memory: int | None = None
    ) -> Mapping[str, int]:
        """Return what to give `limit` to leave the unit so many processors' time, or so many bytes of memory and no swap.

        EngineError if it has no more than that already.
        """


@runtime_checkable
class HasVolumes(Protocol):
    """Capability: say where on this machine a unit keeps its files."""

    async def volume(self, unit: str, path: str) -> Path:
        """Return the top directory of the volume that has a path of the unit's; EngineError if there is none that can be reached."""


@runtime_checkable
class CanExecute(Protocol):
    """Capability: run a program inside a unit."""

    async def execute(
        self, unit: str, command: Sequence[str], timeout: float, env: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes]:
        """Run a program to its end, at most `timeout` seconds; return its exit code and the end of its output.

        After a signal the code is 128 and the signal's number. `env` is added to the unit's environment. EngineError if it cannot be run, the unit being down for one, or does not end in time; a container's is then left running there.
        """
