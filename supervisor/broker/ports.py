"""TCP ports for servers of ours, which nobody else is given while we live."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_BLOCK: Final = 128
"""Ports that a process claims at a time: a few blocks do for a soak, and there are hundreds."""


def free_ports() -> Iterator[int]:
    """Yield TCP ports of 127.0.0.1 that are free now, each once in the life of this process, at random. ValueError: there is no more.

    They lie below the kernel's range for outgoing connections: a port from that range (as `bind` to port 0 gives it) can be taken by
    any client, even by one that tries to reach the very server, in the moment in which the server is restarted.

    For the same reason no other soakd is given them, though they are free while a server is not there yet, or is being restarted. A
    process claims a block of ports until it ends, by the name of an abstract Unix socket: of these there is one in each network
    namespace, as there is of ports, and the kernel frees it however the process ends. Our processes are spawned, never forked.
    """
    return iter(_PORTS.__next__, None)


class Ports(Iterator[int]):
    """The ports of one process."""

    def __init__(self) -> None:
        self._left = list[int]()
        self._claims = list[int]()
        """Descriptors that stay open for as long as we live."""

    def close(self) -> None:
        """Let others have these ports."""
        while self._claims:
            os.close(self._claims.pop())

    def __next__(self) -> int:
        while True:
            try:
                port = self._left.pop()
            except IndexError:
                self._left += self._claim()
                continue
            if _is_free(port):
                return port

    def _claim(self) -> list[int]:
        """Return the ports of a block that nobody has claimed."""
        low = 32_768
        with suppress(OSError, ValueError, IndexError):
            low = int(_RANGE.read_text().split()[0])
        blocks = list(range(_LOWEST, low - _BLOCK + 1, _BLOCK))
        random.shuffle(blocks)
        for block in blocks:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0soakd ports from {block}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim.detach())
            return random.sample(range(block, block + _BLOCK), _BLOCK)
        raise ValueError(
            f"cannot find another free port of 127.0.0.1 between {_LOWEST} and {low}: other soakds have them all; end one of them"
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_PORTS: Final = Ports()
