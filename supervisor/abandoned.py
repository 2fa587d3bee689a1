"""The runs of this host that died: which of them are to be healed, by their directory, by their soak file, or all there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import structlog

from supervisor.journal.runs import Entry, RunIndex, state_dir
from supervisor.past import CannotRecover, NoBeginning
from supervisor.recover import end_links, end_processes, recover
from supervisor.soakfile.errors import SoakFileError
from supervisor.soakfile.load import load

_log: Final = structlog.get_logger("soakd.recover")


async def recover_all(what: Path) -> list[str]:
    """Heal a run by its directory, or every dead run of a soak file; return what was done, and which runs of it live, in words.

    Each run is healed whatever becomes of the others; CannotRecover names those that could not be.
    """
    index = RunIndex(state_dir())
    directory = await anyio.to_thread.run_sync(lambda: what.resolve() if what.is_dir() else None)
    dead, living = await anyio.to_thread.run_sync(index.abandoned), list[str]()
    if directory is None:
        dead, living = await anyio.to_thread.run_sync(_of_file, what, index, dead)
    else:
        dead = [entry for entry in dead if entry.run_dir == directory]
        if not dead:
            return await recover(directory) or [f"{what}: nothing was left to heal"]
    done, failed = list[str](), list[str]()
    for entry in dead:
        try:
            lines = await _heal_entry(entry)
        except CannotRecover as error:
            lines = list(error.done)
            failed.append(str(error))
        done += lines if directory or not lines else [f"{entry.run_dir}:", *lines]
    if failed:
        raise CannotRecover("\n".join(failed), done)
    return [*(done or [f"{what}: nothing was left to heal"]), *living]


def _of_file(file: Path, index: RunIndex, dead: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the dead runs that were started with a soak file or are of the same soak, and what is to be said of the living ones.

    A file that is wrong by now leads to its own runs all the same: these are healed by their copy of it. SoakFileError if it has none.
    """
    found = [entry for entry in dead if entry.source == str(file.resolve())]
    living = index.living(source=file)
    try:
        soak = load(file).soak.soak
    except SoakFileError:
        if not (found or living):
            raise
    else:
        found = [entry for entry in dead if entry in found or entry.soak == soak]
        living = [*dict.fromkeys([*living, *index.living(soak)])]
    return found, _left_alone(index, living)


def _left_alone(index: RunIndex, living: Sequence[Path]) -> list[str]:
    """Say which runs live: nobody shall take "nothing was left" for "nothing is there"."""
    pids = {directory: index.alive(directory) for directory in living}
    return [
        f"{one}: left alone: the run goes on; end it with `kill {pid}`" for one, pid in pids.items() if pid
    ]


async def _heal_entry(entry: Entry) -> list[str]:
    """Heal a dead run of the index and take it out; return what was done, in words."""
    try:
        done = await recover(entry.run_dir)
    except NoBeginning as error:
        # Nothing is started or injected before the beginning is on disk. Should the journal be gone: processes carry the run's id.
        done = [f"ended {await end_processes(entry.run_id)} processes; there is no more to go by: {error}"]
        done += await end_links(entry.run_id)
    try:
        await anyio.to_thread.run_sync(entry.leave)
    except OSError as error:
        raise CannotRecover(f"cannot take {entry.run_id} out of the index: {error}") from error
    return done


async def heal_abandoned(index: RunIndex) -> None:
    """Heal every run of this host that is dead and has not been healed. What cannot be healed is said and kept for later."""
    for entry in await anyio.to_thread.run_sync(index.abandoned):
        await heal(entry)


async def heal(entry: Entry) -> bool:
    """Heal one abandoned run of the index; say whether nothing is left to do."""
    started = time.monotonic()
    try:
        done = await _heal_entry(entry)
    except CannotRecover as error:
        _log.error("a run that died could not be healed", run=entry.run_id, why=str(error))
        return False
    took = round(time.monotonic() - started, 2)
    _log.warning("healed a run that died", run=entry.run_id, run_dir=str(entry.run_dir), done=done, took=took)
    return True
