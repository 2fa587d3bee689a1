"""`soakd watch` of a broker alone that has many streams; ten thousand of them: `scripts/bench/monitor`."""

from __future__ import annotations

import re

import pytest
from watch_terminal import WHO, Watch

from supervisor.broker.api import call, each
from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.journal.events import Event

STREAMS = 1_000
LONG = 90.0
"""Seconds that a busy machine may take to show so many."""


class Unheard:
    """Nobody reads what connections report."""

    def emit(self, event: Event) -> None:
        pass


@pytest.mark.timeout(180)
async def test_many_streams_by_change_at_80_columns_and_without_flicker(server: str, watch: Watch) -> None:
    broker = Broker.model_validate({"servers": server, "user": "admin", "password": "secret"})
    names = [f"stream-{n:05}" for n in range(STREAMS)]
    async with open_connections(broker, Unheard()) as connections:
        handle = await connections.handle()

        async def create(name: str) -> None:
            config = {"name": name, "subjects": [name], "storage": "memory"}
            await call(handle, f"STREAM.CREATE.{name}", config, deadline=LONG)

        await each(names, create)
        terminal = watch(server, env=WHO)
        await terminal.shows("soakd watch  ", LONG)  # at once, whatever is known by then
        await terminal.shows(f"streams {STREAMS:,}  ", LONG)
        await terminal.shows(lambda text: "HEALTHY" in text and "not everything" not in text, LONG)
        for name in (names[STREAMS // 2], names[-1], names[0]):
            await handle.request(name, b"one message", timeout=10)
            top = re.compile(rf"^stream .*\n{name} +1 .* [0-9]+s$", re.MULTILINE)
            await terminal.shows(top.search, LONG)
        await terminal.shows(
            re.compile(rf"^{names[0]} .*\n{names[-1]} .*\n{names[STREAMS // 2]} ", re.MULTILINE).search
        )
        assert max(map(len, terminal.text.splitlines())) <= 80
        await call(handle, f"STREAM.DELETE.{names[7]}")
        await terminal.shows(re.compile(rf"^stream .*\n{names[7]} .*deleted$", re.MULTILINE).search, LONG)
        await terminal.shows(f"streams {STREAMS - 1:,}  ")
        terminal.press("ss\x1b[F")  # by messages, and to the end
        await terminal.shows("by messages")
        await terminal.shows(re.compile(rf"^stream .* of {STREAMS - 1:,} ", re.MULTILINE).search)
    frames = terminal.sent.split("\x1b[?2026h")[1:]
    assert "\x1b[2J" in frames[0]
    assert len(frames) > 3
    assert not [frame for frame in frames[1:] if "\x1b[2J" in frame], "it is drawn whole once"
    terminal.press("q")
    assert terminal.ends() == 0
