"""What else an engine offers to faults: networks, limits, programs run inside a container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import anyio
from anyio import to_thread

from supervisor.engines.base import EngineError
from supervisor.engines.capabilities import Cut, Reach
from supervisor.engines.cgroups import tightened_cpu
from supervisor.engines.dockerd import packets
from supervisor.engines.dockerd.api import Api, ApiError
from supervisor.engines.dockerd.life import Life, Unit
from supervisor.engines.dockerd.logs import Records
from supervisor.engines.dockerd.mounts import locate
from supervisor.engines.dockerd.tracker import Tracker

OUTPUT: Final = 100_000
"""Bytes of a program's output that are kept, the last ones."""
UNLIMITED: Final = {
    "CpuQuota": -1,
    "CpuPeriod": 100_000,
    "CpuShares": 1024,
    "Memory": 2**62,
    "MemorySwap": 2**63 - 4096,
    "PidsLimit": -1,
}
"""What to write for `no limit`: the engine takes a zero for `leave it`, refuses -1 for memory, and forgets it on the way to the kernel
for swap. MemorySwap is both together: more than memory alone, or there would be no swap."""
_ENDPOINT: Final = ("IPAMConfig", "Links", "Aliases", "DriverOpts")
"""What of a network's endpoint is a setting; the rest is what came of it."""
_NOT_FOUND: Final = 404
_NANO: Final = 1_000_000_000


