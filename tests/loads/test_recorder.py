from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.histogram import Histogram
from supervisor.journal.events import (
    EpisodeClosed,
    Event,
    FaultInjected,
    FaultIntent,
    FaultUndone,
    LoadWindow,
    Record,
)
from supervisor.journal.timeline import Timeline
from supervisor.loads import window as caps
from supervisor.loads.recorder import Recorder


@dataclass
class World:
    """A recorder with a clock, a timeline and a sink that the test moves by hand."""

    now: float = 1000.0
    timeline: Timeline = field(default_factory=Timeline)
    windows: list[LoadWindow] = field(default_factory=list)
    operations: list[tuple[tuple[str, ...], dict[str, Any]]] = field(default_factory=list)
    episodes: list[list[Event]] = field(default_factory=list)
    """What is still to come of each open episode."""

    def __post_init__(self) -> None:
        self.recorder = Recorder("rpc", self, self.timeline, lambda: self.now)

    def emit(self, event: LoadWindow) -> None:
        self.windows.append(event)

    def apply(self, event: Event) -> None:
        self.timeline.apply(Record(1, 0.0, self.now, event))

    def open(self) -> None:
        episode = f"restart#{len(self.episodes) + 1}"
        self.apply(FaultIntent(episode=episode, fault="restart", type="restart", n=1))
        self.episodes.append(
            [
                FaultInjected(episode=episode, took=0.1),
                FaultUndone(episode=episode),
                EpisodeClosed(episode=episode, recovered=True),
            ]
        )

    def advance(self, index: int) -> None:
        if self.episodes and (rest := self.episodes[index % len(self.episodes)]):
            self.apply(rest.pop(0))

    def record(self, ago: float, wait: float, outcome: str, error: str) -> None:
        operation: dict[str, Any] = {
            "intended": self.now - ago,
            "start": self.now - ago * (1 - wait),
            "end": self.now,
            "outcome": outcome,
            "error": error if outcome != "ok" else "",
        }
        marks = self.timeline.overlapping(operation["intended"], operation["end"])
        self.operations.append((marks, operation))
        self.recorder.scheduled()
        self.recorder.started()
        self.recorder.record(**operation)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.floats(0.001, 5)),
        st.tuples(st.just("open")),
        st.tuples(st.just("advance"), st.integers(0, 40)),
        st.tuples(st.just("flush")),
        st.tuples(
            st.just("record"),
            st.floats(0, 8),
            st.sampled_from([0.0, 0.0, 0.5]),
            st.sampled_from(["ok", "ok", "failed", "indeterminate"]),
            st.sampled_from([f"error {n}" for n in range(30)]),
        ),
    ),
    max_size=120,
)


def play(script: list[tuple[Any, ...]]) -> World:
    world = World()
    for step, *arguments in script:
        if step == "tick":
            world.now += arguments[0]
        elif step == "flush":
            world.recorder.flush()
        else:
            getattr(world, step)(*arguments)
    world.recorder.close()
    return world


