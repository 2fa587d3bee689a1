"""The course of a run as a picture: loads, episodes and crashes over the same time. Inline SVG, without any script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle, islice
from typing import Final

from supervisor.judge.counting import plural
from supervisor.judge.curve import Curve, Span
from supervisor.judge.episode import Episode
from supervisor.judge.looking import show
from supervisor.judge.metrics import Unit
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.values import format_duration

WIDTH: Final = 1100
LEFT, RIGHT = 170, 20
"""Room for the names, and beyond the last moment."""
ROW: Final = 18
"""Height of a fault's or the crashes' lane."""
RATE, TIMES = 46, 30
"""Heights of a load's two lanes: operations a second, and the slowest of them that was ok."""
LANES: Final = 12
"""Faults and loads that are drawn; verdict.json has the rest."""
GAP: Final = 12.0
"""Seconds that a window of the journal may be long: what it tells belongs to the time since the one before."""
TICKS: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14400,
    21600,
    43200,
    86400,
    172800,
)
COLOURS: Final = ("#8e6bbf", "#d0862c", "#2c8fa8", "#b0568c", "#6b8e23", "#7a6a53")
OK, FAILED, SLOW, LINE = "#4f8f5b", "#cc3b3b", "#3f6fb5", "#9a9a9a"


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: float
    end: float

    def x(self, mono: float) -> float:
        share = (mono - self.begin) / max(self.end - self.begin, 1e-9)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 2)


def course(tally: Tally) -> Iterator[str]:
    """Yield the lines of the picture; nothing if there is no time to show."""
    begin, end = tally.loaded or tally.began, tally.over or tally.alive
    if begin is None or end.mono <= begin.mono:
        return
    scale = _Scale(begin.mono, end.mono)
    episodes = [episode for episode in tally.episodes.listed() if episode.intended.mono <= end.mono]
    faults = list(dict.fromkeys(episode.fault for episode in episodes))[:LANES]
    colours = dict(zip(faults, islice(cycle(COLOURS), len(faults)), strict=True))
    loads = list(tally.loads.values())[:LANES]
    lines: list[str] = []
    top = 24
    for fault in faults:
        lines += _name(fault, top + 13)
        for episode in episodes:
            if episode.fault == fault:
                lines += _episode(episode, top, scale, colours[fault])
        top += ROW
    if tally.crashes.steps:
        lines += _name("crashes", top + 13)
        lines += _crashes(tally.crashes, top, scale)
        top += ROW
    lanes = top + 6
    for load in loads:
        lines += _load(load, top + 6, scale)
        top += RATE + TIMES + 14
    back = [*_baseline(tally, scale, top)]
    back += [
        line
        for one in episodes
        if one.fault in colours
        for line in _band(one, lanes, top, scale, colours[one.fault])
    ]
    height = top + 24
    label = "course of the run: faults, crashes and loads over time"
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">'
    yield from back
    yield from _axis(scale, top)
    yield from lines
    yield "</svg>"


def _rect(x: float, y: float, size: tuple[float, float], style: str, title: str = "") -> str:
    width, height = size
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0.8):g}" height="{height:g}" {style}>{inside}</rect>'
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


def _name(name: str, y: float) -> list[str]:
    return [_text(LEFT - 10, y, name if len(name) <= 24 else name[:23] + "…", 'text-anchor="end"')]


def _axis(scale: _Scale, bottom: float) -> Iterator[str]:
    """Yield a line for each round time since the loads began."""
    whole = scale.end - scale.begin
    step = next((tick for tick in TICKS if whole / tick <= 9), TICKS[-1])
    at = 0.0
    while at <= whole and at / step <= 20:
        x = scale.x(scale.begin + at)
        yield f'<line x1="{x:g}" x2="{x:g}" y1="20" y2="{bottom:g}" class="grid"/>'
        yield _text(x, 14, format_duration(at) if at else "0", 'text-anchor="middle" class="small"')
        at += step


def _baseline(tally: Tally, scale: _Scale, bottom: float) -> Iterator[str]:
    if tally.baseline is not None and tally.baseline.ended is not None:
        x = scale.x(tally.baseline.begun)
        width = scale.x(tally.baseline.ended) - x
        yield _rect(x, 20, (width, bottom - 20), f'fill="{OK}" opacity="0.10"', "baseline: no faults")


