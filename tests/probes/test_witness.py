from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from probe_bench import PATIENCE

from supervisor.engines.selectors import Selector
from supervisor.journal.events import EpisodeClosed, Evidence, FaultInjected, FaultIntent, Record
from supervisor.journal.writer import JournalWriter
from supervisor.probes.base import View
from supervisor.probes.steady import SteadyState
from supervisor.probes.units import Unit, UnitLook
from supervisor.probes.witness import Witness

Watch = Callable[..., AbstractAsyncContextManager[View]]
IDLE: dict[str, Any] = {"command": ["sleep", "600"]}


async def test_each_episode_has_a_before_a_during_and_a_recovered(
    watching: Watch, journal: JournalWriter
) -> None:
    seen: list[Evidence] = []
    told: list[anyio.Event] = [anyio.Event() for _ in range(3)]

    def follow(record: Record) -> None:
        if isinstance(record.event, Evidence):
            told[len(seen)].set()
            seen.append(record.event)

    async with watching(n1=IDLE) as view, anyio.create_task_group() as group:
        steady = SteadyState([Unit(unit=UnitLook(unit=Selector(of=("n1",))))], view, journal)
        assert (await steady.wait(PATIENCE))[0]
        witness = Witness(steady, journal)
        journal.subscribe(witness.apply)
        journal.subscribe(follow)
        group.start_soon(witness.run)
        await journal.commit(FaultIntent(episode="f#1", fault="f", type="stop", n=1))
        await view.fleet.stop("n1", by="f#1")
        await journal.commit(FaultInjected(episode="f#1", took=0.1))
        with anyio.fail_after(PATIENCE):
            await told[1].wait()
        await view.fleet.start("n1", by="f#1")
        assert (await steady.wait(PATIENCE))[0]
        await journal.commit(EpisodeClosed(episode="f#1", recovered=True, recovery=0.1))
        with anyio.fail_after(PATIENCE):
            await told[2].wait()
        group.cancel_scope.cancel()
    assert [(one.when, [reading.ok for reading in one.readings]) for one in seen] == [
        ("before", [True]),
        ("during", [False]),
        ("recovered", [True]),
    ]


async def test_a_close_that_nobody_could_see_has_no_recovered(
    watching: Watch, journal: JournalWriter
) -> None:
    seen: list[Record] = []
    async with watching(n1=IDLE) as view:
        steady = SteadyState([], view, journal)
        journal.subscribe(Witness(steady, journal).apply)
        journal.subscribe(seen.append)
        await journal.commit(EpisodeClosed(episode="f#1", recovered=None))
        await journal.commit(EpisodeClosed(episode="f#2", recovered=None))
    assert not [record for record in seen if isinstance(record.event, Evidence)]