class Powers:
    """Implements `CanDisconnect`, `CanPartition`, `CanLimit`, `HasVolumes` and `CanExecute`."""

    def __init__(self, api: Api, tracker: Tracker) -> None:
        self._api, self._tracker = api, tracker

    def _running(self, unit: str, what: str) -> tuple[Unit, Life]:
        known = self._tracker.units[unit]
        if known.life is None:
            raise EngineError(f"cannot {what}: {unit} is not running")
        return known, known.life

    async def _inspected(self, unit: str, what: str) -> dict[str, Any]:
        container = self._tracker.units[unit].container
        if container is None:
            raise EngineError(f"cannot {what}: {unit} has no container")
        data: dict[str, Any] = await self._api.insist("GET", f"containers/{container}/json")
        return data

    async def networks(self, unit: str) -> Mapping[str, Any]:
        """Return the container's networks with the settings of its endpoints."""
        data = await self._inspected(unit, "see its networks")
        networks = data["NetworkSettings"]["Networks"] or {}
        return {name: {key: end.get(key) for key in _ENDPOINT} for name, end in networks.items()}

    async def disconnect(self, unit: str, network: str) -> None:
        """Take the container off a network."""
        if network in await self.networks(unit):
            body = {"Container": self._tracker.units[unit].container, "Force": False}
            await self._api.call("POST", f"networks/{network}/disconnect", body=body)

    async def connect(self, unit: str, network: str, settings: Any) -> None:
        """Put it back; its published ports come back as well."""
        if network not in await self.networks(unit):
            container = self._tracker.units[unit].container or ""
            own = [
                alias for alias in (settings or {}).get("Aliases") or [] if not container.startswith(alias)
            ]
            body = {"Container": container, "EndpointConfig": {**(settings or {}), "Aliases": own}}
            await self._api.insist("POST", f"networks/{network}/connect", body=body)

    async def reach(self, unit: str) -> Reach:
        """Return the container's addresses, and the networks and gateways that it is on."""
        ends = (await self._inspected(unit, "see its networks"))["NetworkSettings"]["Networks"] or {}
        addresses = [end.get(key) for end in ends.values() for key in ("IPAddress", "GlobalIPv6Address")]
        # Of IPv6 the network itself does not name a gateway that nobody has chosen.
        gateways = [end.get(key) for end in ends.values() for key in ("Gateway", "IPv6Gateway")]
        spaces: list[dict[str, Any]] = []
        for name, end in ends.items():
            network = await self._api.insist("GET", f"networks/{end.get('NetworkID') or name}")
            spaces += (network.get("IPAM") or {}).get("Config") or ()
        return Reach(
            tuple(address for address in addresses if address),
            tuple(space["Subnet"] for space in spaces if space.get("Subnet")),
            tuple(dict.fromkeys(one for one in (*gateways, *(s.get("Gateway") for s in spaces)) if one)),
        )

    async def cut_off(self, unit: str, name: str, cut: Cut) -> None:
        """Put packet filter rules into the container's network namespace."""
        _, life = self._running(unit, "cut it off")
        if life.pid is None:
            raise EngineError(f"cannot cut {unit} off: the engine does not tell its process")
        place = packets.Namespace(life.pid, life.container)
        try:
            await packets.cut_off(place, name, cut)
        except EngineError as error:
            raise EngineError(f"cannot cut {unit} off: {error}") from error

    async def let_through(self, unit: str, name: str) -> None:
        """Take them out again; with a container that is down, or has begun a new life, they are gone."""
        life = self._tracker.units[unit].life
        if life is None or life.pid is None:
            return
        try:
            await packets.let_through(packets.Namespace(life.pid, life.container), name)
        except EngineError as error:
            if not life.gone.is_set():
                raise EngineError(f"cannot let {unit} through again: {error}") from error

    async def volume(self, unit: str, path: str) -> Path:
        """Return where on this machine the container's volume is that has a path of its."""
        known, _ = self._running(unit, f"find {path}")
        if known.last is None:
            raise EngineError(f"cannot find {path}: {unit} has no container")
        return await to_thread.run_sync(locate, known.last, path)

    async def limits(self, unit: str) -> Mapping[str, int]:
        """Return the container's limits; none is written as what the engine takes for none."""
        host = (await self._inspected(unit, "see its limits"))["HostConfig"]
        found = {
            key: unlimited if (host.get(key) or 0) <= 0 else host[key] for key, unlimited in UNLIMITED.items()
        }
        if host.get("NanoCpus"):  # the engine takes one of both
            found = {key: value for key, value in found.items() if not key.startswith("Cpu")}
            found["NanoCpus"] = host["NanoCpus"]
        return found

    async def tightened(
        self, unit: str, *, cpus: float | None = None, memory: int | None = None
    ) -> Mapping[str, int]:
        """Return what to write for so many processors, or bytes of memory; EngineError if it has no more already."""
        now = await self.limits(unit)
        if memory is not None:
            if now["Memory"] <= memory:
                raise EngineError(f"{unit} has no more than {now['Memory']} bytes of memory as it is")
            return {"Memory": memory, "MemorySwap": memory}
        if "NanoCpus" not in now:
            return tightened_cpu(unit, cpus or 0, now["CpuQuota"], now["CpuPeriod"])
        tightened_cpu(unit, cpus or 0, now["NanoCpus"], _NANO)
        return {"NanoCpus": round((cpus or 0) * _NANO)}

    async def limit(self, unit: str, limits: Mapping[str, int]) -> None:
        """Set limits, by the engine's own names: Memory in bytes, CpuQuota in microseconds of each CpuPeriod."""
        container = self._tracker.units[unit].container
        if container is None:
            raise EngineError(f"cannot limit it: {unit} has no container")
        try:
            await self._api.insist("POST", f"containers/{container}/update", body=dict(limits))
        except ApiError as error:
            raise EngineError(f"cannot limit {unit}: {error}") from error

    async def execute(
        self, unit: str, command: Sequence[str], timeout: float, env: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes]:
        """Run a program in the container as its own user."""
        _, life = self._running(unit, f"run {command[0]}")
        variables = [f"{name}={value}" for name, value in env.items()]
        body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Env": variables}
        records = Records(plain=False, lines=False, limit=OUTPUT)
        try:
            made = await self._api.call("POST", f"containers/{life.container}/exec", body=body)
            with anyio.fail_after(timeout):
                start = self._api.answer(
                    "POST",
                    f"exec/{made['Id']}/start",
                    body={"Detach": False, "Tty": False},
                    deadline=timeout + 1,
                )
                async with start as answer:
                    async for chunk in answer.content.iter_any():
                        records.take(chunk)
                said = await self._api.call("GET", f"exec/{made['Id']}/json")
        except TimeoutError as error:
            raise EngineError(
                f"{command[0]} in {unit} did not end within {timeout:g} s and was left running there"
            ) from error
        except ApiError as error:
            raise EngineError(f"cannot run {command[0]} in {unit}: {error}") from error
        return said["ExitCode"], records.text()
