from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from probe_bench import PATIENCE, Watch, look, probe
from pydantic import ValidationError

from supervisor.engines.base import UnitState
from supervisor.engines.fleet import Desired
from supervisor.journal.events import UnitReady
from supervisor.journal.writer import JournalWriter
from supervisor.probes import units
from supervisor.probes.base import View

IDLE = "exec sleep 1000"


async def test_units_are_up(watching: Watch) -> None:
    async with watching(n1=IDLE, n2=IDLE) as view:
        assert (await look(view, unit="n1")).ok
        reading = await look(view, unit=["n1", "n2"])
        assert (reading.ok, reading.value, reading.probe) == (True, 2, "unit n1, n2 up")
        reading = await look(view, unit={"unit": "n1", "up": False})
        assert (reading.ok, reading.detail, reading.probe) == (False, "n1 is up", "unit n1 down")


async def test_units_that_are_down_are_named_with_their_holder(watching: Watch) -> None:
    async with watching(n1=IDLE, n2=IDLE, n3=IDLE) as view:
        await view.fleet.hold("n2", by="stop-nats#3", desired=Desired.DOWN)
        await view.fleet.stop("n2", by="stop-nats#3")
        await view.fleet.kill("n3", by="run", signal=9)
        with anyio.fail_after(PATIENCE):
            while view.fleet.status("n3").observed.state is UnitState.UP:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(0.01)
        reading = await look(view, unit=["n1", "n2", "n3"])
        assert (reading.ok, reading.value) == (False, 1)
        assert reading.detail == "n2 is down, held down by stop-nats#3; n3 is down"
        assert (await look(view, unit={"unit": ["n2", "n3"], "up": False})).ok


async def test_a_unit_that_runs_is_not_up_before_it_is_ready(
    watching: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "PATIENCE", 0.1)
    script = "while ! test -e go; do sleep 0.01; done; rm go; echo ready; exec sleep 1000"
    unit = {"command": ["sh", "-c", script], "ready": {"log": "^ready"}}
    (tmp_path / "go").touch()
    async with watching(n1=unit) as view:
        assert (await look(view, unit="n1")).ok
        await view.fleet.stop("n1", by="a#1")
        await view.fleet.start("n1", by="a#1")
        reading = await look(view, unit="n1")
        assert (reading.ok, reading.detail) == (False, "n1 is not ready")
        assert not (await look(view, unit={"unit": "n1", "up": False})).ok
        (tmp_path / "go").touch()
        with anyio.fail_after(PATIENCE):
            while not (await look(view, unit="n1")).ok:
                pass


async def test_readiness_is_asked_for_once_in_a_life(watching: Watch, journal: JournalWriter) -> None:
    seen: list[str] = []
    async with watching(n1=IDLE) as view:
        await journal.commit(UnitReady(unit="this is the test", incarnation="", took=0))
        journal.subscribe(lambda record: seen.append(record.event.kind))
        for _ in range(3):
            assert (await look(view, unit="n1")).ok
        await journal.commit(UnitReady(unit="this is the test", incarnation="", took=0))
    assert seen.count("unit.ready") == 1, "the life whose readiness is on record already is not told of again"


async def test_restarts(watching: Watch) -> None:
    async with watching(n1=IDLE, n2=IDLE) as view:
        entry = {"unit": ["n1", "n2"], "restarts": "<= 3"}
        reading = await look(view, unit=entry)
        assert (reading.ok, reading.detail) == (False, "restarts are not counted outside a run")
        counted = replace(view, restarts={"n1": 3, "n2": 4}.__getitem__)
        reading = await look(counted, unit=entry)
        assert (reading.ok, reading.value, reading.detail) == (False, 4, "n2 was restarted 4 times")
        assert (await look(counted, unit={"unit": "n1", "restarts": "<= 3"})).ok
        assert reading.probe == "unit n1, n2 up, restarts <= 3"


async def test_an_unknown_unit_is_never_ok(view: View) -> None:
    assert "cannot find the unit nats9" in (await look(view, unit="nats9")).detail
    assert not (await look(view, unit={"unit": "nats9", "up": False})).ok


def test_bad_entries() -> None:
    with pytest.raises(ValidationError, match=r"unit\.restarts\n.*expected a comparison"):
        probe(unit={"unit": "n1", "restarts": "few"})
    with pytest.raises(ValidationError, match=r"unit\.unit\n.*Field required"):
        probe(unit={"up": True})