@settings(max_examples=150, deadline=None)
@given(steps)
def test_windows_add_up_to_one_naive_count(script: list[tuple[Any, ...]]) -> None:
    world = play(script)
    slices = [part for window in world.windows for part in window.slices]
    naive = Counter((marks, operation["outcome"]) for marks, operation in world.operations)
    counted: Counter[tuple[tuple[str, ...], str]] = Counter()
    response, service, errors = Histogram(), Histogram(), 0
    for part in slices:
        for outcome in ("ok", "failed", "indeterminate"):
            counted[part.episodes, outcome] += getattr(part, outcome)
        response.merge(Histogram.unpack(part.response))
        service.merge(Histogram.unpack(part.service or part.response))
        assert sum(part.errors.values()) == part.failed + part.indeterminate
        errors += sum(part.errors.values())
    assert not any("folded" in window.counters for window in world.windows)
    assert {key: n for key, n in counted.items() if n} == dict(naive)

    expected_response, expected_service = Histogram(), Histogram()
    for _, operation in world.operations:
        if operation["outcome"] == "ok":
            expected_response.record(operation["end"] - operation["intended"])
            expected_service.record(operation["end"] - operation["start"])
    assert response == expected_response
    assert service == expected_service
    assert response.total == pytest.approx(expected_response.total, abs=1e-4)
    assert errors == sum(operation["outcome"] != "ok" for _, operation in world.operations)
    assert sum(window.scheduled for window in world.windows) == len(world.operations)
    assert sum(window.started for window in world.windows) == len(world.operations)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_windows_follow_one_another_and_hold_the_ends_of_their_operations(
    script: list[tuple[Any, ...]],
) -> None:
    world = play(script)
    for before, after in zip(world.windows, world.windows[1:], strict=False):
        assert before.end <= after.start
    for window in world.windows:
        for part in window.slices:
            for first in (part.first_ok, part.first_failure):
                assert first is None or window.start <= first <= window.end
            assert (part.first_ok is None) == (part.ok == 0)
            assert (part.first_failure is None) == (part.failed + part.indeterminate == 0)


def test_an_operation_that_ended_before_the_window_widens_it() -> None:
    world = World()
    world.recorder.record(intended=1.0, start=1.0, end=2.0, outcome="ok")
    world.recorder.flush()
    (window,) = world.windows
    assert (window.start, window.end) == (2.0, 1000.0)


def test_further_error_classes_and_counters_are_counted_under_other() -> None:
    world = World()
    for n in range(100):
        world.recorder.record(
            intended=1, start=1, end=2, outcome="failed", error=f"class {n}", detail="x" * 9999
        )
        world.recorder.count(f"counter {n}", 2)
    world.recorder.flush()
    (window,) = world.windows
    (part,) = window.slices
    assert len(part.errors) == caps.ERROR_CLASSES + 1
    assert part.errors["other"] == 100 - caps.ERROR_CLASSES
    assert len(window.samples) == caps.SAMPLES
    assert all(len(sample.detail) == caps.DETAIL_LENGTH for sample in window.samples)
    assert sum(window.counters.values()) == 200
    assert len(window.counters) == caps.COUNTERS + 1


def test_samples_are_the_first_of_each_error_class() -> None:
    world = World()
    for n in range(10):
        for error in ("refused", "timeout"):
            world.recorder.record(
                intended=n, start=n, end=n + 1, outcome="failed", error=error, name=f"op {n}"
            )
    world.recorder.flush()
    kept = [(sample.error, sample.name) for sample in world.windows[0].samples]
    assert kept == [("refused", "op 0"), ("timeout", "op 0"), ("refused", "op 1"), ("timeout", "op 1")]


def test_samples_of_what_no_episode_explains_are_never_crowded_out() -> None:
    world = World()
    world.record(0, 0, "failed", "refused")
    world.open()
    world.windows.clear()
    for n in range(1000):
        world.record(0, 0, "failed", f"error {n % caps.ERROR_CLASSES}")
    for _ in range(5):
        world.recorder.record(intended=1.0, start=1.0, end=2.0, outcome="failed", error="error 0")
    world.recorder.flush()
    (window,) = world.windows
    explained = [sample for sample in window.samples if sample.episodes]
    assert len(explained) == caps.SAMPLES
    assert len(window.samples) - len(explained) == caps.SAMPLES_PER_CLASS


def test_the_slowest_failure_is_noted_with_its_class() -> None:
    world = World()
    for ago, error in ((0.5, "refused"), (5.0, "timeout"), (1.0, "refused")):
        world.record(ago, 0, "indeterminate", error)
    world.record(9, 0, "ok", "")
    world.recorder.flush()
    (part,) = world.windows[0].slices
    assert (part.slowest_failure, part.slowest_error) == (5.0, "timeout")


