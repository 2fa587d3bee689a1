"""What holds for the verdict of any run, and that it is the same from a journal on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from judge_story import Story, long_night, patient, piece
from judged_stories import BLIND, LAG, begun, passing

from supervisor.journal.events import (
    EndReason,
    Event,
    JournalTrouble,
    LoadWindow,
    Observation,
    ProbeChanged,
    Record,
    Slice,
    SteadyChanged,
    UnitGivenUp,
    VerdictReached,
)
from supervisor.journal.fold import fold_windows
from supervisor.journal.replay import replay
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.judge.evaluation import Verdict
from supervisor.judge.verdict import Judgement, judge

MARKS = st.lists(st.sampled_from(["a#1:direct", "a#1:during", "b#2:recovering"]), max_size=2, unique=True)
COUNTS = st.integers(0, 30)


@st.composite
def slices(draw: st.DrawFn) -> Slice:
    failed, indeterminate = draw(COUNTS), draw(COUNTS)
    return piece(
        *sorted(draw(MARKS)),
        ok=draw(COUNTS),
        failed=failed,
        indeterminate=indeterminate,
        took=draw(st.floats(0, 10)),
        error=draw(st.sampled_from(["timeout", "refused"])),
        first_failure=draw(st.floats(5000, 6000)) if failed + indeterminate else None,
    )


@st.composite
def windows(draw: st.DrawFn) -> LoadWindow:
    pieces = {one.episodes: one for one in draw(st.lists(slices(), max_size=3))}
    count = sum(one.ok + one.failed + one.indeterminate for one in pieces.values())
    dropped = draw(COUNTS)
    return LoadWindow(
        load=draw(st.sampled_from(["rpc", "e2e"])),
        start=0,
        end=10,
        scheduled=count + dropped,
        started=count,
        late=draw(COUNTS),
        dropped=dropped,
        slices=tuple(pieces.values()),
        counters=draw(st.dictionaries(st.sampled_from(["lost", "skipped"]), COUNTS)),
    )


OTHERS: list[Event] = [
    JournalTrouble(what="dropped", detail="x"),
    SteadyChanged(holds=False),
    SteadyChanged(holds=True),
    Observation(values={LAG: 2.0}),
    UnitGivenUp(unit="worker", crashes=1, intensity="1 / 1m"),
    ProbeChanged(reading=BLIND),
]
THRESHOLDS = (
    "ok >= 50%",
    "load rpc: p90 < 1s",
    "unexplained failures <= 10",
    "lost == 0",
    "failures < 30%",
    "late < 10",
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    story = begun(loads=("rpc", "e2e"), faults=("a",), thresholds=THRESHOLDS)
    story.episode("a", recovered=draw(st.sampled_from([True, True, False, None])))
    for event in draw(st.lists(windows() | st.sampled_from(OTHERS), max_size=12)):
        story.wait(1).tell(event)
    return story.end(draw(st.sampled_from([EndReason.DURATION, EndReason.SIGNAL])))


def outcome(judgement: Judgement) -> tuple[object, ...]:
    return judgement.verdict, judgement.findings, judgement.thresholds


@patient
@given(stories())
def test_judging_again_gives_the_same(story: Story) -> None:
    first, second = judge(story.records), judge(iter(story.records))

    assert outcome(first) == outcome(second)
    assert first.tally == second.tally


@patient
@given(stories(), st.data())
def test_earlier_verdicts_in_the_journal_do_not_matter(story: Story, data: st.DataObject) -> None:
    told: list[Record] = []
    for record in story.records:
        told.append(record)
        if data.draw(st.booleans()):
            verdict = data.draw(st.sampled_from(["pass", "inconclusive", "fail"]))
            told.append(
                Record(0, record.wall, record.mono, VerdictReached(verdict=verdict, reasons=("said",)))
            )

    assert outcome(judge(told)) == outcome(judge(story.records))


@patient
@given(stories(), st.data())
def test_folding_adjacent_windows_does_not_change_the_verdict(story: Story, data: st.DataObject) -> None:
    folded = list(_folded(story.records, lambda: data.draw(st.booleans())))

    assert outcome(judge(folded)) == outcome(judge(story.records))


def _folded(records: Iterable[Record], fold: Callable[[], bool]) -> Iterator[Record]:
    """Merge some windows into the window of the same load right before them, as the journal does above its byte budget."""
    last: Record | None = None
    for record in records:
        if not isinstance(record.event, LoadWindow):
            if last:
                yield last
            last = None
            yield record
            continue
        if last and isinstance(last.event, LoadWindow) and last.event.load == record.event.load and fold():
            last = Record(
                record.sequence, record.wall, record.mono, *fold_windows([last.event, record.event])
            )
            continue
        if last:
            yield last
        last = record
    if last:
        yield last


# --- a real journal ---------------------------------------------------------------------------------------------------


async def test_the_verdict_of_a_replayed_journal_is_the_live_one(tmp_path: Path) -> None:
    live: list[Record] = []
    async with open_journal(tmp_path / "run") as journal:
        journal.subscribe(live.append)
        await _tell(journal, passing().end())

    from_disk = judge(replay(tmp_path / "run"))

    assert outcome(from_disk) == outcome(judge(live))
    assert from_disk.tally == judge(live).tally
    assert from_disk.tally.episodes.listed()[0].outcome == "recovered"


async def test_a_torn_journal_is_inconclusive(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "run") as journal:
        await _tell(journal, passing().end())
    (segment,) = (tmp_path / "run").glob("journal-*.jsonl")
    segment.write_bytes(segment.read_bytes()[:-20])

    rules = {finding.rule for finding in judge(replay(tmp_path / "run")).findings}

    assert "journal-trouble" in rules


async def _tell(journal: JournalWriter, story: Story) -> None:
    for record in story.records[:-1]:
        journal.emit(record.event)
    await journal.commit(story.records[-1].event)


@patient
@given(st.lists(st.sampled_from(long_night().records), max_size=60))
def test_any_records_in_any_order_get_a_verdict(records: list[Record]) -> None:
    assert judge(records).verdict in Verdict
