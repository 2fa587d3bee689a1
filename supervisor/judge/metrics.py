"""What thresholds can be about: every metric, what it is taken of, in which units, and what may narrow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from supervisor.loads.registry import LOADS


class Unit(StrEnum):
    """What a value is, with an example for messages."""

    COUNT = "a number such as 5"
    SHARE = "a share such as 95%"
    DURATION = "a duration such as 250ms"
    RATE = "a rate such as 50/s"


class Subject(StrEnum):
    """What a metric is taken of, and so which name may narrow it."""

    LOAD = "load"
    UNIT = "unit"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that can be compared."""

    name: str
    subject: Subject
    units: tuple[Unit, ...]
    quantile: float | None = None
    """Of a latency: the share of ok operations that took at most so long."""
    counter: str | None = None
    """What the load itself counts under this name."""
    scoped: bool = True
    """Whether it is known which episodes it belongs to."""
    slides: bool = True
    """Whether it is known when it happened."""

    @property
    def grows(self) -> bool:
        """Whether it can only become more as a run goes on: above a limit once, above it for ever."""
        return Unit.COUNT in self.units or self.quantile == 1.0 or self.name == "recovery"


COUNTER: Final = "counter"
"""`counter NAME` is whatever a load of somebody's own counts."""
OK_RATE: Final = "ok rate"
KNOWN: Final = ("lost", "duplicates", "reordered", "unexpected", "double_claims")
"""Counters that every reader of a threshold knows, whichever loads there are."""


def counted(name: str, counter: str) -> Metric:
    """Return the metric of something that a load counts. It is counted when it is found out, whatever was open then."""
    return Metric(name, Subject.LOAD, (Unit.COUNT,), counter=counter, scoped=False)


def _metrics() -> Iterator[Metric]:
    """Yield every metric that has a name of its own, in the order in which messages list them."""
    yield Metric("ok", Subject.LOAD, (Unit.SHARE,))
    for name in ("failures", "unexplained failures", "failed", "indeterminate", "dropped", "late"):
        yield Metric(
            name, Subject.LOAD, (Unit.COUNT, Unit.SHARE), scoped=name not in ("unexplained failures", "late")
        )
    yield Metric("ok operations", Subject.LOAD, (Unit.COUNT,))
    yield Metric(OK_RATE, Subject.LOAD, (Unit.RATE,), scoped=False)
    quantiles = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
    for clock in ("", "service "):
        for name, quantile in quantiles.items():
            yield Metric(clock + name, Subject.LOAD, (Unit.DURATION,), quantile=quantile)
    for name in ("crashes", "unexplained crashes", "restarts", "given_up"):
        slides = name != "given_up"
        yield Metric(name, Subject.UNIT, (Unit.COUNT,), scoped=name == "crashes", slides=slides)
    yield Metric("recovery", Subject.FAULT, (Unit.DURATION,), scoped=False, slides=False)
    yield Metric("episodes", Subject.FAULT, (Unit.COUNT,), scoped=False, slides=False)
    for name in KNOWN:
        yield counted(name, name)
    yield counted("tests skipped", "skipped")
    for kind in LOADS.kinds.values():
        for name in (*kind.counters, *kind.settled):
            yield counted(name, name)


def plain(name: str) -> str:
    """Return a name as names are compared: `given_up` and `given up` are one."""
    return name.replace("_", " ")


def _named() -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for metric in _metrics():
        named.setdefault(plain(metric.name), metric)  # what a load counts never hides what operations are
    return named


METRICS: Final[Mapping[str, Metric]] = _named()


def names() -> str:
    """Return what a metric may be, for messages."""
    told = [
        name for name, metric in METRICS.items() if not name.startswith("service ") and not _special(metric)
    ]
    return ", ".join(
        [
            *(METRICS[name].name for name in told),
            "service p50 to max",
            "what a load counts",
            f"{COUNTER} NAME",
        ]
    )


def _special(metric: Metric) -> bool:
    return metric.counter is not None and metric.name not in (*KNOWN, "tests skipped")
