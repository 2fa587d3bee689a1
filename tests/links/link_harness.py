"""A server that a test holds in its hands, links to it, and bytes that show whether any of them is lost, doubled or overtaken."""

from __future__ import annotations

import random
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from supervisor.broker.ports import free_ports
from supervisor.journal.writer import JournalWriter
from supervisor.links.base import Link
from supervisor.links.control import Links
from supervisor.links.toxics import Bandwidth, Blackhole, Latency, Slice, Toxic
from supervisor.supervision import Supervisor, nursery

PATIENCE = 30.0
"""Seconds that anything may take on a busy machine."""
SOME = 6
"""Changes that there are at least while bytes are on their way."""
BLOCK = 256 * 1024
_NOISE = random.Random(1).randbytes(BLOCK - 8)  # noqa: S311
T = TypeVar("T")


async def threaded(act: Callable[..., T], *args: Any) -> T:
    """Do in a thread what a plain client does: it blocks."""
    return await anyio.to_thread.run_sync(partial(act, *args), abandon_on_cancel=True)


@dataclass
class Bench:
    """Links to one server."""

    links: Links
    server: socket.socket
    run: str
    ends: ExitStack = field(default_factory=ExitStack)

    def dial(self, link: str = "db") -> socket.socket:
        """Connect through a link. Blocks."""
        address = self.links.addresses[link]
        client = self.ends.enter_context(socket.create_connection(address, timeout=PATIENCE))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    async def connect(self, link: str = "db") -> tuple[socket.socket, socket.socket]:
        """Connect through a link; return the client's end and the server's. Both block, up to `PATIENCE`."""
        client = await threaded(self.dial, link)
        end, _ = await threaded(self.server.accept)
        end.settimeout(PATIENCE)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, self.ends.enter_context(end)


@asynccontextmanager
async def linked(
    journal: JournalWriter, names: Sequence[str] = ("db",), host: str = "127.0.0.1"
) -> AsyncIterator[Bench]:
    """Open links to a server, kept up as in a run; their process is gone afterwards."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = free_ports()
    with socket.create_server((host, next(ports)), family=family, backlog=512) as server:
        server.settimeout(PATIENCE)
        at = f"[{host}]" if ":" in host else host
        to = f"{at}:{server.getsockname()[1]}"
        listen = {name: f"{at}:{next(ports)}" for name in names}
        run = f"test-{uuid.uuid4().hex}"
        specs = {name: Link(listen=listen[name], to=to) for name in names}
        links = Links(specs, run, journal, ports)
        try:
            async with nursery() as group:
                Supervisor(group, journal, lambda _: None).keep("links", links.run)
                await links.ready()
                with ExitStack() as ends:
                    yield Bench(links, server, run, ends)
        finally:
            links.close()


# --- bytes that tell what became of them -----------------------------------------------------------------------------


def block(number: int) -> bytes:
    return number.to_bytes(8, "big") + _NOISE


def send_blocks(end: socket.socket, count: int, enough: threading.Event) -> None:
    """Send so many blocks and, once that is `enough`, the end."""
    for number in range(count):
        end.sendall(block(number))
    enough.wait(PATIENCE)
    end.shutdown(socket.SHUT_WR)


def take_blocks(end: socket.socket) -> int:
    """Read to the end and return how many blocks there were; AssertionError if a byte is not the one that was sent."""
    count, left = 0, b""
    while data := end.recv(1024 * 1024):
        left += data
        while len(left) >= BLOCK:
            assert left[:BLOCK] == block(count), f"block {count} is not what was sent"
            count, left = count + 1, left[BLOCK:]
    assert not left, "the last block is not whole"
    return count


def drawn(rng: random.Random) -> Toxic:
    """Draw something that lets bytes through, more or less."""
    way = rng.choice(("up", "down", "both"))
    return rng.choice(
        (
            Latency(delay=rng.uniform(0, 0.02), jitter=rng.uniform(0, 0.02), way=way),
            Bandwidth(rate=rng.uniform(2e7, 2e8), way=way),
            Slice(size=rng.randint(20_000, 60_000), gap=0.0005, way=way),
            Blackhole(way=way),
        )
    )


async def transferred(
    bench: Bench, blocks: int, changes: int, pause: float, seed: int
) -> tuple[int, int, int]:
    """Send so many blocks each way while toxics change; return how many arrived up and down, and how many changes were made.

    The changes go on until all have been made, or all bytes are through, which they are not before some changes were.
    """
    client, end = await bench.connect()
    rng, made = random.Random(seed), 0  # noqa: S311
    arrived, enough = dict[str, int](), threading.Event()

    async def sink(way: str, from_: socket.socket) -> None:
        arrived[way] = await threaded(take_blocks, from_)

    async with anyio.create_task_group() as group:
        for source, sink_, way in ((client, end, "up"), (end, client, "down")):
            group.start_soon(threaded, send_blocks, source, blocks, enough)
            group.start_soon(sink, way, sink_)
        open_: list[str] = []
        while made < changes and len(arrived) < 2:
            if len(open_) > 2 or (open_ and rng.random() < 0.5):
                await bench.links.take(open_.pop(rng.randrange(len(open_))))
            else:
                open_.append(f"e#{made}")
                await bench.links.put(open_[-1], {"db": drawn(rng)})
            made += 1
            if made >= min(changes, SOME):
                enough.set()
            await anyio.sleep(rng.uniform(0, 2 * pause))
        for episode in open_:
            await bench.links.take(episode)
    return arrived["up"], arrived["down"], made


class Echo:
    """Answers on every connection of a server what it is sent, in threads, until `close`."""

    def __init__(self, server: socket.socket) -> None:
        self._server, self._ends = server, list[socket.socket]()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._server.accept()
            except OSError:
                return
            self._ends.append(end)
            thread = threading.Thread(target=self._answer, args=(end,), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _answer(end: socket.socket) -> None:
        try:
            while data := end.recv(65536):
                end.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for one in (self._server, *self._ends):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(PATIENCE)