def test_too_many_sets_of_episodes_share_a_slice_but_never_hide_what_is_unexplained() -> None:
    world = World()
    rng = random.Random(7)  # noqa: S311  # the same every time
    for _ in range(40):
        world.open()
        world.now += 1
        world.advance(len(world.episodes) - 1)
        world.advance(len(world.episodes) - 1)
        world.now += 1
        world.advance(len(world.episodes) - 1)
        world.now += 1
    world.windows.clear()
    for _ in range(2000):
        ago = rng.uniform(0, 119)
        intended, end = world.now - ago, world.now - rng.uniform(0, ago)
        world.operations.append((world.timeline.overlapping(intended, end), {}))
        world.recorder.record(intended=intended, start=intended, end=end, outcome="failed", error="refused")
    world.recorder.flush()
    (window,) = world.windows
    own = {part.episodes: part.failed for part in window.slices[:-1]}
    naive = Counter(marks for marks, _ in world.operations)
    assert len(window.slices) <= caps.SLICES + 2
    assert own == {marks: naive[marks] for marks in own}
    assert own[()] == naive[()]
    rest = window.slices[-1]
    assert rest.failed == window.counters["folded"] == 2000 - sum(own.values())
    episodes = [mark.rpartition(":")[0] for mark in rest.episodes]
    assert len(episodes) == len(set(episodes))
    folded = {mark.rpartition(":")[0] for marks in naive.keys() - own.keys() for mark in marks}
    assert set(episodes) == folded


def test_nothing_is_emitted_for_nothing() -> None:
    world = World()
    world.recorder.flush()
    world.now += 100
    world.open()
    world.recorder.flush()
    assert not world.windows
    world.recorder.late()
    world.recorder.dropped(2)
    world.recorder.flush()
    (window,) = world.windows
    assert (window.late, window.dropped, window.start, window.end) == (1, 2, 1100.0, 1100.0)


def test_a_window_ends_where_the_open_episodes_change() -> None:
    world = World()
    world.record(0, 0, "ok", "")
    world.open()
    world.record(0, 0, "failed", "refused")
    world.advance(0)
    assert [[part.episodes for part in window.slices] for window in world.windows] == [
        [()],
        [("restart#1:direct",)],
    ]


async def test_run_emits_a_window_every_so_often_and_the_last_one_at_its_end() -> None:
    world = World()
    world.recorder = Recorder("rpc", world, world.timeline, lambda: world.now, every=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(world.recorder.run)
        with anyio.fail_after(40):
            while len(world.windows) < 3:
                world.record(0, 0, "ok", "")
                await anyio.sleep(0.005)
        world.record(0, 0, "ok", "")
        group.cancel_scope.cancel()
    assert sum(part.ok for window in world.windows for part in window.slices) == len(world.operations)


def test_drops_belong_to_the_episodes_that_were_open() -> None:
    world = World()
    world.recorder.dropped(2)
    world.open()
    world.recorder.dropped(3)
    world.recorder.flush()
    assert [
        (window.dropped, [(part.episodes, part.dropped) for part in window.slices])
        for window in world.windows
    ] == [
        (2, [((), 2)]),
        (3, [(("restart#1:direct",), 3)]),
    ]


def test_our_own_lag_and_the_episodes_of_a_failure_are_noted() -> None:
    world = World()
    world.open()
    world.recorder.lagged(0.25)
    world.record(0, 0, "failed", "refused")
    world.recorder.flush()
    (window,) = world.windows
    assert Histogram.unpack(window.lag).highest == 0.25
    assert [sample.episodes for sample in window.samples] == [("restart#1:direct",)]


@pytest.mark.parametrize("amount", [float("nan"), float("inf")])
def test_what_is_no_amount_is_not_counted(amount: float) -> None:
    world = World()
    with pytest.raises(ValueError, match="counter lag: expected a number, found"):
        world.recorder.count("lag", amount)
    world.recorder.flush()
    assert world.windows == []
