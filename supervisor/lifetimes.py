"""The lifetimes of a run, from the outside in. Each is a context that starts a part and, on the way out, ends it in order.

What must outlive is outside: telemetry > links > units > watchdogs > broker > probes > loads > faults. The way out is the same list read
backwards: faults are undone while units and watchdogs live, loads stop, the system settles and is looked at once more.
"""

from __future__ import annotations

import math
import platform
import socket
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio
import structlog

from supervisor.broker.connection import BrokerError, Connections, open_connections
from supervisor.broker.control import Leaders
from supervisor.broker.embedded import free_ports
from supervisor.broker.health.watch import HealthWatch
from supervisor.broker.monitor.monitor import Monitor
from supervisor.broker.options import DEFAULT, SYSTEM
from supervisor.ending import End, Guardian
from supervisor.engines.base import EngineContext, EngineError, Units
from supervisor.engines.fleet import Fleet
from supervisor.engines.survivors import RUN as SOAKD_RUN
from supervisor.faults.base import World
from supervisor.faults.limits import Bounds
from supervisor.faults.operator import Operator
from supervisor.faults.scheduler import Scheduler
from supervisor.journal.base import Journal, JournalError
from supervisor.journal.events import EndReason
from supervisor.journal.replay import ReplayError, replay
from supervisor.journal.timeline import Timeline
from supervisor.judge.abort import Abort
from supervisor.judge.evaluation import Verdict
from supervisor.judge.verdict import judge
from supervisor.links.base import LinkError, told
from supervisor.links.control import Links
from supervisor.live.board import Board
from supervisor.live.picture import Wish
from supervisor.live.target import ENDPOINT
from supervisor.loads.base import Load, LoadContext
from supervisor.loads.crew import run_load
from supervisor.loads.made import Leftovers
from supervisor.loads.recorder import Recorder
from supervisor.loads.server_logs import UnitLogs
from supervisor.probes.base import Probe, View
from supervisor.probes.expectations import Expectations
from supervisor.probes.steady import SteadyState, default_probes
from supervisor.probes.witness import Witness
from supervisor.reload import Reload
from supervisor.soak import Soak
from supervisor.soakfile.load import Loaded
from supervisor.supervision import Supervisor, nursery
from supervisor.telemetry import console, metrics, narrate, systemd
from supervisor.telemetry.lag import Lag, sample
from supervisor.telemetry.logging import configure
from supervisor.telemetry.output import Output
from supervisor.telemetry.status import Status
from supervisor.watch.kept import Kept
from supervisor.watch.watchdog import WatchContext
from supervisor.web.app import EndpointError, serve
from supervisor.web.control import Place, control

FIRST_STEADY: Final = 60.0
"""Seconds that the system may take to its first steady state, before the soak begins."""
STOP_LOADS: Final = 10.0
SETTLE: Final = 60.0
"""Seconds that the system may take to its steady state after the last load has stopped."""
STOP_UNITS: Final = 30.0
TIDY: Final = 10.0
"""Seconds to remove what loads have made on the broker."""
LOOK: Final = 2.0
"""Seconds of the grace that are kept for the last look, the verdict and its files."""

_log: Final = structlog.get_logger("soakd")


