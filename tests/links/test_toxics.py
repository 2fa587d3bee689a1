"""What each toxic does to a plain TCP client, and that it is gone with its episode."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator

import anyio
import pytest
from link_harness import Bench, Echo, linked, threaded, transferred

from supervisor.journal.writer import JournalWriter
from supervisor.links.toxics import Bandwidth, Blackhole, Latency, Refuse, Reset, Slice


@pytest.fixture
async def bench(journal: JournalWriter) -> AsyncIterator[Bench]:
    async with linked(journal) as one:
        yield one


def exactly(end: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := end.recv(size - len(got))):
        got += data
    return got


def ask(client: socket.socket, end: socket.socket, data: bytes = b"x") -> float:
    """Send something there and back; return the seconds that took."""
    start = time.monotonic()
    client.sendall(data)
    assert exactly(end, len(data)) == data
    end.sendall(data)
    assert exactly(client, len(data)) == data
    return time.monotonic() - start


def send_all(client: socket.socket) -> int:
    """Send until nothing more is taken; return how much was."""
    taken = 0
    try:
        while True:
            taken += client.send(bytes(65536))
    except TimeoutError:
        return taken


def reset(end: socket.socket) -> bool:
    try:
        return end.recv(1) != b""
    except ConnectionResetError:
        return True


def reset_at_once(bench: Bench) -> bool:
    try:
        return reset(bench.dial())
    except ConnectionResetError:
        return True


async def test_an_idle_link_carries_both_ways_and_each_end_of_them(bench: Bench) -> None:
    client, end = await bench.connect()
    await threaded(ask, client, end)
    client.shutdown(socket.SHUT_WR)
    assert await threaded(end.recv, 1) == b""
    end.sendall(b"still there")
    assert await threaded(exactly, client, 11) == b"still there"
    end.close()
    assert await threaded(client.recv, 1) == b""
    while (await bench.links.connections())["db"]:
        pass
    assert bench.links.gauges()['soakd_link_up_bytes{link="db"}'] == 1
    assert bench.links.gauges()['soakd_link_down_bytes{link="db"}'] == 12


async def test_who_resets_one_end_resets_the_other(bench: Bench) -> None:
    client, end = await bench.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert await threaded(reset, end)


async def test_latency_delays_each_way_and_lets_go_of_what_waits(bench: Bench) -> None:
    client, end = await bench.connect()
    await bench.links.put("slow#1", {"db": Latency(delay=0.1, way="down")})
    await bench.links.put("slow#2", {"db": Latency(delay=0.1)})
    assert await threaded(ask, client, end) >= 0.3
    await bench.links.take("slow#2")
    assert await threaded(ask, client, end) >= 0.1
    await bench.links.put("slow#1", {"db": Latency(delay=3600, jitter=3600)})
    client.sendall(b"late")
    client.shutdown(socket.SHUT_WR)
    await bench.links.take("slow#1")
    await bench.links.take("slow#1")  # again: no harm
    assert await threaded(exactly, end, 5) == b"late"


async def test_bandwidth_is_shared_by_all_connections(bench: Bench) -> None:
    both = [await bench.connect() for _ in range(2)]
    await bench.links.put("thin#1", {"db": Bandwidth(rate=400_000, way="up")})

    async def send(client: socket.socket, end: socket.socket) -> None:
        client.sendall(bytes(100_000))
        assert len(await threaded(exactly, end, 100_000)) == 100_000

    start = time.monotonic()
    async with anyio.create_task_group() as group:
        for client, end in both:
            group.start_soon(send, client, end)
    assert time.monotonic() - start >= 0.45
    client, end = both[0]
    end.sendall(bytes(1_000_000))  # the other way is as wide as ever
    assert len(await threaded(exactly, client, 1_000_000)) == 1_000_000


async def test_slice_sends_small_pieces_with_gaps(bench: Bench) -> None:
    client, end = await bench.connect()
    await bench.links.put("cut#1", {"db": Slice(size=10, gap=0.02)})
    start = time.monotonic()
    client.sendall(bytes(100))
    await threaded(exactly, end, 60)
    assert time.monotonic() - start >= 0.08, "five gaps"
    await bench.links.take("cut#1")
    await threaded(exactly, end, 40)


async def test_a_blackhole_swallows_one_way_and_gives_back_what_it_took(bench: Bench) -> None:
    client, end = await bench.connect()
    await bench.links.put("hole#1", {"db": Blackhole(way="up")})
    client.sendall(b"lost?")
    client.shutdown(socket.SHUT_WR)
    end.sendall(b"down")
    assert await threaded(exactly, client, 4) == b"down"
    end.settimeout(0.2)
    with pytest.raises(TimeoutError):
        await threaded(end.recv, 1)
    end.settimeout(30)
    await bench.links.take("hole#1")
    assert await threaded(exactly, end, 6) == b"lost?"


async def test_a_reset_link_resets_what_is_there_and_what_comes(bench: Bench) -> None:
    client, end = await bench.connect()
    await bench.links.put("rst#1", {"db": Reset()})
    assert await threaded(reset, client)
    assert await threaded(reset, end)
    assert await threaded(reset_at_once, bench)
    await bench.links.take("rst#1")
    await threaded(ask, *await bench.connect())


async def test_a_link_that_refuses_keeps_its_connections_and_its_port(bench: Bench) -> None:
    client, end = await bench.connect()
    await bench.links.put("no#1", {"db": Refuse()})
    await bench.links.put("rst#1", {"db": Refuse()})
    with pytest.raises(ConnectionRefusedError):
        await threaded(bench.dial)
    for reuse in (0, 1):
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            with pytest.raises(OSError, match="in use"):
                thief.bind(bench.links.addresses["db"])
    await threaded(ask, client, end)
    await bench.links.take("no#1")
    with pytest.raises(ConnectionRefusedError):
        await threaded(bench.dial)
    await bench.links.take("rst#1")
    await threaded(ask, *await bench.connect())
    await threaded(ask, client, end)


async def test_a_share_of_the_connections_is_killed_as_the_seed_says(bench: Bench) -> None:
    both = [await bench.connect() for _ in range(10)]
    assert await bench.links.kill("db", 0.25, seed=7) == 3
    dead = []
    for number, (client, end) in enumerate(both):
        client.settimeout(0.1)
        try:
            assert await threaded(reset, client)
            dead.append(number)
            assert await threaded(reset, end)
        except TimeoutError:
            client.settimeout(30)
            await threaded(ask, client, end)
    assert len(dead) == 3
    assert (await bench.links.connections())["db"] == 7
    assert await bench.links.kill("db", 0.01, seed=7) == 1
    assert await bench.links.kill("db", 1.0, seed=7) == 6
    assert await bench.links.kill("db", 1.0, seed=7) == 0


async def test_a_server_that_is_not_there_resets_the_client(bench: Bench) -> None:
    bench.server.close()
    assert await threaded(reset_at_once, bench)


async def test_a_link_over_ipv6(journal: JournalWriter) -> None:
    async with linked(journal, host="::1") as bench:
        client, end = await bench.connect()
        await threaded(ask, client, end)
        await bench.links.put("no#1", {"db": Refuse()})
        with pytest.raises(ConnectionRefusedError):
            await threaded(bench.dial)
        await bench.links.take("no#1")
        await threaded(ask, *await bench.connect())


async def test_what_nobody_reads_is_bounded(bench: Bench) -> None:
    client, end = await bench.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    await bench.links.put("hole#1", {"db": Blackhole()})
    client.settimeout(0.3)
    taken = await threaded(send_all, client)
    assert taken < 32 * 1024 * 1024
    await bench.links.take("hole#1")
    assert len(await threaded(exactly, end, taken)) == taken


async def test_no_byte_is_lost_while_toxics_change(bench: Bench) -> None:
    up, down, made = await transferred(bench, blocks=64, changes=30, pause=0.02, seed=3)
    assert (up, down) == (64, 64)
    assert made > 5


async def test_hundreds_of_connections_at_once(bench: Bench) -> None:
    echo = Echo(bench.server)
    try:
        clients = [await threaded(bench.dial) for _ in range(300)]
        await bench.links.put("slow#1", {"db": Latency(delay=0.05, jitter=0.05)})
        await bench.links.put("cut#1", {"db": Slice(size=3000, gap=0.001)})

        def all_at_once() -> None:
            for number, client in enumerate(clients):
                client.sendall(f"{number:>5000}".encode())
            for number, client in enumerate(clients):
                assert exactly(client, 5000) == f"{number:>5000}".encode()

        await threaded(all_at_once)
        assert (await bench.links.connections())["db"] == 300
    finally:
        await threaded(echo.close)
