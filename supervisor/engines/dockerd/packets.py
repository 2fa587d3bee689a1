"""Packet filter rules in a container's own network namespace, which ends with the container's life and the rules with it.

They stand in two chains named after the episode; the rules that lead there have the episode as their comment, for whoever finds them
with `iptables -S`. A chain and the rule that leads to it come in one transaction: there is all of it or nothing. It takes root on the
engine's own machine, and `iptables` there, but nothing in the container.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from supervisor.engines.base import EngineError
from supervisor.engines.capabilities import Cut
from supervisor.engines.dockerd.container import Container
from supervisor.engines.dockerd.kernel import runs_here
from supervisor.engines.program import run_program

PATIENCE: Final = 10.0
"""Seconds that a packet filter may take; it takes milliseconds, unless somebody else keeps its lock."""
PROGRAMS: Final = ("iptables", "iptables-restore", "ip6tables", "ip6tables-restore", "nsenter", "unshare")
_WAIT: Final = "--wait 5"
_IPV4: Final = ("iptables", "192.0.2.1")
_IPV6: Final = ("ip6tables", "2001:db8::1")
"""Programs, each with an address that belongs to nobody, to try them with."""


def lacks(*, ipv6: bool) -> str:
    """Say what keeps this machine from filtering packets, with `ipv6` those of IPv6 too; empty if nothing does. Blocks for milliseconds."""
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"{', '.join(missing)} missing on PATH: install iptables and util-linux"
    return _try(*_IPV4) or (_try(*_IPV6) if ipv6 else "")


def _try(program: str, address: str) -> str:
    """Try a packet filter where it hurts nobody: in a network namespace of its own, which ends with it."""
    rule = ("-A", "INPUT", "-s", address, "-m", "comment", "--comment", "soakd", "-j", "DROP")
    command = ("unshare", "--net", program, *rule)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} cannot be tried: {error}"
    if done.returncode == 0:
        return ""
    return f"{program} cannot be used ({done.stderr.strip()}): run soakd as root, on a kernel with a packet filter"


def unreachable(container: Container) -> str:
    """Say why the network namespace of a container cannot be entered from here; empty if it can, or is not there. Blocks."""
    if container.network in {"host", "none"}:
        return f"its network mode is {container.network}: there is nothing that could be cut off"
    if container.network.startswith("container:"):
        return "it uses the network of another container, which would be cut off with it"
    if not container.pid or not container.running:
        return ""
    return Namespace(container.pid, container.id).foreign()


@dataclass(frozen=True, slots=True)
class Namespace:
    """The network namespace of a container, by its process."""

    pid: int
    container: str

    @property
    def path(self) -> str:
        """Where the kernel shows it."""
        return f"/proc/{self.pid}/ns/net"

    def foreign(self) -> str:
        """Say why it may not be entered; empty if it may. Blocks, on files of the kernel's own."""
        try:
            if not runs_here(self.pid, self.container):
                raise ProcessLookupError
            if Path(self.path).stat().st_ino == Path("/proc/self/ns/net").stat().st_ino:
                return "its network is this machine's own"
        except OSError:
            return (
                f"its process {self.pid} is not to be found here: run soakd as root on the engine's machine, "
                "in a container of its own with --pid=host"
            )
        return ""


async def cut_off(place: Namespace, name: str, cut: Cut) -> None:
    """Put rules called `name` into a namespace; those that stand there already are left at that."""
    both = ((_Side("INPUT"), cut.inbound), (_Side("OUTPUT"), cut.outbound))
    sides = [side for side, wanted in both if wanted]
    for version, program in ((4, "iptables"), (6, "ip6tables")):
        meant = [one for one in cut.peers if ip_network(one).version == version]
        if meant and not {side.chain(name) for side in sides} & await _chains(place, program):
            spared = [one for one in cut.spare if ip_network(one).version == version]
            rules = [line for side in sides for line in side.rules(name, meant, spared)]
            await _commit(place, program, rules)


async def let_through(place: Namespace, name: str) -> None:
    """Take the rules called `name` out of a namespace; none there: no error."""
    for program, address in (_IPV4, _IPV6):
        try:
            chains = await _chains(place, program)
        except EngineError:
            why = await to_thread.run_sync(_try, program, address) if program == _IPV6[0] else ""
            if why:
                continue  # a kernel without it, where there cannot be any
            raise
        lines = [
            line
            for side in (_Side("INPUT"), _Side("OUTPUT"))
            if (chain := side.chain(name)) in chains
            for line in (f"-D {side.way(name)}", f"-F {chain}", f"-X {chain}")
        ]
        if lines:
            await _commit(place, program, lines)


class _Side:
    """One direction: what comes in, or what goes out."""

    def __init__(self, hook: str) -> None:
        self._hook, self._end, self._device = hook, *(("-s", "-i") if hook == "INPUT" else ("-d", "-o"))

    def chain(self, name: str) -> str:
        """Return the name of the chain: 28 letters at most, and an episode's name may have more."""
        return f"soakd-{self._hook.lower()}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def way(self, name: str) -> str:
        """Return the rule that leads to the chain."""
        return f'{self._hook} -m comment --comment "soakd {name}" -j {self.chain(name)}'

    def rules(self, name: str, peers: Sequence[str], spare: Sequence[str]) -> list[str]:
        """Return the chain and the way to it, as lines for iptables-restore."""
        chain = self.chain(name)
        return [
            f":{chain} - [0:0]",
            f"-A {chain} {self._device} lo -j RETURN",
            *(f"-A {chain} {self._end} {one} -j RETURN" for one in spare),
            *(f"-A {chain} {self._end} {one} -j DROP" for one in peers),
            f"-I {self.way(name)}",
        ]


async def _chains(place: Namespace, program: str) -> set[str]:
    said = await _within(place, f"{program} {_WAIT} -S")
    return {line.removeprefix("-N ") for line in said.splitlines() if line.startswith("-N ")}


async def _commit(place: Namespace, program: str, lines: Sequence[str]) -> None:
    text = "\n".join(("*filter", *lines, "COMMIT", ""))
    await _within(place, f'printf %s "$RULES" | {program}-restore {_WAIT} --noflush', RULES=text)


async def _within(place: Namespace, command: str, **env: str) -> str:
    """Run a shell command in a network namespace; return what it wrote, EngineError if it fails."""
    if why := await to_thread.run_sync(place.foreign):
        raise EngineError(why)
    output = bytearray()
    ended = await run_program(
        ("nsenter", f"--net={place.path}", "--", "sh", "-c", command),
        cwd=Path("/"),
        env={**os.environ, **env},
        output=output.extend,
        timeout=PATIENCE,
        stop=anyio.Event(),
    )
    text = output.decode(errors="replace")
    if not ended.ok:
        raise EngineError(f"the packet filter refused: {text.strip() or ended.status}")
    return text
