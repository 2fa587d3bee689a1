"""Several runs side by side: the same soak with another client, version or setting, and what that made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.judge.episode import FaultTotals
from supervisor.judge.looking import show
from supervisor.judge.metrics import Unit
from supervisor.judge.operations import LoadTotals
from supervisor.judge.tally import Tally
from supervisor.judge.verdict import Judgement
from supervisor.values import format_duration

LINES: Final = 20
"""Lines of a soak file that others do not have, at most."""
NOTHING: Final = "-"


class Run(NamedTuple):
    """One of the runs."""

    directory: Path
    judgement: Judgement
    soak: str
    """Its soak file's text."""


class Row(NamedTuple):
    """One thing, and what each run has of it."""

    section: str
    what: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not all have the same."""
        return len(set(self.values)) > 1


def rows(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield what the runs have, what tells them apart first."""
    tallies = [run.judgement.tally for run in runs]
    yield Row("run", "verdict", tuple(run.judgement.verdict.upper() for run in runs))
    yield Row("run", "soaked", tuple(format_duration(round(tally.soaked)) for tally in tallies))
    yield Row(
        "run", "seed", tuple(str(tally.started.seed) if tally.started else NOTHING for tally in tallies)
    )
    yield from _soak_files(runs)
    yield from _thresholds(runs)
    for name in _names([tally.loads for tally in tallies]):
        yield from _load(name, tallies)
    for name in _names([tally.episodes.faults for tally in tallies]):
        yield from _fault(name, tallies)
    for name in _names([tally.units for tally in tallies]):
        units = [tally.units.get(name) for tally in tallies]
        crashes = tuple(f"{unit.crashes:,}" if unit else NOTHING for unit in units)
        if set(crashes) - {"0", NOTHING}:
            yield Row("units", f"crashes of {name}", crashes)


def names(runs: Sequence[Run]) -> list[str]:
    """Return what tells the runs apart in a heading: their directories' names, or as much of their paths as it takes."""
    paths = [run.directory.resolve() for run in runs]
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    if len(set(paths)) < len(paths):  # one of them twice
        return [str(run.directory) for run in runs]
    common = commonpath(paths)
    return [str(path.relative_to(common)) for path in paths]


def _names(groups: Iterable[Iterable[str]]) -> list[str]:
    """Return every name once, in the order in which they come."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _soak_files(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield the lines of the soak files that not all of them have."""
    files = [[line.strip() for line in run.soak.splitlines() if line.strip()] for run in runs]
    common = set(files[0]).intersection(*files[1:])
    own = [[line for line in file if line not in common and not line.startswith("#")] for file in files]
    for n in range(min(max(map(len, own)), LINES)):
        lines = tuple(file[n] if n < len(file) else "" for file in own)
        yield Row("soak file", "only here" if n == 0 else "", lines)


def _thresholds(runs: Sequence[Run]) -> Iterator[Row]:
    told = [
        {one.text: f"{one.verdict}: {one.shown}" for one in run.judgement.thresholds}
        | dict.fromkeys(started.not_asked if (started := run.judgement.tally.started) else (), "not asked")
        for run in runs
    ]
    for text in _names(told):
        yield Row("thresholds", text, tuple(one.get(text, NOTHING) for one in told))


def _load(name: str, tallies: Sequence[Tally]) -> Iterator[Row]:
    loads = [tally.loads.get(name) for tally in tallies]
    pairs = list(zip(loads, tallies, strict=True))
    section = f"load {name}"

    def row(what: str, tell: Callable[[LoadTotals, Tally], str]) -> Row:
        return Row(section, what, tuple(tell(load, tally) if load else NOTHING for load, tally in pairs))

    clients = tuple(_client(name, tally) if load else NOTHING for load, tally in pairs)
    if set(clients) - {NOTHING}:
        yield Row(section, "client", clients)
    yield row("operations", lambda load, _: f"{load.attempts:,}")
    yield row("ok", lambda load, _: show(load.ok / load.attempts, Unit.SHARE) if load.attempts else NOTHING)
    yield row("ok a second", lambda load, tally: _rate(load.ok, tally.measured))
    yield row("failures", lambda load, _: f"{load.failures:,}")
    yield row(
        "failures direct / during / recovering",
        lambda load, _: " / ".join(f"{count:,}" for count in load.stages.values()),
    )
    yield row("failures that no episode explains", lambda load, _: f"{load.unexplained:,}")
    for what, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        yield row(what, lambda load, _, share=share: _quantile(load, share))  # type: ignore[misc]  # it is bound at once
    for error in _names(load.errors for load in loads if load):
        yield row(f"error {error}", lambda load, _, error=error: f"{load.errors.get(error, 0):,}")  # type: ignore[misc]
    for counter in _names(load.counters for load in loads if load):
        yield row(counter, lambda load, _, name=counter: _counter(load, name))  # type: ignore[misc]


def _client(load: str, tally: Tally) -> str:
    return tally.started.clients.get(load, NOTHING) if tally.started else NOTHING


def _rate(count: int, seconds: float) -> str:
    return show(count / seconds, Unit.RATE) if seconds > 0 else NOTHING


def _quantile(load: LoadTotals, share: float) -> str:
    time = load.latencies.response.quantile(share)
    return NOTHING if time is None else show(time, Unit.DURATION)


def _counter(load: LoadTotals, name: str) -> str:
    return show(load.counters[name], Unit.COUNT) if name in load.counters else NOTHING


def _fault(name: str, tallies: Sequence[Tally]) -> Iterator[Row]:
    faults = [tally.episodes.faults.get(name) for tally in tallies]

    def row(what: str, tell: Callable[[FaultTotals], str]) -> Row:
        return Row(f"fault {name}", what, tuple(tell(fault) if fault else NOTHING for fault in faults))

    yield row("episodes, recovered", lambda fault: f"{fault.episodes:,}, {fault.recovered:,}")
    yield row(
        "worst recovery",
        lambda fault: show(fault.recovery.highest, Unit.DURATION) if fault.recovered else NOTHING,
    )
    yield row(
        "failures direct / during / recovering",
        lambda fault: " / ".join(f"{count:,}" for count in fault.damage.stages.values()),
    )
