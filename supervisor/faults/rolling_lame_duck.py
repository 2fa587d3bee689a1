"""The fault that takes a cluster through a rollout as its makers recommend it: lame-duck mode, node by node."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import ClassVar, Final

import anyio
from pydantic import Field

from supervisor.broker.connection import BrokerError
from supervisor.broker.control import system, unwell
from supervisor.broker.embedded import LAME_DUCK
from supervisor.engines.fleet import Desired
from supervisor.engines.selectors import Selector
from supervisor.faults.base import Layout, Problem, Site, World
from supervisor.faults.rolling import Rolling, back_and_ready
from supervisor.faults.units import is_up
from supervisor.values import Duration, format_duration

LOOK: Final = 0.1
"""Seconds from one look to the next."""
_DURATION: Final = re.compile(
    r"""^(?:"[^"\n]*"|'[^'\n]*'|(?!#|//)[^"'\n])*?["']?\blame_duck_duration\b"""
    r"""["']?\s*[:=]?\s*["']?(\d+(?:\.\d+)?)(ms|s|m|h)?\b""",
    re.MULTILINE,
)
"""Not in a comment, which `#` or `//` begins, unless it stands in quotes as in an address."""
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class RollingLameDuck(Rolling):
    """Put one node after the other into lame-duck mode, wait until it is gone, start it, wait until all have caught up.

    A node goes when its last client is gone, so it takes as long as there are clients: never a fixed time. Its health check fails all
    along, which must not make anybody restart it: it is held down until then. The next one's turn comes when every node says that it is
    well, which in a cluster means that all streams and consumers on it are current.
    """

    key: ClassVar[str] = "rolling_lame_duck"

    rolling_lame_duck: Selector = Field(description="The nodes, in this order.")
    catch_up: Duration = Field(
        120.0,
        gt=0,
        description="How long the cluster may take until all nodes are well, before and after each turn.",
    )

    def problems(self, layout: Layout) -> Iterator[Problem]:
        """A system account or nodes that are not named, and servers that would refuse to start."""
        yield from super().problems(layout)
        broker, nodes = layout.broker, layout.nodes()
        if broker is None:
            yield Problem(
                (), f"{self.key} needs a broker: add the section broker, with its servers and nodes"
            )
        elif broker.system is None:
            yield Problem(
                (),
                f"{self.key} needs the system account: add system: {{user: ..., password: ...}} to the section broker",
            )
        for unit in layout.selected(self.selector):
            if broker is not None and unit not in nodes:
                yield Problem((self.key,), f"{unit} is not a server of the broker: add it to broker: nodes")
            for file, content in layout.files_of(unit).items():
                for what in _too_short(unit, file, content):
                    yield Problem((self.key,), what)

    def missing(self, layout: Layout, site: Site) -> Iterator[str]:
        """Servers that would refuse to start for what stands in a configuration beside the soak file."""
        yield from super().missing(layout, site)
        for unit in layout.selected(self.selector):
            for file, content in layout.configuration_of(unit, site.base).items():
                yield from _too_short(unit, file, content)

    async def turn(self, world: World, unit: str, by: str) -> None:
        """Wait until all are well, see the node off, have it back, wait until all are well again."""
        fleet = world.fleet
        await self._all_well(world)
        await fleet.hold(unit, by=by, desired=Desired.DOWN)
        await fleet.kill(unit, by=by, signal=signal.SIGUSR2)
        while is_up(fleet, unit):  # noqa: ASYNC110  # `inject_timeout` is the deadline: its clients decide
            await anyio.sleep(LOOK)
        await back_and_ready(fleet, unit, by=by)
        await self._all_well(world)

    async def _all_well(self, world: World) -> None:
        broker = world.connections.broker if world.connections else None
        names = [broker.server_of(node) for node in broker.nodes] if broker else []
        bad: dict[str, str] = {}
        with anyio.move_on_after(self.catch_up):
            while True:
                try:
                    bad = await unwell(await system(world.connections), names)
                except BrokerError as error:
                    bad = {"the cluster": str(error)}
                if not bad:
                    return
                await anyio.sleep(LOOK)
        said = "; ".join(f"{name}: {why}" for name, why in bad.items()) or "nobody says why"
        raise BrokerError(f"not all nodes were well within {format_duration(self.catch_up)}: {said}")


def _too_short(unit: str, file: str, content: str) -> Iterator[str]:
    for number, of in _DURATION.findall(content):
        if (seconds := float(number) * _SECONDS[of]) < LAME_DUCK:
            yield (
                f"{unit} would refuse to start: lame_duck_duration in {file} is {format_duration(seconds)}, "
                f"expected {format_duration(LAME_DUCK)} or more"
            )
