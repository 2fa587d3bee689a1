"""The lifetime of what looks at the system: probes and the steady state, the broker's health, the witness of episodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import anyio

from supervisor.broker.connection import Connections
from supervisor.broker.health.watch import HealthWatch
from supervisor.engines.fleet import Fleet
from supervisor.lifetimes.run import LOOK, CannotStart, Run
from supervisor.probes.base import Probe, View
from supervisor.probes.steady import SteadyState, default_probes
from supervisor.probes.witness import Witness
from supervisor.soak import Soak

FIRST_STEADY: Final = 60.0
"""Seconds that the system may take to its first steady state, before the soak begins."""
SETTLE: Final = 60.0
"""Seconds that the system may take to its steady state after the last load has stopped."""


@asynccontextmanager
async def probes(run: Run, fleet: Fleet, connections: Connections | None) -> AsyncGenerator[SteadyState]:
    """Look at the system all along: it must be steady before the soak begins, and is looked at once more at its end."""
    async with aiohttp.ClientSession() as http, run.leaves() as supervisor:
        view = View(
            base=run.base,
            http=http,
            fleet=fleet,
            connections=connections,
            environment=run.environment,
            restarts=lambda unit: run.status.units[unit].restarts if unit in run.status.units else 0,
        )
        steady = SteadyState(steady_probes(run.soak), view, run.journal)
        async with run.end.interrupts():
            holds, failing = await steady.wait(FIRST_STEADY)
        if not holds:
            raise CannotStart(
                f"cannot begin the soak: the steady state did not hold within {FIRST_STEADY:.0f}s of the start; "
                "see steady_state in the soak file, and the units' output in the run directory",
                *(f"  {title}: {_seen(steady, title)}" for title in failing),
            )
        supervisor.keep("steady state", steady.run)
        run.adopting.append(lambda soak: steady.expect(steady_probes(soak, fleet.ids)))
        if connections is not None:
            run.health = HealthWatch(connections, http, run.journal)
            supervisor.keep("broker health", run.health.run)
        witness = Witness(steady, run.journal)
        supervisor.keep("witness", witness.run)
        forget = run.journal.subscribe(witness.apply)
        yield steady
        forget()
        with anyio.CancelScope(shield=True):
            await run.end.spend(SETTLE, steady.wait, keep=LOOK)


def _seen(steady: SteadyState, title: str) -> str:
    reading = steady.readings.get(title)
    return (reading.detail or str(reading.value)) if reading else "it could not be looked at in time"


def steady_probes(soak: Soak, known: Collection[str] | None = None) -> tuple[Probe, ...]:
    """Return the expectations of the steady state, the default ones where the soak file says nothing: of units that are `known`."""
    # A unit that may end in peace (transient, temporary) cannot be expected to be up.
    mortal = {unit for watchdog, unit in soak.watched() if watchdog.restart != "permanent"}
    lasting = [
        unit for unit in (soak.units() if known is None else known) if unit not in mortal | soak.resting()
    ]
    return soak.steady_state or default_probes(lasting, broker=soak.broker is not None)
