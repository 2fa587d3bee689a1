"""The innermost lifetime: the system is disturbed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from supervisor.broker.connection import Connections
from supervisor.engines.fleet import Fleet
from supervisor.faults.base import World
from supervisor.faults.limits import Bounds
from supervisor.faults.operator import Operator
from supervisor.faults.scheduler import Scheduler
from supervisor.lifetimes.looking import steady_probes
from supervisor.lifetimes.run import LOOK, Run
from supervisor.probes.expectations import Expectations
from supervisor.probes.steady import SteadyState
from supervisor.reload import Reload
from supervisor.web.control import Place, control


@asynccontextmanager
async def faults(
    run: Run, fleet: Fleet, connections: Connections | None, steady: SteadyState
) -> AsyncGenerator[None]:
    """Disturb the system; on the way out undo what is open, before anything else ends."""
    expectations = Expectations(run.soak.expected(), steady.view, run.journal)
    scheduler = Scheduler(
        run.soak.faults,
        World(
            fleet,
            connections,
            base=run.base,
            run_dir=run.directory,
            born=run.began,
            environment=run.environment,
            links=run.links,
            heard=run.timeline.heard,
        ),
        run.journal,
        steady,
        run.seed,
        time.monotonic(),
        run.guardian.alive,
        nemesis=run.soak.nemesis,
        bounds=Bounds(run.soak.limits, run.soak.nodes()),
        expectations=expectations,
    )

    run.adopting.append(lambda soak: expectations.expect(soak.expected()))
    reload = None
    if run.loaded and run.read:
        probes = partial(steady_probes, known=fleet.ids)
        reload = Reload(run.loaded, run.read, run.directory, run.journal, scheduler, run.adopt, probes)
    port = run.soak.control
    place = Place(run.directory, port.token.get_secret_value(), port.port) if port else Place(run.directory)
    async with run.leaves() as supervisor:
        supervisor.keep("faults", scheduler.run)
        supervisor.keep(
            "control", partial(control, Operator(scheduler), place, reload.reload if reload else None)
        )
        if reload:
            supervisor.keep("reload", partial(reload.follow, run.end.reload_asked))
        yield
        patience = max((fault.recovery_timeout for fault in run.soak.faults.values()), default=0.0)
        with anyio.CancelScope(shield=True):
            await run.end.spend(patience, scheduler.finish, keep=2 * LOOK)
