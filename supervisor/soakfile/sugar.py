"""Shorthand that is written out before the models see the file: `broker: {embedded: {nodes: 3}}`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from supervisor.broker.embedded import ENGINE, expand
from supervisor.soakfile.errors import Path
from supervisor.soakfile.shape import leaves
from supervisor.soakfile.wording import Finding

SOURCE: Final[Path] = ("broker", "embedded")
_NODE: Final = re.compile(r"nats\d+")


@dataclass(frozen=True, slots=True)
class Written:
    """A soak file's data with its sugar written out."""

    data: dict[str, Any]
    made: frozenset[Path] = frozenset()
    """The parts that the file does not have; what is wrong with them is said of `SOURCE`."""
    findings: list[Finding] = field(default_factory=list)
    error: ValidationError | None = None
    """What is wrong with the sugar itself, its locations seen from `SOURCE`."""
    complete: bool = True
    """False: it could not be written out, and the data is without a broker."""

    def source(self, path: Path) -> Path:
        """Return the path in the file for a path in the data."""
        return SOURCE if any(path[: len(made)] == made for made in self.made) else path


def write_out(data: dict[str, Any], ports: Iterator[int], base: FilePath) -> Written:
    """Write out the sugar in a soak file's data, which itself is not changed; paths in it are seen from `base`."""
    broker = data.get("broker")
    if not isinstance(broker, dict) or "embedded" not in broker:
        return Written(data)
    rest = {key: value for key, value in data.items() if key != "broker"}
    links = _to_nodes(data.get("links"))
    try:
        engine, made = expand(broker["embedded"], ports, base, advertise=not links)
    except ValidationError as error:
        return Written(rest, error=error, complete=False)
    except ValueError as error:
        return Written(rest, findings=[Finding(SOURCE, str(error))], complete=False)
    others = {step for path, _ in leaves(data.get("engines")) for step in path}
    made["nodes"] = {
        f"{ENGINE}/{name}" if name in others else name: node for name, node in made["nodes"].items()
    }
    servers = dict(zip((f"nats{number}" for number in count(1)), made["servers"], strict=False))
    led = {
        name: {**data["links"][name], "to": servers[node]} for name, node in links.items() if node in servers
    }
    own = {key: value for key, value in broker.items() if key != "embedded"}
    findings = [
        Finding(("broker", key), f"an embedded broker brings its own {key}: leave it out", key=True)
        for key in own.keys() & made.keys()
    ]
    engines = data.get("engines") or {}
    taken = isinstance(engines, dict) and ENGINE in engines
    if taken:
        what = f"an embedded broker's servers run on an engine called {ENGINE}: give this one another name"
        findings.append(Finding(("engines", ENGINE), what, key=True))
    elif isinstance(engines, dict):
        engines = {ENGINE: engine, **engines}
    paths = {("engines", ENGINE), *(("broker", key) for key in made)}
    return Written(
        {**data, "engines": engines, "broker": {**made, **own}}
        | ({"links": {**data["links"], **led}} if led else {}),
        frozenset(paths - {finding.path for finding in findings}),
        findings,
        complete=not taken,
    )


def _to_nodes(links: object) -> dict[str, str]:
    """Return the links that lead to a node of the embedded broker, each with the node's name."""
    return {
        name: node
        for name, link in (links.items() if isinstance(links, dict) else ())
        if isinstance(link, dict) and isinstance(to := link.get("to"), str)
        if _NODE.fullmatch(node := to.removeprefix(f"{ENGINE}/"))
    }
