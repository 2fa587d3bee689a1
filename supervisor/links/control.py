"""The daemon's side of the links: it binds their ports, starts their process, asks it, and starts it again when it ends.

The ports belong to the daemon and are lent to the process, so nobody takes them while there is none, and clients that come meanwhile
wait. What is to be done to links is kept here, by episode: a new process begins with it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from supervisor.engines.spawn import Child, spawn
from supervisor.journal.base import Journal
from supervisor.journal.events import LinksOpened
from supervisor.links.base import Address, Link, LinkError, variable
from supervisor.links.marks import MARK
from supervisor.links.toxics import Toxic, encode
from supervisor.supervision import nursery

ANSWER: Final = 5.0
"""Seconds that the process may take to an answer; one that takes longer is ended, and a new one started."""
START: Final = 15.0
"""Seconds that it may take to its first answer: a Python that imports its modules on a busy machine."""
LOOK: Final = 2.0
"""Seconds between two looks at its numbers."""
TAIL: Final = 4000
"""Bytes of its last output that are told when it ends by itself."""
PROGRAM: Final = (sys.executable, "-P", "-m", "supervisor.links")


class Links:
    """All links of a run. `run` keeps their process up; faults use the rest (`base.Control`)."""

    def __init__(self, links: Mapping[str, Link], run: str, journal: Journal, ports: Iterator[int]) -> None:
        """Bind the ports; LinkError if one is not to be had. `ports` are free ones of 127.0.0.1."""
        self._run, self._journal = run, journal
        self._servers = {name: link.server for name, link in links.items()}
        self._listeners: dict[str, socket.socket] = {}
        self._wanted: dict[str, dict[str, Toxic]] = {}
        self._channel: socket.socket | None = None
        """None while there is no process that could be asked."""
        self._asking = anyio.Lock()
        self._changed = anyio.Event()
        self._failed = anyio.Event()
        self._seen: Mapping[str, Mapping[str, float]] = {}
        self.addresses: dict[str, Address] = {}
        """Where each listens."""
        try:
            for name, link in links.items():
                address = link.address if link.listen else Address("127.0.0.1", next(ports))
                self._listeners[name] = _bound(name, address)
                self.addresses[name] = address
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the ports back."""
        for listener in self._listeners.values():
            listener.close()

    @property
    def ways(self) -> dict[str, tuple[Address, Address]]:
        """For each link where it listens and where it leads."""
        return {name: (address, self._servers[name]) for name, address in self.addresses.items()}

    @property
    def environment(self) -> dict[str, str]:
        """What units and commands are told of them."""
        return {variable(name): str(address) for name, address in self.addresses.items()}

    def gauges(self) -> dict[str, float]:
        """Return what was last seen of them, for metrics."""
        return {
            f'{metric}{{link="{name}"}}': float(seen[key])
            for name, seen in self._seen.items()
            for metric, key in (
                ("soakd_link_connections", "connections"),
                ("soakd_link_up_bytes", "up"),
                ("soakd_link_down_bytes", "down"),
            )
        }

    # --- what faults ask for -----------------------------------------------------------------------------------------

    async def put(self, episode: str, toxics: Mapping[str, Toxic]) -> None:
        """Do something to links, in the name of an episode."""
        self._wanted[episode] = dict(toxics)
        for link, toxic in toxics.items():
            await self._ask(do="put", link=link, episode=episode, toxic=encode(toxic))

    async def take(self, episode: str) -> None:
        """Stop whatever an episode does. Without a process nothing is done to anything, nor will it be by a new one."""
        self._wanted.pop(episode, None)
        with suppress(_Gone):
            await self._ask(patience=0.0, do="take", episode=episode)

    async def kill(self, link: str, share: float, seed: int) -> int:
        """Reset a share of a link's connections."""
        return int((await self._ask(do="kill", link=link, share=share, seed=seed))["killed"])

    async def connections(self) -> Mapping[str, int]:
        """Return how many connections each link has now."""
        await self._look()
        return {name: int(seen["connections"]) for name, seen in self._seen.items()}

    async def ready(self) -> None:
        """Wait until the links relay; LinkError if they do not within `START` seconds."""
        with anyio.move_on_after(START):
            while self._channel is None:
                await self._changed.wait()
            return
        raise LinkError(f"cannot start the links: their process does not answer within {START:.0f} s")

    # --- the process -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the process of the links; LinkError if it ends, or has to be ended. A leaf task."""
        async with self._started() as (child, channel):
            tail = bytearray()
            async with nursery() as tasks:
                tasks.start_soon(_keep_tail, child.output, tail)
                tasks.start_soon(self._open, channel)
                tasks.start_soon(self._watch_over, child)
                await anyio.wait_readable(child.pidfd)
            with suppress(OSError):
                tail += os.read(child.output, TAIL)
        said = tail[-TAIL:].decode(errors="replace").strip()
        raise LinkError(
            "the process of the links ended: every connection through them was cut. It is started again; "
            f"the last that it said: {said or 'nothing'}"
        )

    @asynccontextmanager
    async def _started(self) -> AsyncGenerator[tuple[Child, socket.socket]]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._failed = anyio.Event()
        fds = (theirs.fileno(), *(listener.fileno() for listener in self._listeners.values()))
        command = [*PROGRAM, str(theirs.fileno())]
        with ours:
            with theirs:
                env = {**os.environ, MARK: self._run}
                child = await anyio.to_thread.run_sync(lambda: spawn(command, Path("/"), env, pass_fds=fds))
            try:
                yield child, ours
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end(child, ours)

    async def _open(self, channel: socket.socket) -> None:
        """Tell a new process its links, and what is to be done to them."""
        async with self._asking:
            for name, listener in self._listeners.items():
                host, port = self._servers[name]
                toxics = {episode: encode(of[name]) for episode, of in self._wanted.items() if name in of}
                question = {"do": "open", "name": name, "fd": listener.fileno(), "host": host, "port": port}
                try:
                    with anyio.fail_after(START):
                        answer = await _exchange(channel, {**question, "toxics": toxics})
                except (TimeoutError, _Gone):
                    answer = {"error": "its process does not answer"}
                if "error" in answer:
                    self._failed.set()
                    return
            self._channel = channel
        self._tell()
        listen = {name: str(address) for name, address in self.addresses.items()}
        to = {name: str(address) for name, address in self._servers.items()}
        self._journal.emit(LinksOpened(listen=listen, to=to, episodes=tuple(self._wanted)))
        while True:
            with suppress(LinkError):  # whoever watches over the process sees it as well
                await self._look(patience=0.0)
            await anyio.sleep(LOOK)

    async def _watch_over(self, child: Child) -> None:
        """End a process that does not answer: a new one does."""
        await self._failed.wait()
        child.send(9)

    async def _end(self, child: Child, channel: socket.socket) -> None:
        """End the process in order, or by force; nothing is asked of it any more."""
        self._channel = None
        self._tell()
        with anyio.move_on_after(ANSWER):
            async with self._asking:
                with suppress(OSError):
                    channel.send(b'{"do": "end"}\n')
                await anyio.wait_readable(child.pidfd)
        child.send(9)
        with anyio.move_on_after(ANSWER):
            await anyio.wait_readable(child.pidfd)
            child.reap()
        child.close()

    async def _look(self, patience: float = START) -> None:
        self._seen = (await self._ask(patience, do="look"))["links"]

    async def _ask(self, patience: float = START, **question: Any) -> dict[str, Any]:
        """Ask the process and return its answer; where there is none, or it ends meanwhile, wait `patience` seconds for a new one.

        It cannot be cancelled: who asks next must not get the answer of the one before.
        """
        answer: dict[str, Any] | None = None
        deadline = anyio.current_time() + patience
        while answer is None:
            with anyio.CancelScope(shield=True):
                answer = await self._asked_once(deadline, question)
        if "error" in answer:
            who = question.get("episode", "it")
            raise LinkError(f"cannot {question['do']} what {who} does to links: {answer['error']}")
        return answer

    async def _asked_once(self, deadline: float, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer, None if the process was lost instead; _Gone if there is none by the deadline."""
        with anyio.move_on_at(deadline):
            while self._channel is None:
                await self._changed.wait()
        async with self._asking:  # held while a process is told its links: what it was told counts
            if self._channel is None and anyio.current_time() < deadline:
                return None  # lost while others asked
            if self._channel is None:
                raise _Gone(
                    "cannot reach the process of the links: it has ended, see supervision.crashed in the journal"
                )
            try:
                with anyio.fail_after(ANSWER):
                    return await _exchange(self._channel, question)
            except _Gone:
                self._channel = None
            except TimeoutError:
                self._channel = None
                self._failed.set()
        return None

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class _Gone(LinkError):  # noqa: N818  # what happened is in the name
    """The process has ended."""


async def _exchange(channel: socket.socket, question: Mapping[str, Any]) -> dict[str, Any]:
    """Send a line and return the one that comes back; _Gone if the other end is closed."""
    left, answer = json.dumps(question).encode() + b"\n", b""
    try:
        while left:
            try:
                left = left[channel.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(channel)
        while not answer.endswith(b"\n"):
            await anyio.wait_readable(channel)
            with suppress(BlockingIOError):
                data = channel.recv(65536)
                if not data:
                    raise ConnectionError("the channel is closed")
                answer += data
    except OSError as error:
        raise _Gone("the process of the links has ended: it is started again") from error
    found: dict[str, Any] = json.loads(answer)
    return found


async def _keep_tail(pipe: int, tail: bytearray) -> None:
    """Take what the process says, to its end."""
    while True:
        await anyio.wait_readable(pipe)
        if not (chunk := os.read(pipe, 65536)):
            return
        tail += chunk
        del tail[:-TAIL]


def _bound(name: str, address: Address) -> socket.socket:
    """Return a socket that has the port, and does not listen yet; LinkError if it is not to be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        why = f"cannot listen on {address}: {error.strerror or error}"
        raise LinkError(f"links.{name}: {why}; choose another port in listen, or leave listen out") from error
    return listener