def _band(one: Episode, top: float, bottom: float, scale: _Scale, colour: str) -> Iterator[str]:
    x = scale.x(one.intended.mono)
    width = scale.x(one.closed.mono if one.closed else scale.end) - x
    yield _rect(x, top, (width, bottom - top), f'fill="{colour}" opacity="0.13"')


def _episode(one: Episode, top: float, scale: _Scale, colour: str) -> list[str]:
    begin, closed = one.intended.mono, (one.closed.mono if one.closed else scale.end)
    undone = min(one.undone.mono if one.undone else closed, closed)
    stages = ", ".join(f"{name} {count:,}" for name, count in one.damage.stages.items() if count)
    title = f"{one.id} on {', '.join(one.targets)}: {one.outcome}"
    title += f" after {show(one.recovery, Unit.DURATION)}" if one.recovery is not None else ""
    title += f"; failures {stages}" if stages else ""
    bad = f' stroke="{FAILED}" stroke-width="1.5"' if not one.good else ""
    x, middle = scale.x(begin), scale.x(undone)
    return [
        _rect(x, top + 3, (middle - x, ROW - 6), f'fill="{colour}"{bad}', title),
        _rect(middle, top + 3, (scale.x(closed) - middle, ROW - 6), f'fill="{colour}" opacity="0.45"', title),
    ]


def _crashes(curve: Curve, top: float, scale: _Scale) -> list[str]:
    lines = []
    for span in curve.spans():
        x = scale.x(span.begin)
        width = max(scale.x(span.end) - x, 2)
        lines.append(
            _rect(x, top + 2, (width, ROW - 4), f'fill="{FAILED}"', plural(span.step.crashes, "crash"))
        )
    return lines


def _load(load: LoadTotals, top: float, scale: _Scale) -> list[str]:
    share = show(load.ok / load.attempts, Unit.SHARE) if load.attempts else "nothing done"
    lines = [*_name(load.name, top + 14), *_small(f"{share} ok", top + 28)]
    spans = _widened(list(load.curve.spans()))
    if not spans:
        return lines
    rates = [(one.step.ok + one.step.failures + one.step.dropped) / (one.end - one.begin) for one in spans]
    most, slowest = max(*rates, 1e-9), max(*(one.step.worst for one in spans), 1e-9)
    lines += _small(f"up to {show(most, Unit.RATE)}" if most >= 1 else "", top + 41)
    lines += _small(f"slowest ok {show(slowest, Unit.DURATION)}", top + RATE + 22)
    for one in spans:
        lines += _bars(one, top, scale, most)
    base = top + RATE + TIMES + 4
    points = [(scale.x((one.begin + one.end) / 2), base - TIMES * one.step.worst / slowest) for one in spans]
    path = " ".join(f"{x:g},{y:.1f}" for x, y in points)
    lines.append(f'<polyline points="{path}" fill="none" stroke="{SLOW}" stroke-width="1.2"/>')
    lines.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:g}" y2="{base:g}" stroke="{LINE}" stroke-width="0.5"/>'
    )
    return lines


def _small(text: str, y: float) -> list[str]:
    return [_text(LEFT - 10, y, text, 'text-anchor="end" class="small"')] if text else []


def _bars(one: Span, top: float, scale: _Scale, most: float) -> list[str]:
    """Draw ok operations upwards, and on them what failed, at least so high that it is seen."""
    seconds, step = one.end - one.begin, one.step
    x = scale.x(one.begin)
    width, base = scale.x(one.end) - x, top + RATE
    high = RATE * step.ok / seconds / most
    bad = step.failures + step.dropped
    title = f"{step.ok:,} ok, {step.failures:,} failed, {step.dropped:,} dropped in {format_duration(round(seconds, 1))}"
    title += f"; slowest ok {show(step.worst, Unit.DURATION)}"
    lines = [_rect(x, base - high, (width, high), f'fill="{OK}"', title)] if step.ok else []
    if bad:
        height = max(RATE * bad / seconds / most, 3.0)
        lines.append(_rect(x, max(base - high - height, top), (width, height), f'fill="{FAILED}"', title))
    return lines


def _widened(spans: Sequence[Span]) -> list[Span]:
    """Let each span begin where the one before ended, as far as one window of the journal may have told of all that time."""
    wide: list[Span] = []
    for span in spans:
        before = wide[-1].end if wide else span.end - GAP
        near = span.end - before <= max(GAP, 2 * (span.end - span.begin))
        wide.append(Span(min(before, span.begin) if near else span.begin, span.end, span.step))
    return wide
