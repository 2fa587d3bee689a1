"""Heals after a run that died: ends what it started and undoes the episodes that its journal says are open.

The guardian does this at once, as `soakd recover RUN_DIR`; where the guardian died as well, the next start on this host or a
person does. All of it works from the run directory alone and may be done twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from supervisor.broker.connection import Connections, open_connections
from supervisor.engines.base import Engine, EngineContext, EngineError
from supervisor.engines.survivors import end_survivors
from supervisor.faults.base import World
from supervisor.faults.recovery import undo_open
from supervisor.journal.base import JournalError
from supervisor.journal.events import (
    EndReason,
    EpisodeClosed,
    RunEnded,
)
from supervisor.journal.runs import Locked, RunIndex, state_dir
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.links import remains
from supervisor.links.base import LinkError
from supervisor.past import CannotRecover, Past, read_past
from supervisor.reaching import Reached, names_of
from supervisor.soak import Soak
from supervisor.soakfile.errors import SoakFileError
from supervisor.soakfile.load import load_saved

WAIT_FOR_OTHERS: Final = 20.0
"""Seconds that somebody else may take to heal the same run."""


@asynccontextmanager
async def _alone(directory: Path) -> AsyncGenerator[None]:
    """Let one at a time heal a run, and nobody one that lives: the guardian, the next start and a person may all want to."""
    index, key = RunIndex(state_dir()), f"recover {directory}"
    if pid := await anyio.to_thread.run_sync(index.alive, directory):
        raise CannotRecover(
            f"cannot recover {directory}: the run goes on (pid {pid}); end it with `kill {pid}`"
        )
    lock = None
    with anyio.move_on_after(WAIT_FOR_OTHERS):
        while lock is None:
            try:
                lock = await anyio.to_thread.run_sync(index.lock, [key], "recover")
            except Locked:
                await anyio.sleep(0.05)
    if lock is None:
        raise CannotRecover(
            f"cannot recover {directory}: somebody else has been at it for {WAIT_FOR_OTHERS:.0f}s"
        )
    try:
        yield
    finally:
        lock.release()


async def recover(directory: Path) -> list[str]:
    """Heal one run; return what was done, in words. CannotRecover if something is still broken, with how to mend it."""
    try:
        async with _alone(directory):
            return await _heal(directory)
    except (EngineError, JournalError, OSError) as error:
        raise CannotRecover(f"cannot recover {directory}: {error}") from error


async def _heal(directory: Path) -> list[str]:
    past = await anyio.to_thread.run_sync(read_past, directory)
    base = Path(past.started.file).parent
    soak = await _read_soak(directory, Path(past.started.file), past.started.run)
    async with open_journal(directory) as journal:
        if not past.ended:
            journal.emit(RunEnded(reason=EndReason.DIED, detail="the daemon left without a word"))
        contexts = {
            name: EngineContext(
                name,
                past.started.run,
                directory,
                base,
                journal,
                recovering=True,
                units=names_of(past.started.engines, name),
                causes=past.causes,
            )
            for name in soak.engines
        }
        # Units that end with their run are ended first. The others are needed to undo what was done to them, and are put back
        # as they were found after that. A process that does not end is no reason to leave a fault in place.
        done, failed = await _end_processes_of(soak, contexts, past.started.run)
        lines, away = await _undo(soak, past, contexts, base, journal)
        failed += [f"{name}: {why}" for name, why in away.items()]
        there = {name: engine for name, engine in soak.engines.items() if name not in away}
        more = await _recover_engines(there, contexts, outliving=True)
        for episode in past.undone:
            journal.emit(EpisodeClosed(episode=episode, recovered=None))
    left = (await anyio.to_thread.run_sync(read_past, directory)).open
    done += [line for episode, line in lines.items() if episode not in left] + more[0]
    failed += [line for episode, line in lines.items() if episode in left] + more[1]
    if left and journal.trouble:
        why = journal.trouble[0].detail
        failed.append(f"the journal cannot record that {', '.join(left)} is undone: {why}")
    try:  # last of all: until here it relayed
        done += await end_links(past.started.run)
    except CannotRecover as error:
        failed.append(str(error))
    if failed:
        raise CannotRecover(f"cannot recover all of {directory}: {'; '.join(failed)}", done)
    return done


async def _undo(
    soak: Soak, past: Past, contexts: Mapping[str, EngineContext], base: Path, journal: JournalWriter
) -> tuple[dict[str, str], Mapping[str, str]]:
    """Undo what is open, as far as engines can be reached; return a line about each episode, and why which engines are away."""
    reached = Reached(soak.engines, contexts, past.started.engines, journal)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(reached.opened())
        servers_ended = _servers_ended(soak, past.started.engines)
        world = World(
            reached.fleet,
            await _connections(soak, past, journal, stack, servers_ended=servers_ended),
            base=base,
            environment=soak.broker.environment() if soak.broker else {},
            links=remains.Remains(past.started.run),
            servers_ended=servers_ended,
        )
        lines = await undo_open(past.open, soak.faults, world, journal, away=reached.missing)
    return dict(zip(past.open, lines, strict=True)), reached.away


async def _read_soak(directory: Path, file: Path, run: str) -> Soak:
    """Return the soak of a run. Secrets never stand in the run directory: the environment is read again, and the file itself."""
    try:
        return (await anyio.to_thread.run_sync(load_saved, directory / "soak.yaml", file)).soak
    except SoakFileError as error:
        ended = await end_processes(run) + len(await end_links(run))
        problems = "; ".join(map(str, error.problems))
        raise CannotRecover(
            f"cannot recover {directory}: {problems}; {ended} processes of it were ended, its open faults cannot be "
            f"undone like this: mend that and run `soakd recover {directory}`"
        ) from error


async def _recover_engines(
    engines: Mapping[str, Engine], contexts: Mapping[str, EngineContext], *, outliving: bool
) -> tuple[list[str], list[str]]:
    """Let engines clean up after the run, each also if another one cannot; return what was done, and what could not be."""
    done, failed = list[str](), list[str]()
    for name, engine in engines.items():
        if engine.units_outlive_run is outliving:
            try:
                done += await engine.recover(contexts[name])
            except EngineError as error:
                failed.append(f"{name}: {error}")
    return done, failed


async def _end_processes_of(
    soak: Soak, contexts: Mapping[str, EngineContext], run: str
) -> tuple[list[str], list[str]]:
    """End units that end with their run, and the commands of its loads and probes; return what was done, and what could not be."""
    done, failed = await _recover_engines(soak.engines, contexts, outliving=False)
    try:
        if commands := await end_processes(run):
            done.append(f"ended {commands} processes of loads, probes and faults")
    except CannotRecover as error:
        failed.append(str(error))
    return done, failed


async def end_processes(run: str) -> int:
    """End the processes that carry a run's id, which takes neither its soak file nor its journal; return how many."""
    try:
        return len(await anyio.to_thread.run_sync(end_survivors, run))
    except EngineError as error:
        raise CannotRecover(str(error)) from error


async def end_links(run: str) -> list[str]:
    """End the process of a run's links, if it is there; return what was done."""
    try:
        ended = await anyio.to_thread.run_sync(remains.end, run)
    except LinkError as error:
        raise CannotRecover(str(error)) from error
    return ["ended the process of the links"] if ended else []


async def _connections(
    soak: Soak, past: Past, journal: JournalWriter, stack: AsyncExitStack, *, servers_ended: bool
) -> Connections | None:
    """Open connections if an open fault needs them to be undone, unless the servers have ended with the run."""
    wanted = [fault for one in past.open.values() if (fault := soak.faults.get(one.written))]
    if soak.broker is None or not any(fault.undo_needs_broker for fault in wanted):
        return None
    if servers_ended:
        return None
    return await stack.enter_async_context(open_connections(soak.broker, journal))


def _servers_ended(soak: Soak, places: Mapping[str, str]) -> bool:
    """Say whether all servers of the broker were units that end with their run; `places` has the engine of each unit."""
    nodes = soak.broker.nodes if soak.broker else ()
    found = [places.get(node) or places.get(node.partition("/")[2]) for node in nodes]
    return bool(found) and all(name and not soak.engines[name].units_outlive_run for name in found)
