"""One run, from preflight to verdict. This page is its table of contents; `lifetimes` says what each of them does.

1. Read the soak file: every error at once, nothing touched (exit 2).
2. Heal what runs that died on this host, or on this soak's units, have left behind.
3. Preflight: units that only their engines know, commands, ports, locks, the run directory (exit 2).
4. Open the journal: from here on everything that happens is on record.
5. Start telemetry, links, units, watchdogs, broker, probes, each inside the one before; the system reaches its steady state.
6. Soak: loads, a baseline if one is wanted, then faults, until `duration`, a signal, or the end of what soakd can answer for.
7. Unwind: undo faults, stop loads, settle, look once more, stop units.
8. Judge from the journal alone, write the reports, run the `on:` commands.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import structlog

import supervisor
from supervisor import lifetimes
from supervisor.abandoned import heal_abandoned
from supervisor.broker.embedded import ports_in_use
from supervisor.claiming import claimed, opened
from supervisor.ending import End, Guardian, Interrupted, signals
from supervisor.engines.descriptors import allow_descriptors
from supervisor.hooks import run_hooks
from supervisor.journal.base import JournalError
from supervisor.journal.events import (
    EndReason,
    JournalTrouble,
    Phase,
    PhaseEntered,
    Record,
    RunEnded,
    RunStarted,
    VerdictReached,
)
from supervisor.journal.replay import ReplayError, replay
from supervisor.journal.runs import RunIndex, boot_id, state_dir
from supervisor.journal.writer import JournalWriter
from supervisor.judge.report import write_reports
from supervisor.judge.verdict import Judgement, judge
from supervisor.lifetimes import CannotStart, Run
from supervisor.soakfile.discovery import discovered, tidied
from supervisor.soakfile.load import Loaded, load
from supervisor.soakfile.plan import warnings
from supervisor.telemetry import systemd
from supervisor.telemetry.lag import keep_prompt
from supervisor.telemetry.output import Output

_log: Final = structlog.get_logger("soakd")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about a run."""

    file: Path
    root: Path
    """Where run directories go."""
    duration: str | None = None
    """As written, such as 10m."""
    seed: int | None = None
    guardian: int | None = None
    """The descriptor whose end of file says that the guardian is gone."""
    report: int | None = None
    """The descriptor on which the guardian is told the run directory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    code: int
    directory: Path
    judgement: Judgement


async def run(options: Options, output: Output) -> Outcome:
    """Run a soak; SoakFileError or CannotStart if it cannot begin."""
    allow_descriptors()
    overrides = {"duration": options.duration, "seed": options.seed}
    loaded = await anyio.to_thread.run_sync(lambda: load(options.file, overrides=overrides))
    soak = loaded.soak
    end = End(soak.grace)
    async with signals(end):
        index = RunIndex(state_dir())
        await heal_abandoned(index)
        loaded = await discovered(await tidied(loaded))
        soak = loaded.soak
        await preflight(loaded, options.root)
        async with (
            claimed(index, loaded, options.root, options.report) as (run_id, directory),
            opened(directory) as journal,
        ):
            seed = soak.seed if soak.seed is not None else random.SystemRandom().randrange(2**31)
            file = loaded.path.absolute()  # recovery may have another working directory
            this = Run(run_id, soak, file, directory, seed, journal, end, Guardian(options.guardian))
            this.loaded, this.read = loaded, partial(reread, file, overrides, directory)
            await soak_it(this, output, loaded.secrets)
            return await verdict(this, journal)


def reread(file: Path, overrides: Mapping[str, str | int | None], directory: Path) -> Loaded:
    """Read the soak file again as it is now; an embedded broker has the ports that it has."""
    ports = ports_in_use(directory)
    return load(file, overrides=overrides, ports=iter(ports) if ports else None)


async def preflight(loaded: Loaded, runs: Path) -> None:
    """Refuse to start what cannot work: commands that are not there, ports in use."""
    if problems := await anyio.to_thread.run_sync(warnings, loaded, runs):
        raise CannotStart(*problems)


async def begin(this: Run) -> None:
    """Put the beginning on record; a run that cannot write is refused, one that can no longer write goes on."""
    soak = this.soak
    try:
        await this.journal.commit(
            RunStarted(
                run=this.id,
                soak=soak.soak,
                seed=this.seed,
                soakd=supervisor.__version__,
                host=socket.gethostname(),
                pid=os.getpid(),
                boot=boot_id(),
                file=str(this.file),
                duration=soak.duration,
                baseline=soak.baseline,
                counters={name: load.counters for name, load in soak.loads.items() if load.counters},
                settled={name: load.settled for name, load in soak.loads.items() if load.settled},
                units=tuple(soak.units()),
                engines={unit: engine for unit, (engine, _) in soak.units().items()},
                loads=tuple(soak.loads),
                logged=tuple(name for name, load in soak.loads.items() if load.logs),
                faults=tuple(soak.faults),
                probes=tuple(probe.title for probe in lifetimes.steady_probes(soak)),
                planned={
                    name: min(len(fault.at), fault.times or len(fault.at))
                    for name, fault in soak.faults.items()
                    if fault.at is not None
                },
                thresholds=tuple(map(str, soak.asked)),
                not_asked=tuple(map(str, soak.not_asked)),
                clients=soak.clients(),
                facts=lifetimes.facts(),
            )
        )
    except JournalError as error:
        raise CannotStart(
            f"cannot keep a journal in {this.directory}: {error}; free some space or use --run-dir"
        ) from error


async def soak_it(this: Run, output: Output, hidden: frozenset[str]) -> None:
    """Open the lifetimes, soak until the end, and unwind them. CannotStart passes, being stopped while starting does not."""
    phase = this.journal.emit
    try:
        async with AsyncExitStack() as lifetime:
            enter = lifetime.enter_async_context
            await enter(lifetimes.telemetry(this, output, hidden))
            lifetime.enter_context(lifetimes.thresholds(this))
            await begin(this)
            phase(PhaseEntered(phase=Phase.STARTING))
            await enter(lifetimes.links(this))
            fleet = await enter(lifetimes.units(this))
            await enter(lifetimes.watchdogs(this, fleet))
            connections = await enter(lifetimes.broker(this))
            steady = await enter(lifetimes.probes(this, fleet, connections))
            lifetime.callback(phase, PhaseEntered(phase=Phase.SETTLING))
            keep_prompt()
            this.start = time.monotonic()
            phase(PhaseEntered(phase=Phase.BASELINE if this.soak.baseline else Phase.SOAKING))
            systemd.notify(f"READY=1\nSTATUS=soaking {this.soak.soak}")
            flush = await enter(lifetimes.loads(this, fleet, connections))
            if this.soak.baseline is None or await undisturbed(this, this.soak.baseline, flush):
                await enter(lifetimes.faults(this, fleet, connections, steady))
            await over(this)
    except Interrupted:
        await over(this)
    except CannotStart as error:
        await ended(this, EndReason.FAILED_TO_START, str(error))
        raise


async def undisturbed(this: Run, seconds: float, flush: Callable[[], None]) -> bool:
    """Let the baseline pass, and begin the soak; False if the end came first."""
    with anyio.move_on_after(this.start + seconds - time.monotonic()):
        await this.end.wait()
    if this.end.reason is not None:
        return False
    flush()  # what was counted so far belongs to the baseline
    this.journal.emit(PhaseEntered(phase=Phase.SOAKING))
    return True


async def over(this: Run) -> None:
    """Wait for the end of the soak and put it on record."""
    with anyio.move_on_after(this.soak.duration) as this.lasting:
        this.lasting_since = anyio.current_time()
        await this.end.wait()
    this.end(EndReason.DURATION)
    assert this.end.reason is not None  # noqa: S101  # it was set one line above at the latest
    await ended(this, this.end.reason, this.end.detail)
    # Only a stop that was asked for: a service manager counts its stop timeout from STOPPING=1 on, and an end in peace may take longer.
    systemd.notify("STOPPING=1" if this.end.reason is EndReason.SIGNAL else f"STATUS=over: {this.end.reason}")
    this.journal.emit(PhaseEntered(phase=Phase.STOPPING))


async def ended(this: Run, reason: EndReason, detail: str) -> None:
    """Write the end down; if that cannot be made durable the journal's own trouble says so, and judging goes on."""
    try:
        await this.journal.commit(RunEnded(reason=reason, detail=detail))
    except JournalError:
        return


