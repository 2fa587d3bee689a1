"""Folds what loads and observations left in a closed segment into coarser records; everything else stays byte for byte.

Counts and histograms add up exactly, apart by the episodes they belong to, so no total, share, quantile or attribution changes. What
is given up is resolution in time, and samples of failures above a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from supervisor.histogram import Histogram
from supervisor.journal.events import (
    CUT_OFF,
    Event,
    LoadWindow,
    LoopLag,
    Observation,
    OpenEvent,
    Phase,
    PhaseEntered,
    Record,
    Sample,
    Slice,
    decode,
)
from supervisor.journal.lines import Head, LineError, encode, line_of, parse

SAMPLES: Final = 10
"""Samples of failures that a folded window keeps, the first ones of those that episodes explain, and of the others."""
ERRORS: Final = 32
"""Error classes that a folded slice keeps, `CUT_OFF` and the most frequent ones; the rest is counted under `other`."""

OTHER: Final = "other"
N = TypeVar("N", int, float)
Folder = Callable[[Sequence[Any]], list[Event]]


@dataclass(slots=True)
class _Member:
    """A record of a group, and where its line stood."""

    place: int
    head: Head
    event: Event


def fold(lines: Iterable[bytes], span: float, until: float = float("inf")) -> bytes:
    """Return the lines of a segment with foldable records of the same source merged over at most `span` seconds.

    Nothing is merged across the beginning of a phase, nor in the baseline, which the verdict looks at closely and which is short. A folded record takes the place, clocks and sequence of the last one it
    covers. Lines from the sequence `until` on stay as they are, because a later segment has the better copy; so do torn ones.
    """
    places: list[bytes] = []
    groups: dict[tuple[str, ...], list[_Member]] = {}
    baseline = False
    for place, line in enumerate(lines):
        places.append(line)
        try:
            head = parse(line)
        except LineError:
            continue
        if head.kind == PhaseEntered.kind:
            for group in groups.values():
                _merge(group, places)
            groups.clear()
            baseline = decode(head.kind, head.version, head.data) == PhaseEntered(phase=Phase.BASELINE)
        elif head.kind in FOLDERS and not baseline and head.sequence < until:
            event = decode(head.kind, head.version, head.data)
            group = groups.setdefault(_source(event), [])
            if group and head.mono // span != group[0].head.mono // span:
                _merge(group, places)
                group.clear()
            group.append(_Member(place, head, event))
    for group in groups.values():
        _merge(group, places)
    return b"".join(places)


def _source(event: Event) -> tuple[str, ...]:
    """What records must share to be merged; the class, too, since one that cannot be read stays as it is."""
    return type(event).__name__, event.load if isinstance(event, LoadWindow | LoopLag) else ""


def _merge(group: Sequence[_Member], places: list[bytes]) -> None:
    """Put the folded records into the places of the last of a group, and nothing into the others."""
    if not group or isinstance(group[0].event, OpenEvent):
        return
    try:
        folded = FOLDERS[group[0].head.kind]([member.event for member in group])
    except ValueError:  # a histogram that is none: somebody else's to complain of, and nothing to touch
        return
    if len(folded) >= len(group):
        return
    first = len(group) - len(folded)
    covers = 0
    for index, member in enumerate(group):
        covers += member.head.covers
        if index < first:
            places[member.place] = b""
        else:
            event, head = folded[index - first], member.head
            record = Record(head.sequence, head.wall, head.mono, event)
            places[member.place] = line_of(record, encode(event), covers)
            covers = 0


def fold_windows(windows: Sequence[LoadWindow]) -> list[Event]:
    """Add up the windows of one load."""
    slices: dict[tuple[str, ...], list[Slice]] = {}
    for part in (part for window in windows for part in window.slices):
        slices.setdefault(part.episodes, []).append(part)
    samples: tuple[Sample, ...] = sum((window.samples for window in windows), ())
    lag = Histogram()
    for window in windows:
        lag.merge(Histogram.unpack(window.lag))
    return [
        LoadWindow(
            load=windows[0].load,
            start=min(window.start for window in windows),
            end=max(window.end for window in windows),
            windows=sum(window.windows for window in windows),
            scheduled=sum(window.scheduled for window in windows),
            started=sum(window.started for window in windows),
            late=sum(window.late for window in windows),
            dropped=sum(window.dropped for window in windows),
            slices=tuple(_fold_slices(parts) for parts in slices.values()),
            samples=_kept(samples),
            lag=_packed(lag),
            counters=_added(window.counters for window in windows),
        )
    ]


def _kept(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the first samples, and apart from them the first that no episode explains: those are looked at one by one."""
    kept = Counter[bool]()
    return tuple(
        one for one in samples if kept.update([not one.episodes]) or kept[not one.episodes] <= SAMPLES
    )


def _fold_slices(parts: Sequence[Slice]) -> Slice:
    response, service = Histogram(), Histogram()
    for part in parts:
        response.merge(Histogram.unpack(part.response))
        service.merge(Histogram.unpack(part.service or part.response))
    packed, served = _packed(response), _packed(service)
    slowest = max(parts, key=lambda part: part.slowest_failure)
    return Slice(
        episodes=parts[0].episodes,
        ok=sum(part.ok for part in parts),
        failed=sum(part.failed for part in parts),
        indeterminate=sum(part.indeterminate for part in parts),
        dropped=sum(part.dropped for part in parts),
        errors=_capped(_added(part.errors for part in parts)),
        first_ok=_first(part.first_ok for part in parts),
        first_failure=_first(part.first_failure for part in parts),
        slowest_failure=slowest.slowest_failure,
        slowest_error=slowest.slowest_error,
        response=packed,
        service=() if served == packed else served,
    )


def fold_observations(observations: Sequence[Observation]) -> list[Event]:
    """Keep every number's lowest and highest: a floor and a peak are what gauges are judged by."""
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for name, value in (pair for observation in observations for pair in observation.values.items()):
        lowest[name] = min(lowest.get(name, value), value)
        highest[name] = max(highest.get(name, value), value)
    return [Observation(values=lowest), Observation(values=highest)]


def fold_lags(lags: Sequence[LoopLag]) -> list[Event]:
    """Add up how late the event loop was."""
    total = Histogram()
    for lag in lags:
        total.merge(Histogram.unpack(lag.times))
    return [LoopLag(times=_packed(total), load=lags[0].load)]


FOLDERS: Final[Mapping[str, Folder]] = {
    LoopLag.kind: fold_lags,
    LoadWindow.kind: fold_windows,
    Observation.kind: fold_observations,
}
"""How records of each kind that folds are folded."""


def _first(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _packed(histogram: Histogram) -> tuple[int | float, ...]:
    return tuple(histogram.pack()) if histogram.count else ()


def _added(amounts: Iterable[Mapping[str, N]]) -> dict[str, N]:
    total: dict[str, N] = {}
    for name, amount in (pair for each in amounts for pair in each.items()):
        total[name] = total[name] + amount if name in total else amount
    return total


def _capped(errors: Mapping[str, int]) -> dict[str, int]:
    if len(errors) <= ERRORS:
        return dict(errors)
    named = Counter({name: count for name, count in errors.items() if name not in (OTHER, CUT_OFF)})
    kept = dict(named.most_common(ERRORS - 1)) | {n: c for n, c in errors.items() if n == CUT_OFF}
    return kept | {OTHER: sum(errors.values()) - sum(kept.values())}
