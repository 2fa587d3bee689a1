"""The process of the links: it comes back with its listeners and toxics, and is a plain relay once its daemon is dead."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
from link_harness import PATIENCE, linked, threaded
from test_toxics import ask

from supervisor.engines.spawn import stopped
from supervisor.journal.events import LinksOpened, TaskCrashed
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter
from supervisor.links import control, remains
from supervisor.links.base import Link, LinkError
from supervisor.links.toxics import Blackhole, Latency, Refuse


def events(journal: JournalWriter, kind: type[Any]) -> list[Any]:
    return [record.event for record in replay(journal.run_dir) if isinstance(record.event, kind)]


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def over(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_a_process_that_dies_comes_back_with_ports_and_toxics(journal: JournalWriter) -> None:
    async with linked(journal, ("db", "cache")) as bench:
        client, _ = await bench.connect()
        await bench.links.put("slow#1", {"db": Latency(delay=0.2)})
        await bench.links.put("no#1", {"cache": Refuse()})
        (pid,) = remains.processes(bench.run)
        os.kill(pid, signal.SIGKILL)
        assert await threaded(over, client)
        # Who connects meanwhile waits for the new process; who asks it does so too.
        assert await threaded(ask, *await bench.connect("db")) >= 0.4
        with pytest.raises(ConnectionRefusedError):
            await threaded(bench.dial, "cache")
        await bench.links.take("slow#1")
        await bench.links.take("no#1")
        await threaded(ask, *await bench.connect("cache"))
        await journal.call(lambda: None)
        first, again = events(journal, LinksOpened)
        assert first.episodes == ()
        assert set(again.episodes) == {"slow#1", "no#1"}
        (crash,) = events(journal, TaskCrashed)
        assert crash.task == "links"
        assert not crash.gave_up
    assert not list(remains.processes(bench.run))


async def test_what_is_undone_while_there_is_no_process_stays_undone(journal: JournalWriter) -> None:
    async with linked(journal) as bench:
        await bench.links.put("no#1", {"db": Refuse()})
        (pid,) = remains.processes(bench.run)
        os.kill(pid, signal.SIGKILL)
        await bench.links.take("no#1")
        await bench.links.connections()
        await threaded(ask, *await bench.connect())


async def test_a_process_that_does_not_answer_is_replaced(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(journal) as bench:
        (pid,) = remains.processes(bench.run)
        os.kill(pid, signal.SIGSTOP)
        with anyio.fail_after(PATIENCE):
            while not stopped(pid):  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.001)
        monkeypatch.setattr(control, "ANSWER", 2.0)
        await bench.links.put("hole#1", {"db": Blackhole()})
        await bench.links.take("hole#1")
        await bench.links.connections()
        await threaded(ask, *await bench.connect())
        assert pid not in remains.processes(bench.run)


async def test_it_survives_the_signals_of_its_group_and_a_port_in_use_is_said(journal: JournalWriter) -> None:
    async with linked(journal) as bench:
        (pid,) = remains.processes(bench.run)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        await threaded(ask, *await bench.connect())
        port = bench.links.addresses["db"].port
        other = {"other": Link(listen=f"127.0.0.1:{port}", to="127.0.0.1:1")}
        with pytest.raises(LinkError, match=rf"links.other: cannot listen on 127.0.0.1:{port}: .*in use"):
            control.Links(other, "test", journal, iter(()))


async def test_without_its_daemon_it_is_a_plain_relay_until_it_is_ended(journal: JournalWriter) -> None:
    async with linked(journal, ("db", "cache")) as bench:
        client, end = await bench.connect()
        await bench.links.put("hole#1", {"db": Blackhole()})
        await bench.links.put("no#1", {"cache": Refuse()})
        client.sendall(b"held")
        (pid,) = remains.processes(bench.run)
        assert name(pid) == "soakd-links"
        assert bench.links._channel is not None
        bench.links._channel.shutdown(2)  # as the daemon's death does
        assert await threaded(end.recv, 4) == b"held"
        with anyio.fail_after(PATIENCE):
            await remains.Remains(bench.run).take("hole#1")
        assert name(pid) == "soakd-plain"
        await threaded(ask, client, end)
        await threaded(ask, *await bench.connect("cache"))
        assert (
            await threaded(remains.end, bench.run) >= 1
        )  # on a busy machine its daemon has begun another one
        assert pid not in remains.processes(bench.run)


async def test_what_is_left_and_does_not_become_plain_is_ended(
    journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remains, "PATIENCE", 0.5)
    async with linked(journal) as bench:
        (pid,) = remains.processes(bench.run)
        await remains.Remains(bench.run).take("hole#1")
        assert pid not in remains.processes(bench.run)