async def verdict(this: Run, journal: JournalWriter) -> Outcome:
    """Judge from the journal, write the reports, and run what the soak file wants run."""
    directory = this.directory
    journal.emit(PhaseEntered(phase=Phase.JUDGING))
    with suppress(JournalError):  # the journal is in trouble and has said so
        await journal.call(lambda: None)  # everything before this is written
    judgement = await anyio.to_thread.run_sync(_judge, directory, journal.trouble)
    try:
        await journal.commit(VerdictReached(verdict=judgement.verdict, reasons=judgement.reasons))
        await anyio.to_thread.run_sync(write_reports, directory, judgement)
    except (JournalError, OSError) as error:
        trouble = JournalTrouble(what="write-failed", detail=f"cannot write the reports: {error}")
        journal.emit(trouble)
        judgement = await anyio.to_thread.run_sync(_judge, directory, (*journal.trouble, trouble))
        # Nobody hears of what cannot be written: this line is all there is to see of the verdict.
        _log.error(f"verdict: {judgement.verdict}", reasons=list(judgement.reasons))
    await run_hooks(this.soak, judgement.verdict, directory, this.base, journal)
    return Outcome(judgement.verdict.exit_code, directory, judgement)


def _judge(directory: Path, trouble: tuple[JournalTrouble, ...]) -> Judgement:
    """Judge from the journal, and from its troubles as they are remembered: a disk that stayed full could not take them."""
    unwritten = [Record(0, time.time(), time.monotonic(), event) for event in trouble]
    try:
        return judge(chain(replay(directory), unwritten))
    except (ReplayError, OSError) as error:
        gone = JournalTrouble(what="write-failed", detail=str(error))
        return judge([*unwritten, Record(0, time.time(), time.monotonic(), gone)])
