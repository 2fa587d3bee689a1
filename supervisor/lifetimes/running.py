"""The lifetimes of what the soak runs on: links, units and their watchdogs, the broker."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import anyio
import structlog

from supervisor.broker.connection import BrokerError, Connections, open_connections
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.options import DEFAULT, SYSTEM
from supervisor.broker.ports import free_ports
from supervisor.engines.base import EngineContext, EngineError, Units
from supervisor.engines.fleet import Fleet
from supervisor.journal.base import JournalError
from supervisor.journal.replay import ReplayError, replay
from supervisor.judge.evaluation import Verdict
from supervisor.judge.verdict import judge
from supervisor.lifetimes.run import LOOK, CannotStart, Run
from supervisor.links.base import LinkError
from supervisor.links.control import Links
from supervisor.live.board import Board
from supervisor.watch.kept import Kept
from supervisor.watch.watchdog import WatchContext

STOP_UNITS: Final = 30.0
TIDY: Final = 10.0
"""Seconds to remove what loads have made on the broker."""

_log: Final = structlog.get_logger("soakd")


@asynccontextmanager
async def links(run: Run) -> AsyncGenerator[None]:
    """Relay between clients and servers. Units connect through links, so these are there before them and after them."""
    if not run.soak.links:
        yield
        return
    try:
        run.links = links = Links(run.soak.links, run.id, run.journal, free_ports())
    except LinkError as error:
        raise CannotStart(f"{run.file}: {error}") from error
    try:
        async with run.leaves() as supervisor:
            supervisor.keep("links", links.run)
            async with run.end.interrupts():
                await links.ready()
            yield
    except LinkError as error:
        raise CannotStart(str(error)) from error
    finally:
        links.close()


@asynccontextmanager
async def units(run: Run) -> AsyncGenerator[Fleet]:
    """Open the engines and start every unit, each after what it depends on; end them all on the way out."""
    async with AsyncExitStack() as engines:
        opened: dict[str, Units] = {}
        for name, engine in run.soak.engines.items():
            context = EngineContext(name, run.id, run.directory, run.base, run.journal, run.told)
            try:
                opened[name] = await engines.enter_async_context(engine.open(context))
            except EngineError as error:
                raise CannotStart(f"{run.file}: engines.{name}: {error}") from error
        fleet = Fleet(
            run.journal,
            opened,
            run.soak.units(),
            after=run.soak.after(),
            leaders=run.leaders.unit,
            resting=run.soak.resting(),
        )
        for watchdog, unit in run.soak.watched():
            watchdog.enlist(unit, fleet)
        supervisor = await engines.enter_async_context(run.leaves())
        supervisor.keep("fleet", fleet.run)
        try:
            async with run.end.interrupts():
                await fleet.start_all()
            yield fleet
        except EngineError as error:
            raise CannotStart(str(error)) from error
        finally:
            with anyio.move_on_after(run.end.budget(STOP_UNITS, keep=LOOK), shield=True):
                await fleet.stop_all()


@asynccontextmanager
async def watchdogs(run: Run, fleet: Fleet) -> AsyncGenerator[None]:
    """Keep the units up that the soak file wants kept up."""
    context = WatchContext(fleet, run.journal, run.timeline)
    async with run.leaves() as supervisor:
        kept = Kept(run.soak.watched(), context, supervisor)
        run.adopting.append(lambda soak: kept.adopt(soak.watched()))
        yield


@asynccontextmanager
async def broker(run: Run) -> AsyncGenerator[Connections | None]:
    """Open the connections to the broker and wait for its first answer."""
    if run.soak.broker is None:
        yield None
        return
    async with open_connections(run.soak.broker, run.journal) as connections, run.leaves() as supervisor:
        try:
            async with run.end.interrupts():
                handle = await connections.handle("default")
                await handle.wait_connected(run.soak.broker.reach)
        except BrokerError as error:
            raise CannotStart(str(error)) from error
        run.leaders.connections = connections
        own = await connections.new(DEFAULT, "monitor")
        system = await connections.handle(SYSTEM) if run.soak.broker.system else None
        run.monitor = monitor = Monitor(run.soak.broker.monitor, own, run.journal, system)
        run.board = Board(monitor.snapshot, lambda: run.health.last if run.health else None)
        supervisor.keep("broker monitor", monitor.run)
        yield connections
        run.board = None
        with anyio.move_on_after(run.end.budget(TIDY, keep=LOOK), shield=True):
            await _tidy(run)


async def _tidy(run: Run) -> None:
    """Remove the streams that loads have made, unless what is on record by now fails the run: then they are evidence."""
    if not run.leftovers.streams:
        return

    def failed() -> bool:
        return judge(replay(run.directory)).verdict is Verdict.FAIL

    with suppress(JournalError, ReplayError, OSError):  # nobody knows: they stay
        await run.journal.call(lambda: None)  # everything before this is written
        if await anyio.to_thread.run_sync(failed, abandon_on_cancel=True):
            kept = sorted(name for _, name in run.leftovers.streams)
            _log.info("streams of a run that failed are kept as evidence", streams=kept)
        else:
            await run.leftovers.remove()
