"""What a run takes before it begins: the locks of its units, its directory with a journal, its entry in the index."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread

from supervisor.journal.base import JournalError
from supervisor.journal.files import write_atomically
from supervisor.journal.runs import Entry, Locked, RunIndex, create_run_dir, state_dir
from supervisor.journal.writer import JournalWriter, open_journal
from supervisor.lifetimes import CannotStart
from supervisor.soakfile.load import Loaded


@asynccontextmanager
async def claimed(
    index: RunIndex, loaded: Loaded, root: Path, report: int | None
) -> AsyncGenerator[tuple[str, Path]]:
    """Lock the units, make a run directory under `root` and enter the run into the index, so that its death can be healed.

    Yields the run's id and directory. `report`: the descriptor on which the guardian is told the directory, if there is one.
    CannotStart if another run has the units, or if a directory cannot be used.
    """
    soak = loaded.soak
    run_id = f"{soak.soak}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    # Units that outlive a run may be wanted from another host too: their engine locks them itself, when it is opened.
    keys = [
        f"{engine}/{soak.soak}/{name}"
        for engine, kind in soak.engines.items()
        if not kind.units_outlive_run
        for name in kind.unit_names()
    ]

    in_state = partial(
        _refused, f"cannot use the state directory {state_dir()}", "set SOAKD_STATE_DIR to another"
    )
    in_root = partial(
        _refused, f"cannot make a run directory under {root}", "name another place with --run-dir"
    )

    def claim() -> tuple[AsyncExitStack, Path, Entry]:
        held = AsyncExitStack()
        with in_state():
            held.callback(index.lock(keys, run_id).release)
        with in_root():
            directory = create_run_dir(root, soak.soak, time.time())
            write_atomically(directory / "soak.yaml", loaded.resolved.encode())
        with in_state():
            return held, directory, index.enter(run_id, directory, soak.soak, loaded.path)

    _check_path(loaded.path)
    _check_path(root)
    held, directory, entry = await anyio.to_thread.run_sync(claim)
    if report is not None:
        os.write(report, f"run-dir {directory}\n".encode())
    async with held:
        try:
            yield run_id, directory
        except CannotStart:
            await anyio.to_thread.run_sync(entry.leave)
            raise
        # Only a run that ended in order leaves the index; after anything else somebody has to look for what is left.
        await anyio.to_thread.run_sync(entry.leave)


@contextmanager
def _refused(what: str, instead: str) -> Generator[None]:
    try:
        yield
    except Locked as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"{what}: {error.strerror or error}; free some space or {instead}") from error


def _check_path(path: Path) -> None:
    """Refuse a path that cannot be told in one line: the guardian, the journal and the index have to name it."""
    path = path.absolute()
    if not str(path).isprintable():
        raise CannotStart(
            f"cannot use {str(path)!r}: choose a path without line breaks and the like, in UTF-8"
        )


@asynccontextmanager
async def opened(directory: Path) -> AsyncGenerator[JournalWriter]:
    """Open the journal of a new run."""
    async with AsyncExitStack() as stack:
        try:
            journal = await stack.enter_async_context(open_journal(directory))
        except JournalError as error:
            raise CannotStart(f"{error}; free some space or name another place with --run-dir") from error
        yield journal
