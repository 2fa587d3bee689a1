from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from probe_bench import PATIENCE, Watch, look, probe
from pydantic import ValidationError

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.journal.writer import JournalWriter
from supervisor.probes.base import View

SERVER = f"exec {Path(sys.executable).with_name('nats-server')} -a 127.0.0.1 -p -1"
LISTENS = re.compile(rb"Listening for client connections on 127\.0\.0\.1:(\d+)")


@asynccontextmanager
async def connected(view: View, journal: JournalWriter) -> AsyncIterator[View]:
    """Connect to the server that the unit `nats` is."""
    with anyio.fail_after(PATIENCE):
        while not (port := LISTENS.search(await view.fleet.logs("nats"))):  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)
    broker = Broker.model_validate({"servers": [f"127.0.0.1:{int(port[1])}"]})
    async with open_connections(broker, journal) as connections:
        await (await connections.handle()).wait_connected(PATIENCE)
        yield replace(view, connections=connections)


async def test_the_canary_is_answered(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=SERVER) as units, connected(units, journal) as view:
        reading = await look(view, broker="canary")
        assert (reading.ok, reading.probe) == (True, "broker canary < 1s")
        assert isinstance(reading.value, float)
        assert 0 < reading.value < 1


async def test_a_dead_or_frozen_server_does_not_answer(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=SERVER) as units, connected(units, journal) as view:
        await view.fleet.pause("nats", by="test")
        with anyio.fail_after(PATIENCE):
            while (reading := await look(view, broker={"canary": "200ms"})).ok:
                pass  # the threads of a process do not all stop at once
        assert (reading.value, reading.probe) == (None, "broker canary < 200ms")
        assert reading.detail
        await view.fleet.kill("nats", by="test", signal=9)
        assert not (await look(view, broker={"canary": "200ms"})).ok


async def test_an_unknown_connection_and_no_broker_are_never_ok(
    watching: Watch, journal: JournalWriter, view: View
) -> None:
    async with watching(nats=SERVER) as units, connected(units, journal) as seen:
        reading = await look(seen, broker={"connection": "system"})
        assert (reading.ok, "system" in reading.detail) == (False, True)
        assert reading.probe == "broker canary of system < 1s"
    assert (await look(view, broker="canary")).detail == "there is no broker section in the soak file"


def test_bad_entries() -> None:
    with pytest.raises(ValidationError, match="expected canary, or"):
        probe(broker="up")
    with pytest.raises(ValidationError, match="more than 0s"):
        probe(broker={"canary": "0s"})
