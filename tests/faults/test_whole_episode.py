"""An episode among its real neighbours: a broker that is a unit, the default steady state, the timeline."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import aiohttp
import anyio
import pytest
from scripted_fault import PATIENCE, Watch, to_its_end

from supervisor.broker.connection import open_connections
from supervisor.broker.options import Broker
from supervisor.engines.base import EngineContext
from supervisor.engines.fleet import Fleet
from supervisor.engines.process import ProcessEngine
from supervisor.faults.base import World
from supervisor.faults.restart import Restart
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.events import EpisodeClosed, Record
from supervisor.journal.timeline import Timeline
from supervisor.journal.writer import JournalWriter
from supervisor.probes.base import View
from supervisor.probes.steady import SteadyState, default_probes

SERVER = Path(sys.executable).with_name("nats-server")


@pytest.fixture
def port(free_tcp_port: int) -> int:
    return free_tcp_port


async def test_a_broker_that_is_restarted_recovers_when_it_answers_again(
    journal: JournalWriter, watch: Watch, tmp_path: Path, port: int
) -> None:
    node = {
        "command": [str(SERVER), "-a", "127.0.0.1", "-p", str(port)],
        "ready": {"port": port},
        "stop_timeout": "5s",
    }
    engine = ProcessEngine.model_validate({"process": {"units": {"nats1": node}}})
    broker = Broker.model_validate({"servers": [f"127.0.0.1:{port}"]})
    fault = Restart.model_validate({"restart": "nats1", "every": "100ms", "times": 2})
    timeline, marks = Timeline(), list[tuple[str, ...]]()
    journal.subscribe(timeline.apply)
    timeline.subscribe(lambda: marks.append(timeline.marks()))
    async with (
        engine.open(
            EngineContext("local", f"test-{uuid.uuid4().hex}", journal.run_dir, tmp_path, journal)
        ) as local,
        aiohttp.ClientSession() as http,
        anyio.create_task_group() as group,
    ):
        fleet = Fleet(journal, {"local": local}, {"nats1": ("local", "nats1")})
        group.start_soon(fleet.run)
        await fleet.start_all()
        async with open_connections(broker, journal) as connections:
            await (await connections.handle()).wait_connected(PATIENCE)
            view = View(base=tmp_path, http=http, fleet=fleet, connections=connections)
            steady = SteadyState(default_probes(fleet.ids, broker=True), view, journal)
            assert await steady.wait(PATIENCE) == (True, ())
            scheduler = Scheduler(
                {"restart-nats": fault}, World(fleet, connections), journal, steady, 7, 0.0, lambda: True
            )
            assert await to_its_end(scheduler, PATIENCE) == ()
        group.cancel_scope.cancel()
    closed: list[Record] = [record for record in watch.records if isinstance(record.event, EpisodeClosed)]
    assert [(e.episode, e.recovered, e.truncated) for e in watch.all(EpisodeClosed)] == [
        ("restart-nats#1", True, ""),
        ("restart-nats#2", True, ""),
    ]
    assert all(0 < (event.recovery or 0) < PATIENCE for event in watch.all(EpisodeClosed))
    stages = ["direct", "during", "recovering"]
    expected = [(f"restart-nats#{n}:{stage}",) for n in (1, 2) for stage in stages]
    assert [mark for mark in marks if mark] == expected
    assert timeline.overlapping(closed[0].mono, closed[0].mono) == ()
