"""The timeline against a naive model that keeps everything and looks at every instant."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journal.events import (
    EpisodeClosed,
    Event,
    FaultFailed,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    Record,
    UndoFailed,
    UnitReady,
)
from supervisor.journal.timeline import KEPT, Timeline

IDS = ["a#1", "a#2", "b#1"]


def intent(episode: str) -> FaultIntent:
    fault, _, n = episode.partition("#")
    return FaultIntent(episode=episode, fault=fault, type="restart", n=int(n))


def closed(episode: str, *, recovered: bool = True) -> EpisodeClosed:
    return EpisodeClosed(episode=episode, recovered=recovered)


def fold(*events: tuple[float, Event]) -> Timeline:
    timeline = Timeline()
    for sequence, (mono, event) in enumerate(events, 1):
        timeline.apply(Record(sequence, 0.0, mono, event))
    return timeline


FULL = (
    (10.0, intent("a#1")),
    (12.0, FaultInjected(episode="a#1", took=2.0)),
    (20.0, FaultUndone(episode="a#1")),
    (30.0, closed("a#1")),
)


def test_an_episode_goes_through_its_stages() -> None:
    seen = [fold(*FULL[:n]).marks() for n in range(5)]
    assert seen == [(), ("a#1:direct",), ("a#1:during",), ("a#1:recovering",), ()]
    assert [fold(*FULL[:n]).open_episodes() for n in (0, 1, 3, 4)] == [(), ("a#1",), ("a#1",), ()]


def test_an_operation_counts_for_the_earliest_stage_it_overlaps() -> None:
    timeline = fold(*FULL)
    marks = {
        (1.0, 9.9): (),
        (1.0, 10.0): ("a#1:direct",),
        (1.0, 99.0): ("a#1:direct",),
        (11.9, 25.0): ("a#1:direct",),
        (12.0, 25.0): ("a#1:during",),
        (20.0, 20.0): ("a#1:recovering",),
        (29.9, 99.0): ("a#1:recovering",),
        (30.0, 99.0): (),
    }
    assert {interval: timeline.overlapping(*interval) for interval in marks} == marks


def test_what_is_owed_stays_owed_until_undo_is_done() -> None:
    assert list(fold(*FULL[:2]).intents()) == ["a#1"]
    assert fold(*FULL[:3]).intents() == {}
    failed = fold(
        (1.0, intent("a#1")),
        (2.0, FaultFailed(episode="a#1", error="x")),
        (3.0, UndoFailed(episode="a#1", attempt=1, error="x", broken="y")),
        (4.0, closed("a#1", recovered=False)),
    )
    assert failed.intents() == {"a#1": intent("a#1")}
    assert failed.marks() == ()
    assert failed.overlapping(4.0, 99.0) == ()


def test_followers_hear_of_changes_only() -> None:
    timeline, heard = Timeline(), []
    unsubscribe = timeline.subscribe(lambda: heard.append(timeline.marks()))
    for mono, event in (*FULL[:2], FULL[1], (13.0, UnitReady(unit="u", incarnation="1", took=0)), *FULL[2:]):
        timeline.apply(Record(1, 0.0, mono, event))
    assert heard == [("a#1:direct",), ("a#1:during",), ("a#1:recovering",), ()]
    unsubscribe()
    timeline.apply(Record(1, 0.0, 40.0, intent("b#1")))
    assert len(heard) == 4


def test_memory_is_bounded() -> None:
    timeline = Timeline()
    for n in range(3 * KEPT):
        for mono, event in (
            (n, intent(f"a#{n}")),
            (n, FaultUndone(episode=f"a#{n}")),
            (n + 0.5, closed(f"a#{n}")),
        ):
            timeline.apply(Record(1, 0.0, mono, event))
    assert len(timeline._closed) == KEPT
    assert timeline.intents() == {}


# --- against the model -----------------------------------------------------------------------------------------------


@dataclass
class Stage:
    name: str
    begin: float
    end: float = float("inf")


def model(
    events: list[tuple[float, Event]], start: float, end: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the marks of now and those that overlap [start, end], from a list of all stages there ever were."""
    lives: list[tuple[str, list[Stage]]] = []
    for mono, event in events:
        episode = getattr(event, "episode", "")
        present = [stages for name, stages in lives if name == episode and stages[-1].end == float("inf")]
        if isinstance(event, FaultIntent) and not present:
            lives.append((episode, [Stage("direct", mono)]))
        elif present:
            stages = present[0]
            wanted = {FaultInjected: "during", FaultFailed: "during", FaultUndone: "recovering"}.get(
                type(event)
            )
            order = ["direct", "during", "recovering"]
            if isinstance(event, EpisodeClosed):
                stages[-1].end = mono
            elif wanted and order.index(wanted) > order.index(stages[-1].name):
                stages[-1].end = mono
                stages.append(Stage(wanted, mono))
    now = [f"{name}:{stages[-1].name}" for name, stages in lives if stages[-1].end == float("inf")]
    overlapping = []
    for name, stages in lives:
        hit = [stage for stage in stages if stage.begin <= end and start < stage.end]
        if hit:
            overlapping.append(f"{name}:{hit[0].name}")
    return tuple(sorted(now)), tuple(sorted(overlapping))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, Event]]:
    """Draw events in any order, sensible or not, but for an episode's second intent: ids are never used twice."""
    events: list[tuple[float, Event]] = []
    mono, begun = 0.0, set[str]()
    for _ in range(draw(st.integers(0, 20))):
        mono += draw(st.sampled_from([0.0, 1.0, 2.5]))
        episode = draw(st.sampled_from(IDS))
        events.append(
            (
                mono,
                draw(
                    st.sampled_from(
                        [
                            *([] if episode in begun else [intent(episode)] * 3),
                            FaultInjected(episode=episode, took=1.0),
                            FaultFailed(episode=episode, error="x"),
                            FaultUndone(episode=episode),
                            closed(episode),
                        ]
                    )
                ),
            )
        )
        if isinstance(events[-1][1], FaultIntent):
            begun.add(episode)
    return events


@given(events=histories(), start=st.integers(0, 60), length=st.integers(0, 30))
def test_the_timeline_agrees_with_the_model(
    events: list[tuple[float, Event]], start: int, length: int
) -> None:
    timeline = fold(*events)
    now, overlapping = model(events, start / 2, (start + length) / 2)
    assert timeline.marks() == now
    assert timeline.overlapping(start / 2, (start + length) / 2) == overlapping


async def test_who_has_not_heard_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline()
    leave = [
        timeline.follow(who, heard)
        for who, heard in (("a", anyio.lowlevel.checkpoint), ("b", anyio.sleep_forever))
    ]
    monkeypatch.setattr("supervisor.journal.timeline.HEARD", 0.05)
    assert await timeline.heard() == ("b",)
    leave[1]()
    monkeypatch.setattr("supervisor.journal.timeline.HEARD", 40)
    assert await timeline.heard() == ()
