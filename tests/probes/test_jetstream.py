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
JETSTREAM = f'{SERVER} -js -sd "$SOAKD_UNIT_DIR/store"'
LISTENS = re.compile(rb"Listening for client connections on 127\.0\.0\.1:(\d+)")


@asynccontextmanager
async def connected(view: View, journal: JournalWriter, *more: str) -> AsyncIterator[View]:
    """Connect to the server that the unit `nats` is; `more` are servers that the soak file names as well."""
    with anyio.fail_after(PATIENCE):
        while not (port := LISTENS.search(await view.fleet.logs("nats"))):  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)
    broker = Broker.model_validate({"servers": [f"127.0.0.1:{int(port[1])}", *more]})
    async with open_connections(broker, journal) as connections:
        await (await connections.handle()).wait_connected(PATIENCE)
        yield replace(view, connections=connections)


async def test_healthy(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=JETSTREAM) as units, connected(units, journal) as view:
        reading = await look(view, jetstream="healthy")
        assert (reading.ok, reading.value, reading.detail) == (True, "healthy", "")
        assert reading.probe == "jetstream healthy"


async def test_jetstream_off_says_why(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=SERVER) as units, connected(units, journal) as view:
        reading = await look(view, jetstream={"state": "working"})
        assert (reading.ok, reading.value, reading.probe) == (False, "unhealthy", "jetstream working")
        assert "JetStream is off" in reading.detail
        assert "no responders" in reading.detail


async def test_a_missing_server_is_not_healthy_but_works(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=JETSTREAM) as units, connected(units, journal, "127.0.0.1:1") as view:
        reading = await look(view, jetstream="healthy")
        assert (reading.ok, reading.value) == (False, "degraded")
        assert reading.detail == "127.0.0.1:1 is gone: refuses connections"
        assert (await look(view, jetstream="working")).ok


async def test_a_frozen_server_is_seen_in_time(watching: Watch, journal: JournalWriter) -> None:
    async with watching(nats=JETSTREAM) as units, connected(units, journal) as view:
        await view.fleet.pause("nats", by="test")
        wanted = {"state": "healthy", "timeout": "300ms"}
        reading = await look(view, jetstream=wanted)
        assert (reading.ok, reading.value) == (False, "unhealthy")
        assert reading.took < probe(jetstream=wanted).deadline
        await view.fleet.kill("nats", by="test", signal=9)


async def test_no_broker_is_never_ok(view: View) -> None:
    reading = await look(view, jetstream="working")
    assert (reading.ok, reading.detail) == (False, "there is no broker section in the soak file")


def test_bad_entries() -> None:
    with pytest.raises(ValidationError, match="'healthy' or 'working'"):
        probe(jetstream="good")
    with pytest.raises(ValidationError, match="more than 0s"):
        probe(jetstream={"timeout": "0s"})
