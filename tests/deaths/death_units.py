"""Where units run when soakd dies: local processes, which end with the run, and containers, which outlive it."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from death_cases import Case
from deaths import CALM, GONE, soak_file, units_of
from docker_client import LABEL, Client

from supervisor.engines.cgroups import left_by

SLEEP = ["sleep", "1000"]
WHOLE = 2
"""Processes of a container: the init, and what it was made for."""
POLICY = {"intensity": None, "delay": "0s", "backoff": {"first": "10ms", "factor": 1.1}}


def units_of_all(labels: Iterable[str]) -> list[str]:
    return [unit for label in labels for unit in units_of(label).values()]


class Disk:
    """A small file system of its own, which may be filled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], check=True)

    def look(self) -> list[str]:
        return sorted(path.name for path in self.place.rglob("*"))

    def close(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)


class Processes:
    """Local processes: they end with the run, so nothing else may be left than nothing."""

    def __init__(self, folder: Path, labels: Iterable[str]) -> None:
        self._soak = "of no name"
        self._disk = Disk(folder / "disk") if "fill_disk" in labels else None

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        units = [*units_of_all(cases), CALM]
        limited = bool({"cpu_squeeze", "memory_squeeze"} & set(cases))
        local = {"cgroups": limited, "units": {unit: {"command": SLEEP} for unit in units}}
        places = {"data": str(self._disk.place)} if self._disk else {}
        watchdogs = [{"units": units, **POLICY}]
        return self.named(
            soak_file(cases, places, engines={"local": {"process": local}}, watchdogs=watchdogs)
        )

    def named(self, soak: dict[str, Any]) -> dict[str, Any]:
        """Remember what the soak is called: by that its control groups are found."""
        self._soak = soak["soak"]
        return soak

    def look(self) -> Any:
        """Return the control groups of its runs, whose ids begin with the name of the soak, and what is on its disk."""
        groups = [str(group) for group in left_by(f"{self._soak}-*")]
        return {"groups": groups, "disk": self._disk.look() if self._disk else []}

    def dead(self) -> list[str]:
        return []

    def close(self) -> None:
        if self._disk:
            self._disk.close()


class Containers:
    """Containers of a private network, which are there before the run and after it."""

    def __init__(self, client: Client, folder: Path, labels: Iterable[str]) -> None:
        self._client, self._prefix, self._folder = client, uuid.uuid4().hex[:8], folder
        self._network = f"deaths-{self._prefix}"
        client.call(
            "POST", "networks/create", {"Name": self._network, "Internal": True, "Labels": {LABEL: "true"}}
        )
        self._names = {unit: f"{self._prefix}-{unit}" for unit in (*units_of_all(labels), CALM)}
        self._disks = list[Disk]()
        for unit, name in self._names.items():
            if unit.startswith("fill-disk"):  # which the disk of the journal is not filled for
                self._disks.append(Disk(folder / unit))
            else:
                (folder / unit).mkdir()
            host = {
                "NetworkMode": self._network,
                "Binds": [f"{folder / unit}:/data"],
                "RestartPolicy": {"Name": "unless-stopped"},
                "Memory": 80_000_000,
            }
            client.create(name, "exec sleep 100000", {"soakd.unit": unit}, host=host)
            client.start(name)

    def close(self) -> None:
        """Remove the containers, and the disks under them."""
        for name in self._names.values():
            self._client.remove(name)
        self._client.call("DELETE", f"networks/{self._network}")
        for disk in self._disks:
            disk.close()

    def renamed(self, unit: str) -> str:
        return self._names[unit]

    def dead(self) -> list[str]:
        return []

    def soak(self, cases: Mapping[str, Case]) -> dict[str, Any]:
        names = [self._names[unit] for unit in (*units_of_all(cases), CALM)]
        engine = {"host": self._client.url, "names": names, "own_policy": "suspend", "stop_timeout": "1s"}
        soak = soak_file(
            cases,
            {"data": "/data"},
            engines={"docker": {"docker": engine}},
            watchdogs=[{"units": names, **POLICY}],
        )
        return _renamed(soak, self._names)

    def look(self) -> dict[str, Any]:
        """Return all that a run could leave on the engine: of what is ours, since other worlds may be on it."""
        client, mine = self._client, json.dumps({"name": [self._prefix]})
        volumes = client.call("GET", "volumes", filters=mine)["Volumes"] or []
        listed = client.call("GET", "containers/json", all=1, filters=mine)
        return {
            "networks": sorted(one["Name"] for one in client.call("GET", "networks", filters=mine)),
            "volumes": sorted(one["Name"] for one in volumes),
            "containers": sorted(one["Names"][0] for one in listed),
            **{unit: self._container(unit, name) for unit, name in self._names.items()},
        }

    def _container(self, unit: str, name: str) -> dict[str, Any]:
        seen = self._client.inspect(name)
        state, host = seen["State"], seen["HostConfig"]
        networks, pid = seen["NetworkSettings"]["Networks"], state["Pid"]
        limits = ("NanoCpus", "CpuQuota", "CpuShares", "Memory", "MemorySwap", "PidsLimit")
        return {
            "state": state["Status"],
            "paused": state["Paused"],
            "policy": host["RestartPolicy"]["Name"],
            "limits": {limit: _limit(host.get(limit)) for limit in limits},
            "networks": {
                net: sorted(set(one["Aliases"] or []) - {seen["Id"][:12]}) for net, one in networks.items()
            },
            "filters": _filters(pid) if pid else "down",
            "groups": _groups(pid) if pid else {},
            "files": sorted(path.name for path in (self._folder / unit).rglob("*")),
        }


LIMITS = (
    "cpu.cfs_quota_us",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "freezer.state",
    "cpu.max",
    "memory.max",
    "memory.swap.max",
    "cgroup.freeze",
)


def _groups(pid: int) -> dict[str, Any]:
    """Return what the kernel itself says of a container: its limits, whether it is frozen, and how many processes it has."""
    found: dict[str, Any] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        group = Path("/sys/fs/cgroup") / controller / path.lstrip("/")
        for name in LIMITS:
            with suppress(OSError):
                found[name] = (group / name).read_text().strip()
        if controller in {"pids", ""}:
            with suppress(OSError):
                found["processes"] = _processes(group / "cgroup.procs")
    return found


def _processes(members: Path) -> int:
    """Return how many processes a container has. One that has just been started is alone with its init for a moment."""
    deadline = time.monotonic() + GONE
    while (count := len(members.read_text().split())) < WHOLE and time.monotonic() < deadline:
        time.sleep(0.01)
    return count


def _limit(value: int | None) -> int | str:
    """Return a limit; that there is none Docker says in several ways, of which an update can only choose some."""
    return "none" if value is None or value <= 0 or value >= 2**62 else value


def _filters(pid: int) -> list[str]:
    """Return the packet filters and queues of a container's network namespace, without counters."""
    commands = "iptables-save && ip6tables-save && tc qdisc show || exit 1; ! command -v nft >/dev/null || nft list ruleset"
    enter = ["nsenter", "--target", str(pid), "--net", "sh", "-c", commands]
    done = subprocess.run(enter, stdout=subprocess.PIPE, text=True, check=True, timeout=20)
    # An empty chain and a table that was once looked at say nothing; 127.0.0.11 is the engine's own name server.
    told = [line.strip() for line in done.stdout.splitlines() if "127.0.0.11" not in line]
    told = [line for line in told if not line.startswith("qdisc noqueue")]
    return [line for line in told if line.startswith(("-A", "qdisc", ":soakd")) or "drop" in line]


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
