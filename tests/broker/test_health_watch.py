"""The watch tells the journal of changes, and only of changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from health_states import ACCOUNTS, solo
from nats_servers import until

from supervisor.broker.health.watch import HealthWatch
from supervisor.journal.events import HealthChanged, Record
from supervisor.journal.writer import JournalWriter
from supervisor.telemetry.narrate import line


@pytest.fixture
def told(journal: JournalWriter) -> Iterator[list[HealthChanged]]:
    seen: list[HealthChanged] = []

    def note(record: Record) -> None:
        if isinstance(record.event, HealthChanged):
            seen.append(record.event)

    unsubscribe = journal.subscribe(note)
    yield seen
    unsubscribe()


@pytest.mark.usefixtures("nothing_leaks")
async def test_changes_are_journalled_once(
    tmp_path: Path, journal: JournalWriter, told: list[HealthChanged]
) -> None:
    async with solo(tmp_path / "nats", ACCOUNTS) as cluster, anyio.create_task_group() as group:
        await cluster.well()
        watch = HealthWatch(cluster.connections, cluster.http, journal, every=0.05)
        group.start_soon(watch.run)
        await until(lambda: told)
        assert (told[0].state, told[0].before, told[0].findings) == ("healthy", "", ())
        looks = []
        while len(looks) < 3:  # nothing changes, nothing is told
            if watch.last not in looks:
                looks.append(watch.last)
            await anyio.sleep(0.01)
        assert len(told) == 1
        await cluster.servers[0].kill()
        await until(
            lambda: told[-1].reason == "no server can be used"
        )  # a look may be under way at its death
        assert (told[1].before, told[-1].state) == ("healthy", "unhealthy")
        assert any("refuses connections" in finding for finding in told[-1].findings)
        await cluster.servers[0].start()
        await until(lambda: told[-1].state == "healthy")
        assert [(one.before, one.state) for one in told[1:]] == [
            (before.state, after.state) for before, after in pairwise(told)
        ]
        group.cancel_scope.cancel()


def test_it_is_worth_a_line() -> None:
    event = HealthChanged(state="unhealthy", before="healthy", reason="quorum is lost")
    assert line(event) == (
        "error",
        "the broker is unhealthy",
        {"reason": "quorum is lost", "before": "healthy"},
    )
