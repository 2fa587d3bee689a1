"""What an engine says about a container, read once and in our words. Pure."""

from __future__ import annotations

import calendar
import math
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_SIGNAL: Final = re.compile(r"(?P<number>\d+)|(?:SIG)?(?P<name>[A-Z]+\d?)(?P<more>[+-]\d+)?")
_BY_SIGNAL: Final = 128
"""A process that a signal ended is given 128 and the signal's number as its code, as shells do."""
_NANO: Final = 1_000_000_000
_CHECK: Final = 30
"""Seconds between two health checks, and for one of them, if a container does not say."""
_RETRIES: Final = 3
NO_POLICY: Final = {"Name": "no", "MaximumRetryCount": 0}
SHORT: Final = 12
_READABLE: Final = frozenset({"json-file", "local", "journald"})
"""Logging drivers that an engine reads from. Of what others send away it keeps a copy to read, unless it was told not to."""


def nanoseconds(text: str) -> int:
    """Return a time of the engine's in nanoseconds since the epoch; 0 for its `0001-01-01`, which means never."""
    match = _TIME.fullmatch(text)
    if not match or text.startswith("0001"):
        return 0
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    if match[3] != "Z":
        hours, minutes = match[3][1:].split(":")
        seconds -= (int(hours) * 3600 + int(minutes) * 60) * (-1 if match[3][0] == "-" else 1)
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0")[:9])


def ended(code: int) -> tuple[int | None, str | None]:
    """Return exit code or signal of an engine's exit code. A program that itself exits with 137 cannot be told from SIGKILL."""
    if code > _BY_SIGNAL:
        try:
            return None, signal.Signals(code - _BY_SIGNAL).name
        except ValueError:
            pass
    return code, None


@dataclass(frozen=True, slots=True)
class Container:
    """One container as it was at one moment."""

    id: str
    name: str
    running: bool
    """Its process lives, paused or not."""
    paused: bool
    restarting: bool
    """It is down, and the engine is about to start it again."""
    begun: int
    """Nanoseconds since the epoch at which its last life began; 0: never."""
    finished: int
    code: int
    oom: bool
    failed: bool
    """Its last start failed."""
    memory: int
    """Bytes that it may take; 0: no limit."""
    pid: int | None
    health: str | None
    """starting, healthy, unhealthy; None without a health check."""
    health_within: float
    """Seconds that its own health check may take to its verdict; 0: it has none."""
    policy: Mapping[str, Any]
    restarts: int
    """How often the engine itself has started it again."""
    image: str
    """Digest of the image."""
    image_name: str
    tty: bool
    removes_itself: bool
    """The engine removes it when it ends (`docker run --rm`)."""
    log_driver: str
    log_readable: bool
    log_path: str
    """The file that its log is kept in, on the engine's machine; empty for drivers that keep it in another form."""
    stop_signal: int
    stop_timeout: float | None
    network: str
    """Its network mode: the name of a network, or host, none, container:<id>."""
    ipv6: bool
    """It has an IPv6 address on one of its networks just now."""
    mounts: Mapping[str, str]
    """Where its volumes are: path in the container -> directory of the engine's machine, empty for one in memory."""
    labels: Mapping[str, str] = field(repr=False)

    @property
    def incarnation(self) -> str:
        """Names its present or last life."""
        return incarnation(self.id, self.begun)

    @property
    def has_policy(self) -> bool:
        """Whether the engine would start it again by itself."""
        return self.policy.get("Name", "no") not in {"", "no"}

    @property
    def doubt(self) -> str:
        """Say what keeps a crash of it from being taken in full; empty if nothing does."""
        if self.removes_itself:
            return "is removed as soon as it ends (--rm), and its log with it: what crashes there cannot be started again"
        if not self.log_readable:
            return f"has the logging driver {self.log_driver}, which keeps nothing to read: a crash there has no log, so the verdict is inconclusive"
        return ""

    @property
    def facts(self) -> dict[str, str]:
        """What belongs into a crash file."""
        facts = {"container": f"{self.name} {self.id[:SHORT]}", "image": f"{self.image_name} {self.image}"}
        if self.health:
            facts["health"] = self.health
        if self.restarts:
            facts["restarts by docker"] = str(self.restarts)
        return facts

    def would_restart(self) -> bool:
        """Say whether the engine would have started it again after its last exit, had it been let."""
        if self.policy["Name"] == "on-failure":
            most = self.policy.get("MaximumRetryCount") or math.inf
            return self.code != 0 and self.restarts < most
        return self.policy["Name"] in {"always", "unless-stopped"}

    def is_left_down(self) -> bool:
        """Say whether the engine leaves it down against its policy, as it does for whom it was asked to signal."""
        down = not (self.running or self.restarting or self.failed)
        return down and self.has_policy and self.would_restart()


