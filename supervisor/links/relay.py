"""One link: its listener, its connections, and what is done to them.

What is done to new connections has an order of its own: where one toxic refuses them none is reset, and where one resets them none
is relayed.
"""

from __future__ import annotations

import errno
import math
import random
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from supervisor.links.stream import End, Lane, Stream
from supervisor.links.toxics import WAYS, Bandwidth, Pace, Refuse, Reset, Shape, Toxic, Way

BACKLOG: Final = 512
"""Connections that wait to be accepted; the kernel may allow fewer."""
CONNECT: Final = 10.0
"""Seconds that the server may take to accept a connection; then the client's is reset."""
TIRED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST: Final = 0.1
"""Seconds until a connection is accepted again where the machine had no room for it."""
_RST: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST."""


class Link:
    """A relay between whoever connects to `listener` and the server at `host`, `port`."""

    def __init__(self, name: str, listener: socket.socket, host: str, port: int) -> None:
        self.name = name
        self.lanes = {way: Lane(Shape()) for way in WAYS}
        self.connections: dict[int, Connection] = {}
        """By number, in the order in which they came."""
        self._listener, self._host, self._port = listener, host, port
        self._toxics: dict[str, Toxic] = {}
        """By episode."""
        self._paces: dict[tuple[str, str], Pace] = {}
        self._listening = True
        self._changed = anyio.Event()
        self._last = 0

    # --- what is done to it ------------------------------------------------------------------------------------------

    def put(self, episode: str, toxic: Toxic) -> None:
        """Do something to it, in the name of an episode; what the episode did before is replaced. OSError: it cannot listen."""
        self.change({**self._toxics, episode: toxic})

    def take(self, episode: str) -> None:
        """Stop what an episode does; no error if it does nothing. OSError: it cannot listen again."""
        self.change({name: toxic for name, toxic in self._toxics.items() if name != episode})

    def change(self, toxics: Mapping[str, Toxic]) -> None:
        """Let exactly these be done to it, by episode, from now on. OSError: it cannot listen again."""
        kept = {name for name, toxic in toxics.items() if self._toxics.get(name) == toxic}
        paces = {key: pace for key, pace in self._paces.items() if key[0] in kept}
        for way, lane in self.lanes.items():
            here = {name: toxic for name, toxic in toxics.items() if toxic.way in {way, "both"}}
            for name, toxic in here.items():
                if isinstance(toxic, Bandwidth):
                    paces.setdefault((name, way), Pace(toxic.rate))
            lane.reshape(Shape(here.values(), [pace for key, pace in paces.items() if key[1] == way]))
        self._toxics, self._paces = dict(toxics), paces
        if self._does(Reset):
            for connection in self.connections.values():
                connection.reset()
        self._listen(yes=not self._does(Refuse))
        self._changed.set()
        self._changed = anyio.Event()

    def kill(self, share: float, seed: int) -> int:
        """Reset a share of the connections, one at least if there is any; return how many. `seed` draws which."""
        there = self._there()
        drawn = random.Random(seed).sample(there, math.ceil(share * len(there) - 1e-9))  # noqa: S311  # nothing secret
        for connection in drawn:
            connection.reset()
        return len(drawn)

    def look(self) -> dict[str, Any]:
        """Return numbers: open connections, bytes delivered up and down."""
        return {
            "connections": len(self._there()),
            **{way: lane.bytes for way, lane in self.lanes.items()},
        }

    def _there(self) -> list[Connection]:
        """Return the connections that are not about to be reset."""
        return [connection for connection in self.connections.values() if not connection.over]

    def _does(self, kind: type[Toxic]) -> bool:
        return any(isinstance(toxic, kind) for toxic in self._toxics.values())

    def _listen(self, *, yes: bool) -> None:
        """Listen, or keep the port without listening: then the kernel refuses whoever connects, and nobody else gets the port.

        A listener that is shut down stays bound (Linux). Without SO_REUSEADDR nobody can bind to the port as well; with it, it can
        listen again though connections of it are still open.
        """
        if yes:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.listen(BACKLOG)  # it may listen already: no harm
        elif self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            # Only one that listens: any other would hand the shutdown down to all connections that it accepts later.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            self._listener.shutdown(socket.SHUT_RD)
        self._listening = yes

    # --- its connections ---------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Accept connections and relay them, for ever."""
        async with anyio.create_task_group() as group:
            while True:
                while not self._listening:
                    await self._changed.wait()
                await anyio.wait_readable(self._listener)
                await self._accept(group)

    async def _accept(self, group: TaskGroup) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:  # refused meanwhile, given up by the client, or no room for it
            if error.errno in TIRED:
                await anyio.sleep(REST)
            return
        client.setblocking(False)
        if self._does(Reset):
            close(client, reset=True)
        else:
            self._last += 1
            connection = self.connections[self._last] = Connection(client, self.lanes)
            group.start_soon(self._relay, self._last, connection, name=f"link {self.name} {self._last}")

    async def _relay(self, number: int, connection: Connection) -> None:
        try:
            await connection.run(self._host, self._port)
        finally:
            del self.connections[number]


class Connection:
    """One client's connection through a link."""

    def __init__(self, client: socket.socket, lanes: Mapping[Way, Lane]) -> None:
        self._client, self._lanes = client, lanes
        self._scope = anyio.CancelScope()
        self._reset = False

    @property
    def over(self) -> bool:
        """Whether it is being reset."""
        return self._scope.cancel_called

    def reset(self) -> None:
        """End it with RST to both ends, now."""
        self._reset = True
        self._scope.cancel()

    async def run(self, host: str, port: int) -> None:
        """Connect to the server and carry both directions to their end."""
        server: socket.socket | None = None
        try:
            with self._scope:
                server = await connect(host, port)
                if server is None:  # as near as one gets to a refused connection that was accepted already
                    self._reset = True
                else:
                    await self._carry(server)
        finally:
            for end in (self._client, server):
                if end is not None:
                    close(end, reset=self._reset)

    async def _carry(self, server: socket.socket) -> None:
        for end in (self._client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with anyio.create_task_group() as group:
            group.start_soon(self._one_way, Stream(self._client, server, self._lanes["up"]))
            group.start_soon(self._one_way, Stream(server, self._client, self._lanes["down"]))

    async def _one_way(self, stream: Stream) -> None:
        try:
            end = await stream.run()
        except ConnectionError:
            self._reset = (
                True  # its receiver is gone. What that one sent before is read, and delivered, to its end
            )
        else:
            if end is End.RST:
                self.reset()


def close(end: socket.socket, *, reset: bool) -> None:
    """Close a connection's end, with RST or in order; what was sent to it in order is still delivered by the kernel."""
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    end.close()


async def connect(host: str, port: int) -> socket.socket | None:
    """Return a connection to the first address of a server that takes one; None if none does within `CONNECT` seconds."""
    with anyio.move_on_after(CONNECT):
        try:
            addresses = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return None
        for family, *_, address in addresses:
            end = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                if await _connected(end, address):
                    return end
            except BaseException:
                end.close()
                raise
            end.close()
    return None


async def _connected(end: socket.socket, address: Any) -> bool:
    code = end.connect_ex(address)
    if code == errno.EINPROGRESS:
        await anyio.wait_writable(end)
        code = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return code == 0