class CannotStart(Exception):  # noqa: N818  # what happened is in the name
    """The run cannot begin; each line says what could not be done, where, and what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(slots=True)
class Run:
    """What the lifetimes share."""

    id: str
    soak: Soak
    file: Path
    """The soak file."""
    directory: Path
    seed: int
    journal: Journal
    end: End
    guardian: Guardian
    status: Status = field(default_factory=Status)
    timeline: Timeline = field(default_factory=Timeline)
    monitor: Monitor | None = None
    board: Board | None = None
    """What `/status` shows of the broker; None while nobody looks at it."""
    health: HealthWatch | None = None
    leaders: Leaders = field(default_factory=Leaders)
    links: Links | None = None
    leftovers: Leftovers = field(default_factory=Leftovers)
    """What loads have made on the broker and no longer need."""
    began: float = field(default_factory=time.monotonic)
    """Monotonic seconds at which the run began, before anything was started."""
    start: float = 0.0
    """Monotonic seconds at which the soak itself began."""
    loaded: Loaded | None = None
    """The soak file as it is in use; None: it cannot be read again."""
    read: Callable[[], Loaded] | None = None
    lasting: anyio.CancelScope | None = None
    """What ends the soak when its duration is over, which counts from `lasting_since` by the event loop's clock."""
    lasting_since: float = 0.0
    adopting: list[Callable[[Soak], None]] = field(default_factory=list)
    """The lifetimes that go on with a soak file that was read again."""

    def adopt(self, soak: Soak) -> None:
        """Go on with the soak file as it is now."""
        self.soak = soak
        self.end.allow(soak.grace)
        for adopt in self.adopting:
            adopt(soak)
        if self.lasting:
            self.lasting.deadline = self.lasting_since + (
                math.inf if soak.duration is None else soak.duration
            )

    @property
    def base(self) -> Path:
        """The soak file's folder: relative paths in it are seen from here."""
        return self.file.parent

    def more(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what `/status` has of the broker; ValueError for a query that is wrong."""
        wish = Wish.model_validate(dict(query))
        return {"broker": self.board and self.board.picture(wish).model_dump()}

    def gauges(self) -> Mapping[str, float]:
        """Return the numbers of the monitor and of the links, for metrics."""
        return {
            **(self.monitor.gauges() if self.monitor else {}),
            **(self.links.gauges() if self.links else {}),
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """What commands are told about broker and links, and the run's id, by which recovery finds what they left."""
        return {**self.told, SOAKD_RUN: self.id}

    @property
    def told(self) -> Mapping[str, str]:
        """What units and commands are told: where the links are, and the broker, by way of links where some lead to it."""
        broker, links = self.soak.broker, self.links
        servers = told(broker.servers, links.ways) if broker and links else ()
        return {
            **(broker.environment(servers) if broker else {}),
            **(links.environment if links else {}),
        }

    def gave_up(self, reason: str) -> None:
        """End the run because a part of soakd is beyond help."""
        self.end(EndReason.GAVE_UP, reason)

    @asynccontextmanager
    async def leaves(self) -> AsyncGenerator[Supervisor]:
        """Open a place for leaf tasks that are kept up and end with the lifetime they belong to."""
        async with nursery() as group:
            yield Supervisor(group, self.journal, self.gave_up)


@asynccontextmanager
async def telemetry(run: Run, output: Output, secrets: frozenset[str]) -> AsyncGenerator[None]:
    """Show the run: log lines, live view, endpoint, service manager, and the sampler of gauges."""
    status, lag = run.status, Lag()
    run.journal.subscribe(run.timeline.apply)
    run.journal.subscribe(status.apply)
    screen = console.Screen(status, output) if output.isatty() else None
    configure(screen or output, terminal=screen is not None, secrets=secrets)
    run.journal.subscribe(narrate.narrate)
    web = run.soak.web
    try:
        registry, ready = metrics.registry(status), lambda: run.start > 0
        async with (
            serve(status, registry, ready, web.host, web.port, more=run.more) as url,
            _announced(run.directory / ENDPOINT, url),
            run.leaves() as supervisor,
        ):
            _log.info("endpoint", url=url, run_dir=str(run.directory))
            supervisor.keep("lag", lag.run)
            supervisor.keep("observations", partial(sample, run.journal, lag, run.gauges))
            supervisor.keep("service manager", partial(systemd.keep_alive, lambda: lag.ticks))
            supervisor.keep("guardian", partial(run.guardian.watch, run.end))
            if screen is not None:
                supervisor.keep("console", screen.run)
            yield
    except EndpointError as error:
        raise CannotStart(str(error)) from error


@asynccontextmanager
async def _announced(file: Path, url: str) -> AsyncGenerator[None]:
    """Let others of this host find the endpoint as long as it is open; a disk that is full does not end a run."""
    with suppress(OSError):
        await anyio.to_thread.run_sync(file.write_text, f"{url}\n")
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.to_thread.run_sync(file.unlink)


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


@contextmanager
def thresholds(run: Run) -> Generator[None]:
    """End the run as soon as a threshold with `abort` can no longer be kept."""
    watched = [threshold for threshold in run.soak.asked if threshold.abort]
    forget = (
        run.journal.subscribe(Abort(watched, partial(run.end, EndReason.ABORT)).apply) if watched else None
    )
    yield
    if forget:
        forget()


@asynccontextmanager
async def loads(
    run: Run, fleet: Fleet, connections: Connections | None
) -> AsyncGenerator[Callable[[], None]]:
    """Put the system under load; on the way out let every load finish what it is doing, and count it.

    What is yielded emits all that was counted up to now.
    """
    stop, logs = anyio.Event(), UnitLogs(fleet, run.soak.nodes(), run.journal) if run.soak.nodes() else None
    async with AsyncExitStack() as stack:
        recorders: list[Recorder] = []
        async with run.leaves() as counting, run.leaves() as supervisor:
            running: dict[str, anyio.Event] = {}
            for name, load in run.soak.loads.items():
                recorder = Recorder(name, run.journal, run.timeline, every=run.soak.step)
                stack.callback(recorder.flush)
                recorders.append(recorder)
                counting.keep(f"windows {name}", recorder.run)
                context = LoadContext(
                    name=name,
                    run=run.id,
                    base=run.base,
                    directory=run.directory,
                    start=run.start,
                    seed=run.seed,
                    journal=run.journal,
                    timeline=run.timeline,
                    recorder=recorder,
                    stop=stop,
                    connections=connections,
                    server_logs=logs,
                    leftovers=run.leftovers,
                    environment=run.told,
                )
                running[name] = anyio.Event()
                supervisor.keep(f"load {name}", partial(_run_load, load, context, running[name]))

            def flush() -> None:
                for recorder in recorders:
                    recorder.flush()

            yield flush
            stop.set()
            with anyio.move_on_after(run.end.budget(STOP_LOADS, keep=LOOK), shield=True):
                for ended in running.values():
                    await ended.wait()


async def _run_load(load: Load, context: LoadContext, ended: anyio.Event) -> None:
    try:
        await run_load(load, context)
    except Exception:
        if context.stop.is_set():
            ended.set()
        raise
    ended.set()


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


def steady_probes(soak: Soak, known: Collection[str] | None = None) -> tuple[Probe, ...]:
    """Return the expectations of the steady state, the default ones where the soak file says nothing: of units that are `known`."""
    # A unit that may end in peace (transient, temporary) cannot be expected to be up.
    mortal = {unit for watchdog, unit in soak.watched() if watchdog.restart != "permanent"}
    lasting = [
        unit for unit in (soak.units() if known is None else known) if unit not in mortal | soak.resting()
    ]
    return soak.steady_state or default_probes(lasting, broker=soak.broker is not None)


def facts() -> dict[str, str]:
    """Return what the report says about the machine."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