def incarnation(container: str, begun: int) -> str:
    """Name one life: the container, and when it began."""
    seconds, nanos = divmod(begun, 1_000_000_000)
    return f"{container[:SHORT]}@{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanos:09d}"


def _health_within(check: Mapping[str, Any]) -> float:
    if (check.get("Test") or ["NONE"])[0] == "NONE":
        return 0.0
    interval, timeout = (check.get(name) or _CHECK * _NANO for name in ("Interval", "Timeout"))
    return (
        float(check.get("StartPeriod", 0) + (check.get("Retries") or _RETRIES) * (interval + timeout)) / _NANO
    )


def read(data: Mapping[str, Any]) -> Container:
    """Read the answer to an inspection."""
    state, config, host = data["State"], data["Config"], data["HostConfig"]
    health = (state.get("Health") or {}).get("Status")
    log = host.get("LogConfig") or {}
    driver, copied = log.get("Type", ""), (log.get("Config") or {}).get("cache-disabled") != "true"
    return Container(
        id=data["Id"],
        name=data["Name"].lstrip("/"),
        running=state["Running"] and not state["Restarting"],
        paused=state["Paused"],
        restarting=state["Restarting"],
        begun=nanoseconds(state["StartedAt"]),
        finished=nanoseconds(state["FinishedAt"]),
        code=state["ExitCode"],
        oom=state["OOMKilled"],
        failed=bool(state.get("Error")),
        memory=host.get("Memory") or 0,
        pid=state["Pid"] or None,
        health=None if health in {None, "none"} else health,
        health_within=_health_within(config.get("Healthcheck") or {}),
        policy=host.get("RestartPolicy") or NO_POLICY,
        restarts=data.get("RestartCount", 0),
        image=data["Image"],
        image_name=config.get("Image", ""),
        tty=config.get("Tty", False),
        removes_itself=host.get("AutoRemove", False),
        log_driver=driver,
        log_readable=driver in _READABLE or (copied and driver != "none"),
        log_path=data.get("LogPath", "") if driver == "json-file" else "",
        stop_signal=_signal(config.get("StopSignal")),
        stop_timeout=config.get("StopTimeout"),
        network=host.get("NetworkMode") or "",
        ipv6=any(end.get("GlobalIPv6Address") for end in _ends(data)),
        mounts={one["Destination"]: one.get("Source") or "" for one in data.get("Mounts") or ()},
        labels=config.get("Labels") or {},
    )


def _ends(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return its endpoints, one for each of its networks."""
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    return [end for end in networks.values() if end]


def _signal(text: str | None) -> int:
    """Read SIGINT, INT, RTMAX-3 or 2; SIGTERM if nothing is said, or nothing that we know, as engines do."""
    if match := _SIGNAL.fullmatch((text or "").upper()):
        if match["number"]:
            return int(match["number"])
        if number := getattr(signal, f"SIG{match['name']}", None):
            return int(number) + int(match["more"] or 0)
    return signal.SIGTERM
