from __future__ import annotations

from pathlib import Path

from supervisor.journal.events import FaultIntent, Record, UnitReady
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter, open_journal


async def test_what_is_emitted_and_committed_is_replayed_as_listeners_heard_it(tmp_path: Path) -> None:
    heard: list[Record] = []
    async with open_journal(tmp_path) as journal:
        journal.subscribe(heard.append)
        for n in range(100):
            journal.emit(UnitReady(unit="a", incarnation="1", took=n))
        committed = await journal.commit(FaultIntent(episode="f#1", fault="f", type="restart", n=1))
        assert heard[-1] == committed
        journal.emit(UnitReady(unit="b", incarnation="1", took=0))
    assert [record.sequence for record in heard] == list(range(1, 103))
    assert list(replay(tmp_path)) == heard


async def test_a_commit_returns_only_after_listeners_heard_it(journal: JournalWriter) -> None:
    heard: list[Record] = []
    journal.subscribe(heard.append)
    record = await journal.commit(FaultIntent(episode="f#1", fault="f", type="restart", n=1))
    assert heard == [record]
