"""Folding gives up resolution in time and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from supervisor.histogram import Histogram
from supervisor.journal.events import (
    KINDS,
    Event,
    JournalTrouble,
    LoadWindow,
    Observation,
    Phase,
    PhaseEntered,
    Record,
    Sample,
    Slice,
    UnitReady,
)
from supervisor.journal.fold import ERRORS, FOLDERS, SAMPLES, fold
from supervisor.journal.lines import encode, line_of, parse
from supervisor.journal.replay import replay


def packed(values: Sequence[int]) -> tuple[int | float, ...]:
    histogram = Histogram()
    for value in values:
        histogram.record(value / 1000)
    return tuple(histogram.pack()) if values else ()


HISTOGRAMS = st.lists(st.integers(0, 5000), max_size=5).map(packed)
SLICES = st.builds(
    Slice,
    episodes=st.sampled_from([(), ("f#1:direct",), ("f#1:direct", "g#2:during")]),
    ok=st.integers(0, 99),
    failed=st.integers(0, 9),
    indeterminate=st.integers(0, 9),
    dropped=st.integers(0, 9),
    errors=st.dictionaries(st.sampled_from(["a", "b", "other"]), st.integers(1, 9)),
    first_ok=st.none() | st.integers(0, 99).map(float),
    first_failure=st.none() | st.integers(0, 99).map(float),
    slowest_failure=st.integers(0, 99).map(float),
    response=HISTOGRAMS,
    service=HISTOGRAMS,
)
WINDOWS = st.builds(
    LoadWindow,
    load=st.sampled_from(["e2e", "rpc"]),
    start=st.integers(0, 100).map(float),
    end=st.integers(100, 200).map(float),
    scheduled=st.integers(0, 99),
    started=st.integers(0, 99),
    late=st.integers(0, 99),
    dropped=st.integers(0, 99),
    slices=st.lists(SLICES, max_size=3).map(tuple),
    samples=st.lists(
        st.builds(Sample, at=st.just(1.0), outcome=st.just("failed"), error=st.text()), max_size=9
    ).map(tuple),
    lag=HISTOGRAMS,
    counters=st.dictionaries(st.sampled_from(["lost", "skipped"]), st.integers(0, 9).map(float)),
)
OBSERVATIONS = st.builds(
    Observation, values=st.dictionaries(st.sampled_from("xyz"), st.integers(-9, 9).map(float))
)
OTHERS: st.SearchStrategy[Event] = st.sampled_from(
    [
        UnitReady(unit="u", incarnation="1", took=1),
        PhaseEntered(phase=Phase.SOAKING),
        JournalTrouble(what="torn", detail="x"),
    ]
)
EVENTS = st.lists(st.one_of(WINDOWS, WINDOWS, OBSERVATIONS, OTHERS), min_size=1, max_size=30)


def segment(events: Sequence[Event], step: float = 10.0) -> list[bytes]:
    return [
        line_of(Record(n, 100.0 + n * step, n * step, event), encode(event))
        for n, event in enumerate(events, 1)
    ]


def read(tmp_path: Path, lines: bytes) -> list[Record]:
    (tmp_path / "journal-0001.jsonl").write_bytes(lines)
    return list(replay(tmp_path))


def windows(lines: bytes) -> list[LoadWindow]:
    heads = [parse(line) for line in lines.splitlines(keepends=True)]
    return [LoadWindow.model_validate_json(head.data) for head in heads if head.kind == "load.window"]


def totals(found: Sequence[LoadWindow]) -> dict[tuple[str, ...], object]:
    """Return everything a judge could add up, by load and by set of episodes."""
    total: Counter[tuple[str, ...]] = Counter()
    histograms: dict[tuple[str, ...], Histogram] = {}
    firsts: dict[tuple[str, ...], float] = {}
    slowest: dict[tuple[str, ...], tuple[float, str]] = {}
    for window in found:
        histograms.setdefault((window.load, "lag"), Histogram()).merge(Histogram.unpack(window.lag))
        for name in ("scheduled", "started", "late", "dropped", "windows"):
            total[window.load, name] += getattr(window, name)
        for name, amount in window.counters.items():
            total[window.load, "counter", name] += int(amount)
        for part in window.slices:
            key = window.load, *part.episodes
            for name in ("ok", "failed", "indeterminate", "dropped"):
                total[*key, name] += getattr(part, name)
            for name in ("first_ok", "first_failure"):
                if (time := getattr(part, name)) is not None:
                    firsts[*key, name] = min(firsts.get((*key, name), time), time)
            longest = *key, "longest"
            slowest[longest] = max(
                slowest.get(longest, (0.0, "")), (part.slowest_failure, part.slowest_error)
            )
            for name, count in part.errors.items():
                total[*key, "error", name] += count
            histograms.setdefault((*key, "response"), Histogram()).merge(Histogram.unpack(part.response))
            histograms.setdefault((*key, "service"), Histogram()).merge(
                Histogram.unpack(part.service or part.response)
            )
    return (
        dict(+total)
        | firsts
        | slowest
        | {
            key: (histogram.buckets, round(histogram.total, 4), histogram.highest)
            for key, histogram in histograms.items()
            if histogram.count
        }
    )


def gauges(lines: bytes) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for line in lines.splitlines(keepends=True):
        if (head := parse(line)).kind == "observation":
            for name, value in Observation.model_validate_json(head.data).values.items():
                low, high = found.get(name, (math.inf, -math.inf))
                found[name] = min(low, value), max(high, value)
    return found


@given(events=EVENTS, span=st.sampled_from([1.0, 20.0, 60.0, 600.0]))
def test_folding_changes_no_total_loses_no_event_and_leaves_no_gap(events: list[Event], span: float) -> None:
    lines = segment(events)
    once = fold(lines, span)
    twice = fold(once.splitlines(keepends=True), 3600.0)
    before = b"".join(lines)
    for after in (once, twice):
        assert totals(windows(after)) == totals(windows(before))
        assert gauges(after) == gauges(before)
        assert len(after) <= len(before) + 100 * len(events)
        heads = [parse(line) for line in after.splitlines(keepends=True)]
        sequences = [head.sequence for head in heads]
        assert sequences == sorted(set(sequences))
        assert sequences[-1] == len(events) == sum(head.covers for head in heads)
        kept = [line for line in lines if parse(line).kind not in FOLDERS]
        assert [line for line in after.splitlines(keepends=True) if parse(line).kind not in FOLDERS] == kept


def window(**parts: object) -> LoadWindow:
    return LoadWindow.model_validate({"load": "rpc", "start": 1.0, "end": 2.0} | parts)


def test_windows_are_merged_by_load_within_a_span(tmp_path: Path) -> None:
    other = LoadWindow(load="e2e", start=0.0, end=1.0, scheduled=7)
    lines = segment([window(scheduled=n) if n % 2 else other for n in range(1, 13)], step=10.0)
    records = read(tmp_path, fold(lines, 60.0))
    found = [(record.sequence, record.mono, record.event.load, record.event.scheduled) for record in records]  # type: ignore[attr-defined]  # they are windows
    assert found == [
        (4, 40.0, "e2e", 14),
        (5, 50.0, "rpc", 9),
        (10, 100.0, "e2e", 21),
        (11, 110.0, "rpc", 27),
        (12, 120.0, "e2e", 7),
    ]


def test_nothing_is_merged_across_a_phase(tmp_path: Path) -> None:
    lines = segment([window(), window(), PhaseEntered(phase=Phase.STOPPING), window(), window()], step=1.0)
    assert [record.sequence for record in read(tmp_path, fold(lines, 60.0))] == [2, 3, 5]


def test_torn_superseded_and_unreadable_lines_stay_byte_for_byte(tmp_path: Path) -> None:
    good = segment([window()] * 6, step=1.0)
    unreadable = line_of(Record(7, 7.0, 7.0, window()), b'{"renamed":1}')
    lines = [*good[:3], b"altered\n", *good[3:], unreadable, unreadable, b"torn"]
    folded = fold(lines, 60.0, until=6)
    assert folded.splitlines(keepends=True)[0] == b"altered\n"
    assert folded.endswith(good[5] + unreadable + unreadable + b"torn")
    assert folded.count(b"\n") == 5


def test_samples_and_error_classes_stay_few() -> None:
    sample = Sample(at=1.0, outcome="failed", error="e")
    lines = segment(
        [
            window(
                samples=[sample] * 9,
                slices=[Slice(errors={f"e{n}-{m}": 1 + n for m in range(9)} | {"other": 1})],
            )
            for n in range(9)
        ],
        step=1.0,
    )
    (merged,) = windows(fold(lines, 60.0))
    assert len(merged.samples) == SAMPLES
    errors = merged.slices[0].errors
    assert len(errors) == ERRORS
    assert sum(errors.values()) == sum(9 * (1 + n) + 1 for n in range(9))
    assert min(count for name, count in errors.items() if name != "other") >= 6


def test_what_cannot_be_added_up_stays_as_it_is() -> None:
    lines = segment([window(), window(slices=[Slice(response=(1.0, 1.0, 99_999, 1))])], step=1.0)
    assert fold(lines, 60.0) == b"".join(lines)


def test_no_field_of_a_window_is_unknown_to_folding() -> None:
    """Whoever adds a field has to say how it adds up, here and in `totals`."""
    part = {
        "episodes",
        "ok",
        "failed",
        "indeterminate",
        "dropped",
        "errors",
        "first_ok",
        "first_failure",
        "slowest_failure",
        "slowest_error",
        "response",
        "service",
    }
    assert set(Slice.model_fields) == part
    whole = {
        "load",
        "start",
        "end",
        "windows",
        "scheduled",
        "started",
        "late",
        "dropped",
        "slices",
        "lag",
        "samples",
        "counters",
    }
    assert set(LoadWindow.model_fields) == whole
    assert set(Observation.model_fields) == {"values"}


def test_every_kind_that_folds_has_a_way_to() -> None:
    assert {kind for kind, cls in KINDS.items() if cls.folds} == set(FOLDERS)
