"""`expect:`, from the soak file to the journal: what probes shall see before, during and after an episode of one fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scripted_fault import PATIENCE, Open, Stage

from supervisor.faults.base import Fault
from supervisor.journal.events import DrawSkipped, EpisodeClosed, Evidence, FaultIntent
from supervisor.probes.base import View
from supervisor.probes.expectations import Expectations
from supervisor.soak import Soak

IDLE = "exec sleep 1000"
UP: dict[str, Any] = {"unit": "n1"}
NEVER: dict[str, Any] = {"command": "false"}
ALWAYS: dict[str, Any] = {"command": "true"}


def soak(**fault: Any) -> Soak:
    units = {"n1": {"command": ["sh", "-c", IDLE]}}
    faults = {"a": {"every": "0s", "times": 1, **fault}}
    return Soak.model_validate(
        {"soak": "x", "engines": {"l": {"process": {"units": units}}}, "faults": faults}
    )


async def live(stage: Stage, opened: Open, tmp_path: Path, **fault: Any) -> None:
    """Live the fault's one draw."""
    written = soak(**fault)
    one: Fault = written.faults["a"]
    async with opened(n1=IDLE) as fleet, aiohttp.ClientSession() as http:
        view = View(base=tmp_path, http=http, fleet=fleet)
        stage.expectations = Expectations(written.expected(), view, stage.journal)
        async with stage.running(finish=PATIENCE, a=one):
            await stage.watch.until(
                DrawSkipped if fault["expect"].get("before") == [NEVER] else EpisodeClosed
            )


async def test_what_is_expected_is_seen_and_written_down(stage: Stage, opened: Open, tmp_path: Path) -> None:
    await live(
        stage,
        opened,
        tmp_path,
        stop="n1",
        hold="300ms",
        expect={"before": [UP], "during": [ALWAYS], "recovered": [UP]},
    )
    closed = stage.watch.all(EpisodeClosed)[0]
    assert (closed.recovered, closed.unmet, closed.failing) == (True, (), ())
    seen = [(e.when, [r.ok for r in e.readings]) for e in stage.watch.all(Evidence)]
    assert seen == [("before", [True]), ("during", [True]), ("recovered", [True])]
    order = [event.kind for event in stage.watch.events]
    assert order.index("probe.evidence") < order.index("fault.intent")


async def test_what_is_not_so_before_skips_the_draw(stage: Stage, opened: Open, tmp_path: Path) -> None:
    await live(stage, opened, tmp_path, restart="n1", expect={"before": [NEVER]})
    skipped = stage.watch.all(DrawSkipped)[0]
    assert skipped.reason == "expected before it, and not seen: command false == 0"
    assert not stage.watch.all(FaultIntent)


@pytest.mark.parametrize(("fault", "hold"), [("stop", "200ms"), ("restart", None)])
async def test_what_is_not_seen_during_it_is_said(
    stage: Stage, opened: Open, tmp_path: Path, fault: str, hold: str | None
) -> None:
    keys = {"hold": hold} if hold else {}
    await live(stage, opened, tmp_path, **{fault: "n1"}, **keys, expect={"during": [NEVER, ALWAYS]})
    closed = stage.watch.all(EpisodeClosed)[0]
    assert closed.unmet == ("command false == 0",)
    assert closed.recovered


async def test_what_takes_its_time_may(stage: Stage, opened: Open, tmp_path: Path) -> None:
    later = {"command": ["sh", "-c", "test -e seen || { touch seen; exit 1; }"], "within": "5s"}
    await live(stage, opened, tmp_path, stop="n1", hold="2s", expect={"during": [later]})
    assert stage.watch.all(EpisodeClosed)[0].unmet == ()


async def test_an_episode_has_not_recovered_until_it_is_as_expected(
    stage: Stage, opened: Open, tmp_path: Path
) -> None:
    once = {"command": ["sh", "-c", "test -e seen || { touch seen; exit 1; }"]}
    await live(stage, opened, tmp_path, restart="n1", expect={"recovered": [once]})
    assert stage.watch.all(EpisodeClosed)[0].recovered is True
    assert (tmp_path / "seen").exists()


async def test_what_never_comes_back_is_not_recovered(stage: Stage, opened: Open, tmp_path: Path) -> None:
    await live(stage, opened, tmp_path, restart="n1", recovery_timeout="300ms", expect={"recovered": [NEVER]})
    closed = stage.watch.all(EpisodeClosed)[0]
    assert (closed.recovered, closed.failing) == (False, ("command false == 0",))
