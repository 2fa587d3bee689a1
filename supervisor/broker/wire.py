"""nats-py's TCP transport, made to close in time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final
from urllib.parse import ParseResult

import anyio
from nats.aio.transport import TcpTransport

LINGER: Final = 0.2
"""Seconds a closed socket may take to send what is left. nats-py would wait for a paused peer as long as it pauses (#671)."""


class Wire(TcpTransport):
    """A transport that closes within `LINGER`, whatever its peer does, and never forgets a socket."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py says nothing
        self.leaving = False
        """The client closes: what can no longer be sent is no error."""
        self.retired = False
        """No new connection is wanted, not even by a reconnect that missed its cancellation."""
        self._timer: asyncio.TimerHandle | None = None
        self._given_up: asyncio.StreamWriter | None = None

    def __bool__(self) -> bool:
        return (
            True  # nats-py replaces a transport that is false, as this one would be before its first connect
        )

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect; the former socket, which nats-py forgets after a failed handshake, is closed first."""
        self.abort()
        self.leaving = False
        if not self.retired:
            await super().connect(uri, buffer_size, connect_timeout)
        if self.retired:
            self.abort()
            raise asyncio.CancelledError  # any Exception would only make the client try the next server

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002  # the streams have theirs
        connect_timeout: int,
    ) -> None:
        """Go on with TLS on the same streams: nats-py makes new ones, and after a failed handshake nobody says the old are closed."""
        assert self._io_writer is not None, "connect comes first"  # noqa: S101  # so it is in nats-py
        name = uri if isinstance(uri, str) else uri.hostname
        handshake = self._io_writer.start_tls(ssl_context, server_hostname=name)
        await asyncio.wait_for(handshake, connect_timeout)

    def write(self, payload: bytes) -> None:
        """Write, unless the socket is closed already: uvloop would raise a RuntimeError, which nats-py does not expect."""
        if self._io_writer is not None and not self._io_writer.is_closing():
            self._io_writer.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Write, unless the socket is closed already."""
        if self._io_writer is not None and not self._io_writer.is_closing():
            self._io_writer.writelines(payload)

    async def drain(self) -> None:
        """Wait until most of it is sent."""
        try:
            if self._io_writer is not None:
                await self._io_writer.drain()
        except OSError:
            if not self.leaving:
                raise

    def close(self) -> None:
        """Close once everything is sent, or after `LINGER`."""
        if self._io_writer is not None:
            self._io_writer.close()
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(LINGER, self.abort)

    async def wait_closed(self) -> None:
        """Wait until it is closed, and not for ever: it is gone by then, whether asyncio says so or not."""
        if self._io_writer is None or self._io_writer is self._given_up:
            return
        try:
            with anyio.move_on_after(2 * LINGER) as scope, contextlib.suppress(OSError):  # gone is gone
                await self._io_writer.wait_closed()
            if scope.cancelled_caught:
                self._given_up = self._io_writer  # its future is cancelled: nobody can wait for it again
        finally:
            self._stop_timer()

    def abort(self) -> None:
        """Drop the socket now, with all that was not sent."""
        self._stop_timer()
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    def retire(self) -> None:
        """Drop the socket and refuse any other."""
        self.retired = True
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
