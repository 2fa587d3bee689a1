"""What a server says to anybody who connects: that it is there, who it is, and whether it has JetStream. It needs no credentials."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from supervisor.broker.health.facts import Greeting

_LONGEST: Final = 64 * 1024
"""Bytes of a greeting. A common one has 600; each further server of the cluster adds its address."""


async def greet(url: str, deadline: float, *, tls_first: bool = False) -> Greeting:
    """Connect to `nats://host:port` and read its server's greeting, within `deadline` seconds.

    A server that wants TLS first (`tls_first`) says nothing in the clear: there it is only seen that somebody accepts.
    """
    parts = urlsplit(url)
    began = time.monotonic()
    said: dict[str, Any] = {"outcome": "unreachable", "detail": f"does not answer within {deadline:g}s"}
    with anyio.move_on_after(deadline):
        try:
            async with await anyio.connect_tcp(parts.hostname or "", parts.port or 4222) as stream:
                if tls_first:
                    said = {"outcome": "tls"}
                else:
                    said = {"outcome": "mute", "detail": f"accepts, then says nothing for {deadline:g}s"}
                    said = _introduction(
                        await BufferedByteReceiveStream(stream).receive_until(b"\r\n", _LONGEST)
                    )
        except OSError as error:
            said = _failure(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            said = {"outcome": "mute", "detail": "hangs up without a word"}
        except anyio.DelimiterNotFound:
            said = _introduction(b"")
    return Greeting(address=parts.netloc, took=time.monotonic() - began, **said)


def _failure(error: OSError) -> dict[str, Any]:
    if isinstance(error, ConnectionRefusedError):
        return {"outcome": "refuses", "detail": "refuses connections"}
    return {
        "outcome": "unreachable",
        "detail": (error.strerror or str(error) or type(error).__name__).lower(),
    }


def _introduction(line: bytes) -> dict[str, Any]:
    word, _, text = line.partition(b" ")
    with suppress(ValueError):
        info = json.loads(text)
        if word == b"INFO" and isinstance(info, dict):
            return {
                "outcome": "greets",
                "id": info.get("server_id", ""),
                "name": info.get("server_name", ""),
                "version": info.get("version", ""),
                "jetstream": info.get("jetstream", False),
                "cluster": info.get("cluster", ""),
            }
    return {"outcome": "unreachable", "detail": "is no nats-server"}
