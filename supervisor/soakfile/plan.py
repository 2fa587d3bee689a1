"""The plan of a soak, as `soakd check` shows it: what would run, in which order, and what would be drawn. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path as FilePath
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from supervisor.engines.problems import listening_ports
from supervisor.faults.base import Site
from supervisor.faults.draws import Preview, chosen, draws
from supervisor.judge.thresholds import Threshold
from supervisor.probes.base import Probe
from supervisor.probes.steady import default_probes
from supervisor.soak import Soak, UnitNames
from supervisor.soakfile import checks
from supervisor.soakfile.advice import advice
from supervisor.soakfile.document import Listing, Mapped, Node, Scalar
from supervisor.soakfile.errors import Path
from supervisor.soakfile.load import Loaded
from supervisor.soakfile.parts import whole
from supervisor.telemetry.logging import Masker
from supervisor.values import format_duration

CHOICES: Final = 10
"""Draws of the nemesis that are shown."""
DRAWS: Final = 3
"""Draws of each fault that are shown."""
WARNINGS: Final = "warnings"

Section = tuple[str, Sequence[str]]


def plan(loaded: Loaded) -> Group:
    """Return the whole plan for a rich console."""
    masker = Masker(loaded.secrets)
    parts: list[RenderableType] = []
    for heading, lines in sections(loaded):
        parts.append(Text(heading, style="bold yellow" if heading == WARNINGS else "bold"))
        for line in lines:
            indent = 2 + len(line) - len(line.lstrip())
            parts.append(Padding(Text(masker.text(line.lstrip())), (0, 0, 0, indent)))
    return Group(*parts)


def sections(loaded: Loaded) -> Iterator[Section]:
    """Yield each heading with its lines; what the soak does not have is left out."""
    soak = loaded.soak
    duration = f"for {format_duration(soak.duration)}" if soak.duration else "until it is stopped"
    if soak.baseline:
        duration += (
            f" after a baseline of {format_duration(soak.baseline)}, in which loads run and faults wait"
        )
    seed = "a new seed for each run" if soak.seed is None else f"seed {soak.seed}"
    yield f"soak {soak.soak}", [f"{duration}, {seed}, {format_duration(soak.grace)} to end after a signal"]
    yield from _some("units, in the order they start", _start_order(soak))
    yield from _some("watchdogs", _watchdogs(loaded))
    if soak.broker is not None:
        yield (
            "broker",
            [f"servers {', '.join(soak.broker.servers)}", f"connections {', '.join(soak.broker.names)}"],
        )
    yield from _some("links", [f"{name}: {link}" for name, link in soak.links.items()])
    yield from _some("loads", [f"{name}: {_written(loaded, ('loads', name))}" for name in soak.loads])
    yield from _some(_faults_heading(soak), _faults(loaded))
    yield from _some("nemesis", _nemesis(loaded))
    yield from _some("limits", [_written(loaded, ("limits",))] if loaded.document.has(("limits",)) else [])
    probes = soak.steady_state or default_probes(soak.units(), broker=soak.broker is not None)
    yield from _some(
        "steady state" if soak.steady_state else "steady state, since the file names none", _titles(probes)
    )
    yield from _some("thresholds", [_threshold(threshold, soak) for threshold in soak.thresholds])
    hooks = {"fail": soak.on.fail, "end": soak.on.end}
    yield from _some(
        "commands at the end",
        [f"on {name}: {_written(loaded, ('on', name))}" for name, hook in hooks.items() if hook],
    )
    yield from _some("worth a look", [f"{loaded.where(*at)}: {what}" for at, what in advice(soak)])
    yield from _some(WARNINGS, warnings(loaded))


def warnings(loaded: Loaded, runs: FilePath = FilePath("runs")) -> list[str]:
    """Return what would keep the soak from starting just now, each with its place in the file; run directories go to `runs`."""
    soak, base = loaded.soak, loaded.base
    engines = [(loaded.where("engines", name), one.problems(base)) for name, one in soak.engines.items()]
    loads = [(loaded.where("loads", name), one.problems(base)) for name, one in soak.loads.items()]
    listening = listening_ports() if soak.links else set()
    links = [
        (loaded.where("links", name), [problem])
        for name, link in soak.links.items()
        if (problem := link.problem(listening))
    ]
    found = [f"{where}: {problem}" for where, problems in engines + links + loads for problem in problems]
    return [*found, *missing(loaded, runs, soak.faults)]


def missing(loaded: Loaded, runs: FilePath, faults: Iterable[str]) -> list[str]:
    """Return what of this machine and its engines keeps these faults from working just now, each with its place in the file. Blocks."""
    layout, site = checks.layout(whole(loaded.soak, {})), Site(loaded.base, runs)
    return [
        f"{loaded.where('faults', name)}: {problem}"
        for name in faults
        for problem in loaded.soak.faults[name].missing(layout, site)
    ]


def _some(heading: str, lines: Sequence[str]) -> Iterator[Section]:
    if lines:
        yield heading, lines


def _start_order(soak: Soak) -> list[str]:
    """Return a line for each step of the start: units of one step start together."""
    units, order, lines = soak.units(), TopologicalSorter(soak.after()), list[str]()
    order.prepare()
    while ready := order.get_ready():
        order.done(*ready)
        step = [f"{unit} ({units[unit][0]})" for unit in sorted(ready, key=list(units).index)]
        lines.append(f"{len(lines) + 1}. {', '.join(step)}")
    return lines


def _watchdogs(loaded: Loaded) -> list[str]:
    soak, lines = loaded.soak, list[str]()
    names = UnitNames(soak.engines)
    for watchdog in soak.watchdogs:
        units = ", ".join(names.selected(watchdog.units)) or str(watchdog.units)
        lines.append(f"{units}: {watchdog.restart}, given up after more than {watchdog.intensity}")
    kept = {unit for _, unit in soak.watched()}
    if alone := [unit for unit in soak.units() if unit not in kept]:
        lines.append(f"none for {', '.join(alone)}: what crashes there stays down")
    return lines


def _faults_heading(soak: Soak) -> str:
    return "faults" if soak.seed is not None else "faults, with the draws of seed 0 as an example"


def _faults(loaded: Loaded) -> list[str]:
    soak = loaded.soak
    first = draws(soak.faults, soak.seed or 0, DRAWS, list(soak.units()))
    lines = []
    for name, previews in first.items():
        lines.append(f"{name}: {_written(loaded, ('faults', name))}")
        lines += [
            f"  {preview.draw.episode} {_when(preview, _start(soak))}: {preview.targets or 'as found'}"
            for preview in previews
        ]
    return lines


def _nemesis(loaded: Loaded) -> list[str]:
    soak = loaded.soak
    if soak.nemesis is None:
        return []
    lines = [_written(loaded, ("nemesis",))]
    for choice, targets in chosen(soak.faults, soak.nemesis, soak.seed or 0, CHOICES, list(soak.units())):
        since = (
            _start(soak) if choice.from_start else "the last draw" if soak.nemesis.overlap else "the last one"
        )
        what = f"{choice.draw.episode}: {targets or 'as found'}" if choice.draw else "quiet"
        lines.append(f"  {format_duration(choice.delay)} after {since}: {what}")
    return lines


def _start(soak: Soak) -> str:
    """Return what the first episodes are so long after."""
    return "the baseline" if soak.baseline else "the start"


def _when(preview: Preview, start: str) -> str:
    drawn, after = preview.draw, format_duration(preview.draw.delay)
    if drawn.after:
        return f"{after} after {drawn.after}"
    return f"{after} after {start}" if drawn.from_start else f"{after} after the last one"


def _threshold(threshold: Threshold, soak: Soak) -> str:
    return (
        threshold.text
        if threshold not in soak.not_asked
        else f"{threshold.text}: not asked, its client is another"
    )


def _titles(probes: Iterable[Probe]) -> list[str]:
    return [
        probe.title + (f" within {format_duration(probe.within)}" if probe.within else "") for probe in probes
    ]


def _written(loaded: Loaded, path: Path) -> str:
    """Return an entry as it stands in the file, on one line."""
    nodes = [node for node, _ in loaded.document.walk(path)]
    return _line(nodes[-1]).removeprefix("{").removesuffix("}")


def _line(node: Node) -> str:
    match node:
        case Mapped():
            return "{" + ", ".join(f"{key}: {_line(entry.node)}" for key, entry in node.entries.items()) + "}"
        case Listing():
            return "[" + ", ".join(map(_line, node.items)) + "]"
        case Scalar(value=str() as text):
            return " ".join(text.split())
        case Scalar():
            return str(node.value).lower()
        case _:
            return ""
