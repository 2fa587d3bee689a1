"""evidence.csv: one `name,value` line for each thing seen before, during and after an episode, and for how it ended."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from supervisor.judge.document import iso
from supervisor.judge.episode import Episode
from supervisor.judge.verdict import Judgement

Line = tuple[str, object]


def render(judgement: Judgement) -> str:
    """Return the text of evidence.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "value"))
    writer.writerows((_plain(name), _plain(value)) for name, value in _lines(judgement))
    return text.getvalue()


def _lines(judgement: Judgement) -> Iterator[Line]:
    tally = judgement.tally
    if started := tally.started:
        yield from (("soak", started.soak), ("run", started.run), ("seed", started.seed))
    yield from (("started", iso(tally.began)), ("ended", iso(tally.over)))
    episodes = tally.episodes.listed()
    for episode in episodes:
        yield from ((f"{episode.id}.{name}", value) for name, value in _episode(episode))
    if left := tally.episodes.count - len(episodes):
        yield "episodes_not_listed", left
    yield from ((f"threshold.{one.text}", one.verdict) for one in judgement.thresholds)
    yield "verdict", judgement.verdict


def _episode(episode: Episode) -> Iterator[Line]:
    yield "fault", episode.type
    yield "targets", " ".join(episode.targets)
    yield "intended", iso(episode.intended)
    for when, reading in episode.evidence:
        name = f"{when}.{reading.probe}"
        yield name, reading.value if reading.value is not None else reading.detail
        yield f"{name}.holds", reading.ok
    damage = episode.damage
    if episode.inject_error:
        yield "inject_error", episode.inject_error
    if episode.injected and episode.undone:
        yield "injected_seconds", round(episode.undone.since(episode.injected), 3)
    yield from ((f"failures.{stage}", count) for stage, count in damage.stages.items())
    yield from ((f"errors.{name}", count) for name, count in damage.errors.items())
    for stage, seen in damage.by_stage.items():
        if seen.worst:
            yield f"worst_response_seconds.{stage}", _rounded(seen.worst)
        if seen.slowest_failure > seen.worst:
            yield f"slowest_failure_seconds.{stage}", _rounded(seen.slowest_failure)
    yield from ((f"crashes.{unit}", count) for unit, count in damage.crashes.items())
    yield "first_failure_after_seconds", _rounded(episode.to_first_failure)
    yield "first_ok_after_undo_seconds", _rounded(episode.to_first_ok)
    yield "recovery_seconds", _rounded(episode.recovery)
    if episode.truncated:
        yield "truncated", episode.truncated
    if episode.broken:
        yield "broken", episode.broken
    yield from (("failing", title) for title in episode.failing)
    yield from (("unmet", title) for title in episode.unmet)
    yield "outcome", episode.outcome


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _plain(value: object) -> str:
    """Write a truth as other tools read it, what is unknown as nothing, and everything on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else round(value, 6)  # microseconds, where it is a time
    return "" if value is None else " ".join(str(value).split())
